"""Write an edited model with the record of its edits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from langedit.editing.config import EditConfig
from langedit.editing.prefixes import Prefixes
from langedit.editing.report import BatchReport
from langedit.errors import OutputError
from langedit.models import EditableModel, save_weights

RECORD = "langedit.json"
"""File beside the checkpoint; it is written last, so that a folder with it is complete."""


def save_edited(
    folder: Path,
    model: EditableModel,
    config: EditConfig,
    prefixes: Prefixes,
    reports: Sequence[BatchReport],
) -> None:
    """Write model, tokenizer and record into a new or empty folder.

    Raises:
        OutputError: the folder is not empty, is a file, or cannot be written.
    """
    record = {
        "langedit": version("langedit"),
        "config": config.model_dump(mode="json"),
        "prefixes": {language: list(texts) for language, texts in prefixes.items()},
        "batches": [report.to_dict() for report in reports],
    }
    try:
        _claim(folder)
        save_weights(model.model, folder)
        model.tokenizer.save_pretrained(folder)
        text = json.dumps(record, ensure_ascii=False, indent=2)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: expected a writable folder, got an error: {error}") from error


def _claim(folder: Path) -> None:
    """Make the folder, or take it if it is empty."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: expected a folder, got a file: choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"{folder}: expected a new or empty folder, got one with files: choose another, or "
            "empty it yourself"
        )
    folder.mkdir(parents=True, exist_ok=True)
