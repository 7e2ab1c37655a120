"""Write an edited model with the record of its edits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from langedit.editing.record import (
    EditedBatch,
    EditedLayer,
    EditedModelRecord,
    Score,
    split_scores,
)
from langedit.editing.record_files import write_record
from langedit.folders import whole_folder
from langedit.models import EditableModel, ModelIdentity, save_weights

if TYPE_CHECKING:
    from langedit.editing.editor import Editor

SUMMARY = "langedit.json"
"""File beside the checkpoint, for people: settings, prefixes, and what each batch did."""

RECORD = "langedit/edits.safetensors"
"""The updates themselves, from which the edited model can be exported in other forms.

In a folder of its own, since some programs take every safetensors file beside a model's
configuration for its weights.
"""


def make_record(
    editor: Editor, base: ModelIdentity, scores: Sequence[Score] | None
) -> EditedModelRecord:
    """The base model and all updates in the editor's model.

    Args:
        editor: holds the edited model.
        base: the model before the first batch.
        scores: of the facts of all batches, in order.

    Raises:
        RecordError: there is not one score for each fact.
    """
    config, reports = editor.config, editor.reports
    dealt = split_scores([report.facts for report in reports], scores)
    batches = [
        EditedBatch(
            number=number,
            facts=report.facts,
            updates=report.updates,
            rows=report.rows,
            keys=report.keys,
            scores=own,
        )
        for number, (report, own) in enumerate(zip(reports, dealt, strict=True))
    ]
    return EditedModelRecord(
        base=base,
        dtype=stored_dtype(editor.model, config.layers[0]),
        layers=edited_layers(editor),
        method=config.method,
        structure=config.structure,
        settings=config.model_dump(mode="json"),
        batches=tuple(batches),
    )


def edited_layers(editor: Editor) -> dict[int, EditedLayer]:
    """Layer -> where its edited weight is."""
    model = editor.model
    return {
        layer: EditedLayer(
            weight_name=model.weight_name(layer), transposed=model.stores_transposed(layer)
        )
        for layer in editor.config.edited_layers
    }


def stored_dtype(model: EditableModel, layer: int) -> str:
    """Precision in which a layer's edited weight is stored, as records name it."""
    return str(model.stored_dtype(layer)).removeprefix("torch.")


def save_edited(folder: Path, editor: Editor, scores: Sequence[Score] | None) -> None:
    """Write model, tokenizer, summary and record into a new or empty folder.

    Raises:
        OutputError: the folder is not empty, is a file, or cannot be written.
        RecordError: there is not one score for each fact.
    """
    record = editor.record(scores)
    summary = {
        "langedit": version("langedit"),
        "config": editor.config.model_dump(mode="json"),
        "prefixes": {language: list(texts) for language, texts in editor.prefixes.items()},
        "batches": [report.to_dict() for report in editor.reports],
    }
    with whole_folder(folder) as whole:
        save_weights(editor.model.model, whole)
        editor.model.tokenizer.save_pretrained(whole)
        write_record(whole / RECORD, record, keys=True)
        text = json.dumps(summary, ensure_ascii=False, indent=2)
        (whole / SUMMARY).write_text(text + "\n", encoding="utf-8")
