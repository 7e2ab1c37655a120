"""Which edits of a record are exported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from langedit.editing import EditedBatch, EditedModelRecord
from langedit.errors import RecordError
from langedit.facts import Language
from langedit.linalg import LowRankUpdate


def select_edits(
    record: EditedModelRecord,
    batches: Collection[int] | None = None,
    languages: Collection[str] | None = None,
) -> EditedModelRecord:
    """Return the record of some batches, or of the facts of some languages, or of both.

    Of a batch of several languages the columns and rows of the factors that belong to the facts
    wanted are taken; a row that several facts share goes with any of them. No solve was ever made
    for such a selection: the rest of the batch was solved for together with it, and later batches
    were edited into a model that had all earlier ones. The scores of the record do not hold for it
    either and are dropped.

    Args:
        record: all edits.
        batches: numbers of the batches wanted; `None` for all.
        languages: language codes wanted; `None` for all.

    Raises:
        RecordError: a batch or a language is not in the record, nothing is left, or part of a batch
            is wanted whose factors do not belong to single facts.
    """
    kept = list(record.batches)
    if batches is not None:
        _require(set(batches), {batch.number for batch in kept}, "batches")
        kept = [batch for batch in kept if batch.number in batches]
    if languages is not None:
        codes = {Language.parse(language).code for language in languages}
        _require(codes, set(record.languages), "languages")
        parts = [_of_languages(batch, codes) for batch in kept]
        kept = [part for part in parts if part is not None]
    if not kept:
        raise RecordError("expected at least one edit to export, got none: select others")
    chosen = sum(len(batch.facts) for batch in kept)
    if chosen == len(record.facts):
        return record
    words = f"{chosen} of {len(record.facts)} facts"
    if languages is not None:
        words += f", languages {', '.join(sorted(codes))}"
    if batches is not None:
        words += f", batches {', '.join(map(str, sorted(set(batches))))}"
    if record.selection is not None:
        words += f"; chosen from {record.selection}"
    unscored = tuple(replace(batch, scores=None) for batch in kept)
    return replace(record, batches=unscored, selection=words)


def split_languages(record: EditedModelRecord) -> dict[str, EditedModelRecord]:
    """Return the record of each language by itself. Their updates add up to those of the whole.

    Raises:
        RecordError: as `select_edits`.
    """
    return {code: select_edits(record, languages=[code]) for code in record.languages}


def _of_languages(batch: EditedBatch, codes: set[str]) -> EditedBatch | None:
    """The part of a batch that is in some languages; `None` if there is none."""
    places = [i for i, fact in enumerate(batch.facts) if fact.language in codes]
    if len(places) == len(batch.facts) or not places:
        return batch if places else None
    if not batch.by_fact:
        raise RecordError(
            f"batch {batch.number} has facts in {', '.join(batch.languages)}, and its method gives "
            "no fact a part of the update of its own: select all of its languages, or edit one "
            "language a batch"
        )
    rows = sorted({batch.rows[i] for i in places})
    return replace(
        batch,
        facts=tuple(batch.facts[i] for i in places),
        updates={
            layer: LowRankUpdate(left=update.left[:, rows], right=update.right[rows])
            for layer, update in batch.updates.items()
            if isinstance(update, LowRankUpdate)
        },
        rows=tuple(rows.index(batch.rows[i]) for i in places),
        keys=_rows_of(batch.keys, rows),
    )


def _rows_of(keys: Mapping[int, Tensor] | None, rows: list[int]) -> Mapping[int, Tensor] | None:
    return None if keys is None else {layer: own[rows] for layer, own in keys.items()}


def _require(wanted: set[int] | set[str], there: set[int] | set[str], what: str) -> None:
    missing = sorted(map(str, wanted - there))
    if missing:
        raise RecordError(
            f"{what}: expected some of {', '.join(map(str, sorted(there)))}, got "
            f"{', '.join(missing)}"
        )
