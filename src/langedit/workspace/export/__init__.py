"""An edited model in the forms in which others use it: checkpoint, adapter, delta."""

from langedit.workspace.export.adapter import export_adapter
from langedit.workspace.export.base import BaseSource, load_base
from langedit.workspace.export.delta import apply_delta, export_delta, open_record
from langedit.workspace.export.ledger_record import record_of_workspace
from langedit.workspace.export.merged import export_merged
from langedit.workspace.export.outcome import ExportOutcome, Loss
from langedit.workspace.export.selection import select_edits, split_languages

__all__ = [
    "BaseSource",
    "ExportOutcome",
    "Loss",
    "apply_delta",
    "export_adapter",
    "export_delta",
    "export_merged",
    "load_base",
    "open_record",
    "record_of_workspace",
    "select_edits",
    "split_languages",
]
