"""Export as a plain checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from langedit.editing import EditedModelRecord
from langedit.folders import whole_folder
from langedit.models import values_of
from langedit.workspace.export.base import BaseSource, add_edits, load_base
from langedit.workspace.export.card import write_card
from langedit.workspace.export.checkpoint import write_checkpoint
from langedit.workspace.export.outcome import ExportOutcome, with_scores
from langedit.workspace.export.selection import select_edits


def export_merged(
    record: EditedModelRecord,
    folder: str | Path,
    *,
    base: BaseSource | None = None,
    batches: Collection[int] | None = None,
    languages: Collection[str] | None = None,
) -> ExportOutcome:
    """Write the edited model as a checkpoint that plain transformers loads, with a model card.

    The files of the base model are copied; only the edited weights differ from them. These are the
    base's plus all updates, summed in float32 in the order of the batches and rounded once.

    Args:
        record: the base model and its updates.
        folder: new or empty; it appears when it is complete.
        base: where the base model is, if not where the record says.
        batches: numbers of the batches to export; `None` for all.
        languages: languages of the facts to export; `None` for all.

    Raises:
        RecordError: the base has other weights, or the selection cannot be made.
        LangEditError: the base cannot be loaded, or the folder not be written.
    """
    chosen = select_edits(record, batches, languages)
    with whole_folder(Path(folder)) as whole:
        model = load_base(chosen, base)
        names = [where.weight_name for where in chosen.layers.values()]
        before = {
            name: values_of(model.model, name, model.model.get_parameter(name)).clone()
            for name in names
        }
        add_edits(model, chosen)
        copied = write_checkpoint(whole, model, before)
        outcome = ExportOutcome(
            kind="merged",
            folder=Path(folder),
            record=with_scores(chosen, base, model),
            rewritten=not copied,
        )
        write_card(whole, outcome)
    return outcome
