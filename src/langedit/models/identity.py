"""What a set of weights is called, so that results are never mixed up between models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langedit.errors import ModelError
from langedit.models.quantised import quantised_modules, stored_tensors

_CHUNK = 1 << 22  # values hashed at a time: 16 MiB of float32


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights these are and where they came from.

    Attributes:
        weights_hash: `weights_hash` of the parameters; two models with equal hashes are equal.
        revision: the revision asked for when loading, if any.
        source: hub id or folder as it was given; for people, never compared.
    """

    weights_hash: str
    revision: str | None
    source: str


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hexadecimal) over the names, shapes and float32 values of all parameters.

    Parameters come in the order of their names; tied ones count once; buffers are left out, since
    they follow from the configuration. The stored precision is left out too: a bfloat16 checkpoint
    has one hash whether it was loaded as bfloat16 or as float32. Of quantised linear modules
    everything counts that they store, bit for bit.

    Raises:
        ModelError: a parameter has no values (meta device or offloaded).
    """
    digest = hashlib.sha256()
    quantised = quantised_modules(model)
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        if name.rpartition(".")[0] in quantised:
            continue
        if parameter.is_meta:
            raise ModelError(
                f"cannot hash {name}: it is on the meta device (offloaded, or never loaded); "
                "load the model without offloading"
            )
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        _hash_values(digest, parameter.detach())
    for name, module in sorted(quantised.items(), key=lambda item: item[0]):
        for key, stored in stored_tensors(name, module):
            digest.update(f"{key} {tuple(stored.shape)} {stored.dtype}\n".encode())
            digest.update(stored.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_values(digest: hashlib._Hash, values: Tensor) -> None:
    """Feed the values, as little-endian float32, a chunk at a time."""
    flat = values.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        floats = flat[start : start + _CHUNK].to(device="cpu", dtype=torch.float32)
        digest.update(floats.numpy().astype("<f4", copy=False).data)
