"""What an export wrote, and the scores that hold for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langedit.editing import EditedModelRecord
from langedit.evaluation import FactScore, score_facts
from langedit.models import EditableModel
from langedit.workspace.export.base import BaseSource, add_edits, load_base

Kind = Literal["merged", "adapter", "delta"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """What a compressed adapter lacks.

    Attributes:
        rank: rank of the exact adapter.
        layers: layer -> root mean square of the error at corpus and edited keys, relative to what
            the update does to them.
        exact: scores of the facts with the exact updates.
    """

    rank: int
    layers: Mapping[int, float]
    exact: tuple[FactScore, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportOutcome:
    """What an export wrote.

    Attributes:
        kind: merged, adapter or delta.
        folder: where it is.
        record: the edits in it, with the scores that hold for it.
        rank: of an adapter.
        loss: what was lost to a smaller rank; `None` if the export is exact.
        rewritten: whether transformers wrote a merged checkpoint anew, where the files of the
            source could not be copied.
    """

    kind: Kind
    folder: Path
    record: EditedModelRecord
    rank: int | None = None
    loss: Loss | None = None
    rewritten: bool = False

    @property
    def scores(self) -> tuple[FactScore, ...]:
        """Scores of all facts, in order."""
        return fact_scores(self.record)


def fact_scores(record: EditedModelRecord) -> tuple[FactScore, ...]:
    """The scores of a record with the languages of their facts; empty where it has none."""
    found = record.scores or ()
    return tuple(
        FactScore(language=fact.language, **score)
        for fact, score in zip(record.facts, found, strict=False)
    )


def with_scores(
    record: EditedModelRecord, base: BaseSource | None, model: EditableModel | None = None
) -> EditedModelRecord:
    """The record with scores: its own, or else those that its edits have in the base model.

    Args:
        record: the edits.
        base: where the base model is.
        model: the edited model, where it is loaded already.

    Raises:
        LangEditError: as `load_base`.
    """
    if record.scores is not None:
        return record
    if model is None:
        model = load_base(record, base)
        add_edits(model, record)
    return record.with_scores([score.shares() for score in score_facts(model, record.facts)])
