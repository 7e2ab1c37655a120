"""A batch's report as a file of tensors and a few figures, and back, bit for bit.

Tensors go into one safetensors file: keys, update and basis growth by layer, and the targets.
Everything small is JSON in the ledger. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from langedit.editing import BatchReport, Change, LayerState, RankUse, Targets, UpdateNorm
from langedit.editing.state import basis_growth
from langedit.editing.target_loss import LossTerms
from langedit.errors import LangEditError, NumericalError, WorkspaceError
from langedit.facts import Fact
from langedit.linalg import keep_edits, update_from, update_tensors

FORMAT = "langedit-batch-1"
_LOSSES = tuple(field.name for field in fields(LossTerms))


def batch_bytes(
    report: BatchReport,
    before: Mapping[int, LayerState],
    after: Mapping[int, LayerState],
    base: str,
) -> bytes:
    """The tensors of a batch as a safetensors file.

    Args:
        report: the batch.
        before: layer -> state before it.
        after: layer -> state after it.
        base: hash of the model that is edited; the file is refused with another.
    """
    tensors: dict[str, Tensor] = {}
    for layer, update in report.updates.items():
        _, parts = update_tensors(update)
        tensors[f"{layer}.keys"] = report.keys[layer]
        tensors |= {f"{layer}.update.{name}": part for name, part in parts.items()}
        growth = basis_growth(before[layer], after[layer])
        if growth is not None and growth.shape[1]:
            tensors[f"{layer}.growth"] = growth
    if report.targets is not None:
        tensors |= _target_tensors(report.targets)
    stored = {name: own.detach().cpu().contiguous() for name, own in tensors.items()}
    said = json.dumps({"format": FORMAT, "base": base})
    return save(stored, metadata={"langedit": said})  # one entry: several come in any order


def report_figures(report: BatchReport) -> dict[str, Any]:
    """The rest of a report as JSON-able values."""
    return {
        "kinds": {str(layer): update_tensors(own)[0] for layer, own in report.updates.items()},
        "rows": list(report.rows),
        "losses": list(report.losses),
        "prefixes": {language: list(texts) for language, texts in report.prefixes.items()},
        "independence": {
            str(layer): {language: asdict(change) for language, change in own.items()}
            for layer, own in report.independence.items()
        },
        "corpus_change": {
            str(layer): None if own is None else asdict(own)
            for layer, own in report.corpus_change.items()
        },
        "ranks": {
            str(layer): None if own is None else asdict(own) for layer, own in report.ranks.items()
        },
        "norms": {str(layer): asdict(own) for layer, own in report.norms.items()},
        "seconds": dict(report.seconds),
    }


def read_report(
    content: bytes, figures: Mapping[str, Any], facts: Sequence[Fact], base: str
) -> BatchReport:
    """Put a report together again.

    Args:
        content: as `batch_bytes` made it; its hash was checked.
        figures: as `report_figures` made them.
        facts: the batch.
        base: hash of the model that is edited.

    Raises:
        WorkspaceError: the file is of another model or format, or the parts do not fit together.
    """
    tensors = _read_tensors(content, base)
    try:
        kinds = {int(layer): kind for layer, kind in figures["kinds"].items()}
        keys = {layer: tensors[f"{layer}.keys"] for layer in kinds}
        updates = {layer: update_from(kind, _of(tensors, layer)) for layer, kind in kinds.items()}
        rows = tuple(map(int, figures["rows"]))
        if len(rows) != len(facts) or set(rows) != set(range(len(set(rows)))):
            raise ValueError(f"there are {len(facts)} facts, but not a row for each")
        if any(len(own) != len(set(rows)) for own in keys.values()):
            raise ValueError(f"there are {len(set(rows))} rows, but another number of keys")
        return BatchReport(
            facts=tuple(facts),
            rows=rows,
            losses=tuple(map(float, figures["losses"])),
            updates=updates,
            keys=keys,
            prefixes={name: tuple(texts) for name, texts in figures["prefixes"].items()},
            targets=_targets(tensors),
            independence={
                int(layer): {language: Change(**own) for language, own in changes.items()}
                for layer, changes in figures["independence"].items()
            },
            corpus_change=_by_layer(figures["corpus_change"], Change),
            ranks=_by_layer(figures["ranks"], RankUse),
            norms={int(layer): UpdateNorm(**own) for layer, own in figures["norms"].items()},
            seconds=figures["seconds"],
        )
    except (LangEditError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WorkspaceError(
            f"batch: expected tensors and figures that fit together, got: {error}; restore the "
            "workspace from an archive or a copy"
        ) from error


def recorded_growth(content: bytes, base: str) -> dict[int, Tensor]:
    """Layer -> columns that the batch added to the forbidden basis, where it grew."""
    tensors = _read_tensors(content, base)
    return {
        int(name.removesuffix(".growth")): own
        for name, own in tensors.items()
        if name.endswith(".growth")
    }


def without_facts(report: BatchReport, dropped: Sequence[int]) -> BatchReport:
    """A report of the same batch as if some of its facts had never been in it.

    Raises:
        NumericalError: the update cannot be taken apart by facts.
    """
    gone = set(dropped)
    kept = [i for i in range(len(report.facts)) if i not in gone]
    rows = sorted({report.rows[i] for i in kept})
    if any(report.rows[i] in rows for i in gone):
        raise NumericalError(
            "batch: expected facts with keys of their own, to take some of them out, got one that "
            "shares its key with a fact that stays (merge_shared): undo the whole batch instead"
        )
    size, index = len(set(report.rows)), torch.tensor(rows, dtype=torch.int64)
    return replace(
        report,
        facts=tuple(report.facts[i] for i in kept),
        rows=tuple(rows.index(report.rows[i]) for i in kept),
        updates={layer: keep_edits(own, rows, size) for layer, own in report.updates.items()},
        keys={layer: own[index.to(own.device)] for layer, own in report.keys.items()},
        targets=None if report.targets is None else _some_targets(report.targets, index),
    )


def _read_tensors(content: bytes, base: str) -> dict[str, Tensor]:
    try:
        size = int.from_bytes(content[:8], "little")
        said = json.loads(content[8 : 8 + size])["__metadata__"]["langedit"]
        header = json.loads(said)
        found = load(content)
        came = str(header.get("format")), str(header.get("base"))
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WorkspaceError(
            f"artefact: expected the tensors of a batch, got: {error}; restore the workspace from "
            "an archive or a copy"
        ) from error
    if came != (FORMAT, base):
        raise WorkspaceError(
            f"artefact: expected the tensors of a batch ({FORMAT}) of the model {base[:12]}, got "
            f"{came[0][:40]!r} of {came[1][:12]!r}: it belongs to another workspace"
        )
    # A copy each: where a tensor lies in memory can decide how a product is rounded.
    return {name: own.clone() for name, own in found.items()}


def _of(tensors: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    start = f"{layer}.update."
    return {
        name.removeprefix(start): own for name, own in tensors.items() if name.startswith(start)
    }


def _by_layer(figures: Mapping[str, Any], kind: Any) -> dict[int, Any]:
    return {int(layer): None if own is None else kind(**own) for layer, own in figures.items()}


def _target_tensors(targets: Targets) -> dict[str, Tensor]:
    return {
        "targets.target_hidden": targets.target_hidden,
        "targets.initial_hidden": targets.initial_hidden,
        "targets.steps": targets.steps,
        "targets.first": torch.stack([getattr(targets.first, name) for name in _LOSSES]),
        "targets.last": torch.stack([getattr(targets.last, name) for name in _LOSSES]),
    }


def _targets(tensors: Mapping[str, Tensor]) -> Targets | None:
    if "targets.target_hidden" not in tensors:
        return None
    return Targets(
        target_hidden=tensors["targets.target_hidden"],
        initial_hidden=tensors["targets.initial_hidden"],
        steps=tensors["targets.steps"],
        first=LossTerms(**dict(zip(_LOSSES, tensors["targets.first"], strict=True))),
        last=LossTerms(**dict(zip(_LOSSES, tensors["targets.last"], strict=True))),
    )


def _some_targets(targets: Targets, rows: Tensor) -> Targets:
    def some(tensor: Tensor) -> Tensor:
        return tensor[rows.to(tensor.device)]

    return Targets(
        target_hidden=some(targets.target_hidden),
        initial_hidden=some(targets.initial_hidden),
        steps=some(targets.steps),
        first=LossTerms(**{name: some(getattr(targets.first, name)) for name in _LOSSES}),
        last=LossTerms(**{name: some(getattr(targets.last, name)) for name in _LOSSES}),
    )
