"""Eigendecompositions of second moments, kept beside them.

One file a layer, `layer-004.spectrum.safetensors`, as large as the moment in float64. It is made
when a layer's decomposition is first needed, which for a wide layer takes minutes. It names the
hash of the moment that it belongs to, and is tried on that moment before it is used.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from langedit.editing.tensor_file import TensorFileKind, read_tensor_file, write_tensor_file
from langedit.errors import MomentsError, OutputError
from langedit.linalg import SecondMoment, Spectrum

_KIND = TensorFileKind(format="langedit-spectrum-1", advice="It is made anew", error=MomentsError)


def spectrum_path(folder: Path, layer: int) -> Path:
    """Return the file of a layer, `layer-004.spectrum.safetensors`."""
    return folder / f"layer-{layer:03d}.spectrum.safetensors"


def with_spectrum(moment: SecondMoment, folder: Path, layer: int) -> SecondMoment:
    """Return a layer's moment with its eigendecomposition, read from a folder or made and kept.

    What the file holds can be computed: one that is damaged or of another moment is replaced, and
    where the folder cannot be written there is none.

    Args:
        moment: On the device that shall decompose it.
        folder: Where the moment was read from.
        layer: Layer number.
    """
    path = spectrum_path(folder, layer)
    wanted = _hash(moment.mean)
    found = _read(path, wanted)
    if found is not None:
        found = found.to(moment.mean.device)
        if found.fits(moment.mean):
            return moment.with_spectrum(found)
    made = Spectrum.of(moment.mean)
    tensors = {"eigenvalues": made.eigenvalues, "eigenvectors": made.eigenvectors}
    with suppress(OutputError):  # moments that are read-only are no fault
        write_tensor_file(path, _KIND, tensors, {"moment": wanted})
    return moment.with_spectrum(made)


def _read(path: Path, wanted: str) -> Spectrum | None:
    """The decomposition in a file, unless there is none of this moment."""
    if not path.is_file():
        return None
    try:
        metadata, tensors = read_tensor_file(path, _KIND, ("eigenvalues", "eigenvectors"))
    except MomentsError:
        return None
    if metadata.get("moment") != wanted:
        return None
    return Spectrum(**tensors)


def _hash(matrix: Tensor) -> str:
    """SHA-256 over shape, type and bytes."""
    digest = hashlib.sha256(f"{tuple(matrix.shape)} {matrix.dtype}".encode())
    digest.update(matrix.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
