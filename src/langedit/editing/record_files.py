"""The safetensors file of a record: factors, and a manifest that says what they are.

It lies beside an edited checkpoint, and it is what an export as delta writes. Everything in it may
come from a stranger: shapes, names and facts are checked, and nothing in it names a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from langedit.editing.record import EditedBatch, EditedLayer, EditedModelRecord
from langedit.editing.tensor_file import TensorFileKind, read_tensor_file, write_tensor_file
from langedit.errors import FactError, LangEditError, NumericalError, OutputError, RecordError
from langedit.facts import Fact
from langedit.linalg import DenseUpdate, LowRankUpdate, Update
from langedit.models import ModelIdentity

FORMAT = "langedit-edits-1"
_LARGEST_MANIFEST = 64_000_000  # bytes; safetensors reads headers of up to 100 MB
_LONGEST_LINE = 4096
_KIND = TensorFileKind(
    format=FORMAT, advice="Copy it again, or export or edit anew", error=RecordError
)


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > _LONGEST_LINE:
        raise ValueError(f"expected a line of at most {_LONGEST_LINE} printable characters")
    return text


_Line = Annotated[str, AfterValidator(_printable)]
"""Text that is shown to people: nothing in it may drive a terminal."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Base(_Strict):
    weights_hash: str = Field(pattern="^[0-9a-f]{64}$")
    revision: _Line | None
    source: _Line


class _Layer(_Strict):
    weight_name: str
    transposed: bool


class _Score(_Strict):
    efficacy: float | None = Field(ge=0, le=1)
    generalization: float | None = Field(ge=0, le=1)
    specificity: float | None = Field(ge=0, le=1)


class _Batch(_Strict):
    number: int = Field(ge=0)
    facts: list[dict[str, Any]]
    rows: list[int]
    dense: list[int]
    scores: list[_Score] | None


class _Manifest(_Strict):
    base: _Base
    dtype: str
    layers: dict[str, _Layer]
    method: _Line
    structure: dict[str, str]
    settings: dict[str, Any]
    batches: list[_Batch]
    keys: bool
    selection: _Line | None


def write_record(path: Path, record: EditedModelRecord, *, keys: bool) -> None:
    """Write a record; the file appears complete or not at all.

    Args:
        path: the file.
        record: what to write.
        keys: whether the keys of the facts go with it; they are needed to compress an adapter.

    Raises:
        RecordError: keys are asked for, and a batch has none.
        OutputError: the file cannot be written, or the facts are too long for it.
    """
    manifest = _describe(record, keys)
    text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, sort_keys=True)
    if len(text.encode()) > _LARGEST_MANIFEST:
        raise OutputError(
            f"{path}: expected facts of at most {_LARGEST_MANIFEST:,} bytes, got "
            f"{len(text.encode()):,}: write fewer batches to one file"
        )
    software = {name: version(name) for name in ("langedit", "torch", "transformers")}
    metadata = {"manifest": text, "software": json.dumps(software, sort_keys=True)}
    write_tensor_file(path, _KIND, _tensors(record, keys), metadata)


def read_record(path: Path) -> EditedModelRecord:
    """Read and check what `write_record` wrote.

    Raises:
        RecordError: the file is missing, no record, truncated, altered since it was written, or
            contradicts itself.
    """
    if not path.is_file():
        raise _KIND.refuse(path, "a file with a record of edits", "no such file")
    metadata, tensors = read_tensor_file(path, _KIND)
    try:
        manifest = _Manifest.model_validate(json.loads(metadata.get("manifest", "")))
        return _build(manifest, tensors)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _KIND.refuse(path, "a manifest of a record", f"{place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _KIND.refuse(path, "a manifest in JSON", str(error)) from error
    except (RecordError, FactError, NumericalError) as error:
        raise _KIND.refuse(path, "a record that fits together", str(error)) from error


def _describe(record: EditedModelRecord, keys: bool) -> dict[str, Any]:
    return {
        "base": asdict(record.base),
        "dtype": record.dtype,
        "layers": {str(layer): asdict(where) for layer, where in record.layers.items()},
        "method": record.method,
        "structure": dict(record.structure),
        "settings": dict(record.settings),
        "batches": [
            {
                "number": batch.number,
                "facts": [asdict(fact) for fact in batch.facts],
                "rows": list(batch.rows),
                "dense": [n for n, u in batch.updates.items() if isinstance(u, DenseUpdate)],
                "scores": None if batch.scores is None else [dict(s) for s in batch.scores],
            }
            for batch in record.batches
        ],
        "keys": keys,
        "selection": record.selection,
    }


def _tensors(record: EditedModelRecord, keys: bool) -> dict[str, Tensor]:
    tensors = {}
    for index, batch in enumerate(record.batches):
        if keys and batch.keys is None:
            raise RecordError(f"batch {batch.number}: expected keys to write, got none")
        for layer, update in batch.updates.items():
            if isinstance(update, DenseUpdate):
                tensors[_name(index, layer, "matrix")] = update.matrix
            else:
                tensors[_name(index, layer, "left")] = update.left
                tensors[_name(index, layer, "right")] = update.right
            if keys and batch.keys is not None:
                tensors[_name(index, layer, "keys")] = batch.keys[layer]
    return tensors


def _build(manifest: _Manifest, tensors: Mapping[str, Tensor]) -> EditedModelRecord:
    layers = {_layer_number(text): where for text, where in manifest.layers.items()}
    expected = {
        _name(index, layer, part)
        for index, batch in enumerate(manifest.batches)
        for layer in layers
        for part in _parts(layer, batch, manifest.keys)
    }
    if expected != tensors.keys():
        odd = sorted(expected ^ tensors.keys())
        raise RecordError(
            f"expected the tensors of {len(manifest.batches)} batches and {len(layers)} layers, "
            f"and no others; {len(odd)} are missing or too many, such as {odd[0][:100]!r}"
        )
    wrong = [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]
    if wrong:
        raise RecordError(f"{wrong[0]}: expected float32, got {tensors[wrong[0]].dtype}")
    return EditedModelRecord(
        base=ModelIdentity(**manifest.base.model_dump()),
        dtype=manifest.dtype,
        layers={layer: EditedLayer(**where.model_dump()) for layer, where in layers.items()},
        method=manifest.method,
        structure=manifest.structure,
        settings=manifest.settings,
        batches=tuple(
            _build_batch(index, batch, list(layers), tensors, manifest.keys)
            for index, batch in enumerate(manifest.batches)
        ),
        selection=manifest.selection,
    )


def _build_batch(
    index: int, batch: _Batch, layers: list[int], tensors: Mapping[str, Tensor], keys: bool
) -> EditedBatch:
    scores = None
    if batch.scores is not None:
        scores = tuple(score.model_dump() for score in batch.scores)
    return EditedBatch(
        number=batch.number,
        facts=tuple(_fact(fields) for fields in batch.facts),
        updates={layer: _update(index, layer, batch, tensors) for layer in layers},
        rows=tuple(batch.rows),
        keys={layer: tensors[_name(index, layer, "keys")] for layer in layers} if keys else None,
        scores=scores,
    )


def _parts(layer: int, batch: _Batch, keys: bool) -> tuple[str, ...]:
    """The tensors of a layer of a batch."""
    update = ("matrix",) if layer in batch.dense else ("left", "right")
    return (*update, "keys") if keys else update


def _update(index: int, layer: int, batch: _Batch, tensors: Mapping[str, Tensor]) -> Update:
    parts = {part: tensors[_name(index, layer, part)] for part in _parts(layer, batch, False)}
    return DenseUpdate(**parts) if layer in batch.dense else LowRankUpdate(**parts)


def _fact(fields: Mapping[str, Any]) -> Fact:
    try:
        return Fact(**fields)
    except TypeError as error:
        raise RecordError(f"a fact has other fields than expected: {error}") from error
    except LangEditError as error:
        raise RecordError(f"a fact cannot be used: {error}") from error


def _layer_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and text == str(int(text))):
        raise RecordError(f"layers: expected numbers from 0, got {text[:100]!r}")
    return int(text)


def _name(index: int, layer: int, part: str) -> str:
    return f"batch-{index:05d}.layer-{layer:03d}.{part}"
