"""A safetensors file that says what it is and carries its own checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from langedit.errors import LangEditError, OutputError


@dataclass(frozen=True, kw_only=True)
class TensorFileKind:
    """A kind of file, and how its faults are told.

    Attributes:
        format: Name and version, kept in the file's metadata.
        advice: What to do about a file that is refused.
        error: Class of the error.
    """

    format: str
    advice: str
    error: type[LangEditError]

    def refuse(self, path: Path, expected: str, came: str) -> LangEditError:
        """Return the error about a file that is not as it should be."""
        return self.error(
            f"{path}: expected {expected}, got {came}; the file is not used. {self.advice}"
        )


def write_tensor_file(
    path: Path, kind: TensorFileKind, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file under a temporary name, force it to disk, and rename it.

    Raises:
        OutputError: When the file cannot be written; nothing is left behind.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"format": kind.format, **metadata}
    described["sha256"] = _checksum(described, stored)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(stored, temporary, metadata=described)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path}: cannot be written ({error}); choose a folder with enough room"
        ) from error
    finally:
        with suppress(OSError):  # it must not hide the error above
            temporary.unlink(missing_ok=True)


def read_tensor_file(
    path: Path, kind: TensorFileKind, names: Collection[str] | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors, and see that they are as they were written.

    Args:
        path: The file.
        kind: What it must be.
        names: The tensors that it must hold; None for whatever it holds.

    Raises:
        LangEditError: As `kind` says, when the file is not one of its kind and version, truncated,
            or altered since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != kind.format:
                came = f"format {metadata.get('format')!r}"
                raise kind.refuse(path, f"format {kind.format!r}", came)
            found = list(file.keys())
            if names is not None and set(names) != set(found):
                raise kind.refuse(path, f"tensors {', '.join(names)}", ", ".join(found))
            tensors = {name: file.get_tensor(name) for name in found}
    except (SafetensorError, OSError) as error:
        raise kind.refuse(path, "a complete safetensors file", str(error)) from error
    came = metadata.pop("sha256", "none")
    computed = _checksum(metadata, tensors)
    if came != computed:
        raise kind.refuse(path, f"contents with checksum {came[:12]}", f"checksum {computed[:12]}")
    return metadata, tensors


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the metadata and the names, shapes, types and bytes of the tensors."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
