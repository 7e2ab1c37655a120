"""A checkpoint in which a few weights are others and nothing else differs.

The files of the source are copied, and the bytes of the edited weights are overwritten in place:
the same shards, the same order, the same precision, tied weights as they were.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from langedit.editing.export import SUMMARY
from langedit.errors import ModelError
from langedit.models import EditableModel, save_weights, values_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICEN[CS]E*", "NOTICE*", "USE_*")
_NOT_COPIED = (SUMMARY, "report.json", "*.index.json", "adapter_*")
_SHARD = "5GB"


def write_checkpoint(folder: Path, model: EditableModel, before: Mapping[str, Tensor]) -> bool:
    """Write an edited model into a folder that is there.

    Args:
        folder: where the files go.
        model: the edited model, whose source is a folder or a hub model.
        before: name of each edited weight -> its values as loaded, before the edits.

    Returns:
        Whether the source's files were copied and changed. False where they cannot be, since they
        are not safetensors, name their weights otherwise than is known here, or have another
        precision than the model in memory; transformers then writes all files anew.

    Raises:
        ModelError: a file of the source is damaged.
        OSError: a file cannot be written.
    """
    source = _source_folder(model)
    places = _find_weights(source, before) if source is not None else None
    if source is None or places is None:
        save_weights(model.model, folder, max_shard_size=_SHARD)
        model.tokenizer.save_pretrained(folder)
        return False
    for path in _files_to_copy(source):
        shutil.copyfile(path, folder / path.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)
    for name, (file, stored_name) in places.items():
        after = values_of(model.model, name, model.model.get_parameter(name))
        overwrite_tensor(folder / file, stored_name, after.detach())
    return True


def overwrite_tensor(path: Path, name: str, values: Tensor) -> None:
    """Put other values in place of a tensor of a safetensors file, without moving anything else.

    Raises:
        ModelError: the file has no tensor of that name, precision and shape.
    """
    content = values.cpu().contiguous()
    raw = content.reshape(-1).view(torch.uint8).numpy().tobytes()
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry: Mapping[str, Any] = json.loads(file.read(length)).get(name, {})
        begin, end = entry.get("data_offsets", (0, -1))
        if end - begin != len(raw) or entry.get("shape") != list(content.shape):
            raise ModelError(
                f"{path}: expected {name} with shape {tuple(content.shape)} and {len(raw)} bytes, "
                f"got {entry or 'no such weight'}"
            )
        file.seek(8 + length + begin)
        file.write(raw)


def _source_folder(model: EditableModel) -> Path | None:
    """The folder that the model's files are in; for a hub model, that of the local cache."""
    source = str(model.model.config.name_or_path)
    if Path(source).is_dir():
        return Path(source)
    found = cached_file(
        source,
        "config.json",
        revision=model.revision,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found).parent


def _find_weights(source: Path, before: Mapping[str, Tensor]) -> dict[str, tuple[str, str]] | None:
    """Name of each weight -> file and name there; None unless all are there bit for bit."""
    files = _weight_files(source)
    places = {}
    for name, values in before.items():
        found = [stored for stored in _stored_names(name) if stored in files]
        if len(found) != 1:
            return None
        places[name] = (files[found[0]], found[0])
        if not _same(_read_tensor(source / files[found[0]], found[0]), values):
            return None
    return places


def _weight_files(source: Path) -> dict[str, str]:
    """Name of each stored weight -> its file; empty without safetensors."""
    try:
        if (source / INDEX).is_file():
            index = json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"]
            outside = [file for file in index.values() if Path(file).name != file]
            if outside:
                raise ModelError(f"{source / INDEX}: names the file {outside[0]!r} outside of it")
            return dict(index)
        if (source / WEIGHTS).is_file():
            with safe_open(source / WEIGHTS, framework="pt") as file:
                return dict.fromkeys(file.keys(), WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{source}: its weights cannot be read: {error}") from error
    return {}


def _stored_names(name: str) -> list[str]:
    """Names under which a checkpoint may keep a weight: with and without the model's own prefix."""
    return [name, name.partition(".")[2]]


def _read_tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: {name} cannot be read: {error}") from error
    return tensor


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal in precision, shape and every value."""
    return first.dtype == second.dtype and torch.equal(first, second)


def _files_to_copy(source: Path) -> list[Path]:
    """The weights, configuration, tokenizer and licence of a checkpoint, and nothing else."""
    shards = set(_weight_files(source).values())
    indexed = {INDEX} if (source / INDEX).is_file() else set()

    def wanted(name: str) -> bool:
        if name in shards | indexed:
            return True
        refused = any(fnmatch.fnmatchcase(name, pattern) for pattern in _NOT_COPIED)
        return not refused and any(fnmatch.fnmatchcase(name, pattern) for pattern in _COPIED)

    return sorted(path for path in source.iterdir() if path.is_file() and wanted(path.name))
