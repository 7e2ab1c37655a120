"""The record of a workspace: the edits that its ledger says are in the model."""

from __future__ import annotations

from dataclasses import replace

from langedit.editing import EditedModelRecord
from langedit.errors import WorkspaceError
from langedit.models import EditableModel
from langedit.workspace.workspace import Workspace


def record_of_workspace(workspace: Workspace, model: EditableModel) -> EditedModelRecord:
    """All batches in a workspace's model, by their numbers in its ledger; without scores.

    Args:
        workspace: open.
        model: the unedited model, freshly loaded; it is edited in place.

    Raises:
        WorkspaceError: there is no batch, it is another model, or the weights come out
            differently from what was recorded.
    """
    standing = workspace.present(workspace.ledger.history().standing())
    if not standing:
        raise WorkspaceError(
            f"{workspace.folder}: expected a batch in the model, got none: edit with langedit apply"
        )
    record = workspace.load_editor(model).record()
    numbered = zip(record.batches, standing, strict=True)
    return replace(
        record, batches=tuple(replace(batch, number=item.batch) for batch, item in numbered)
    )
