"""Export as a delta: the updates alone, which make a checkpoint of the base model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from langedit.editing import EditedModelRecord
from langedit.editing.export import RECORD
from langedit.editing.record_files import read_record, write_record
from langedit.errors import RecordError
from langedit.folders import whole_folder
from langedit.workspace.export.base import BaseSource
from langedit.workspace.export.card import write_card
from langedit.workspace.export.merged import export_merged
from langedit.workspace.export.outcome import ExportOutcome, with_scores
from langedit.workspace.export.selection import select_edits

DELTA = "delta.safetensors"


def export_delta(
    record: EditedModelRecord,
    folder: str | Path,
    *,
    base: BaseSource | None = None,
    batches: Collection[int] | None = None,
    languages: Collection[str] | None = None,
) -> ExportOutcome:
    """Write the updates as one safetensors file that says what they are, with a model card.

    The base model is loaded only where scores must be measured: for a selection, or where the
    record has none.

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
        outcome = ExportOutcome(kind="delta", folder=Path(folder), record=with_scores(chosen, base))
        write_record(whole / DELTA, outcome.record, keys=False)
        write_card(whole, outcome)
    return outcome


def apply_delta(
    base: BaseSource | str | Path, delta: str | Path, folder: str | Path
) -> ExportOutcome:
    """Make a checkpoint of a base model and a delta.

    Args:
        base: where the base model is. Where the delta says that it came from is never opened.
        delta: folder that `export_delta` wrote, or the file in it.
        folder: new or empty; it appears when it is complete.

    Raises:
        RecordError: the delta is damaged, or the base has other weights than it was made for.
        LangEditError: the base cannot be loaded, or the folder not be written.
    """
    place = base if isinstance(base, BaseSource) else BaseSource(source=str(base))
    return export_merged(open_record(delta), folder, base=place)


def open_record(source: str | Path) -> EditedModelRecord:
    """Read the record in a folder of `langedit edit`, or in a delta.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in (RECORD, DELTA) if (path / name).is_file()]
        if not found:
            raise RecordError(
                f"{path}: expected {RECORD} or {DELTA} in it, got neither: give the output folder "
                "of langedit edit, a workspace, or an export as delta. A folder that an earlier "
                "version of langedit edited has no such file: edit again"
            )
        return read_record(found[0])
    return read_record(path)
