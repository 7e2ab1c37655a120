"""What a set of weights is called, so that results are never mixed up between models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langedit.errors import ModelError, NumericalError
from langedit.models.offload import loaded, values_of
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
    has one hash whether it was loaded as bfloat16 or as float32. Nor does it matter where the
    parameters are: offloaded ones are read from where they are kept. Of quantised linear modules
    everything counts that they store, bit for bit.

    Raises:
        ModelError: a parameter has no values (it was never loaded).
        NumericalError: a value of one is not finite. Activations do not always tell: attention on
            processors makes zeros of queries that are no numbers.
    """
    digest = hashlib.sha256()
    quantised = quantised_modules(model)
    for name, parameter in sorted(_apart(model), key=lambda item: item[0]):
        if name.rpartition(".")[0] in quantised:
            continue
        values = _require_values(name, values_of(model, name, parameter))
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        _hash_values(digest, name, values.detach())
    for name, module in sorted(quantised.items(), key=lambda item: item[0]):
        with loaded(model, name):
            for key, stored in stored_tensors(name, module):
                values = _require_values(key, stored)
                digest.update(f"{key} {tuple(values.shape)} {values.dtype}\n".encode())
                digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _apart(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by name, tied ones once: also those that a device map has put apart."""
    found = dict(model.named_parameters())
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for name, parameter in found.items():
        source = found.get(tied.get(name, ""))
        if source is None or (source.device == parameter.device and not parameter.is_meta):
            yield name, parameter


def _require_values(name: str, values: Tensor) -> Tensor:
    if values.is_meta:
        raise ModelError(
            f"cannot hash {name}: it is on the meta device and was never loaded; load the "
            "model with its weights"
        )
    return values


def _hash_values(digest: hashlib._Hash, name: str, values: Tensor) -> None:
    """Feed the values, as little-endian float32, a chunk at a time."""
    flat = values.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        floats = flat[start : start + _CHUNK].to(device="cpu", dtype=torch.float32)
        if not bool(torch.isfinite(floats).all()):
            raise NumericalError(
                f"{name}: expected finite weights, got values that are not: the checkpoint is "
                f"damaged, or was stored in a precision that they overflow ({values.dtype}); take "
                "the one that it was made from"
            )
        digest.update(floats.numpy().astype("<f4", copy=False).data)
