"""Two runs and an undo in a workspace whose disk is full twice: `python full_disk.py WORKSPACE`."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from workspaces import FACTS, FailingOperations, model

from langedit.errors import WorkspaceError
from langedit.parallel import ALONE, Processes, join_processes
from langedit.workspace import Ledger, Workspace, apply_work, plan_work
from langedit.workspace.undo import undo

BEFORE_THE_SECOND_ROW = 1 + 6 + 5
"""Steps of writing: of a run's row, its first batch, and its second one but for the row."""

BEFORE_THE_UNDO = 2 * 5
"""The same of an undo that edits two batches again."""


class FullDisk(FailingOperations):
    """Fails once at a step that is named."""

    def __init__(self, at: int) -> None:
        super().__init__(at, self._refuse)

    def full_after(self, steps: int) -> None:
        self._at = len(self.steps) + steps

    def _refuse(self, step: str) -> None:
        assert step == "commit"
        raise OSError(errno.ENOSPC, "No space left on device")


def run(folder: Path, processes: Processes = ALONE) -> list[str]:
    """Weights after each failure and after each success; all processes call this."""
    disk, found = FullDisk(BEFORE_THE_SECOND_ROW), []
    with Workspace.open(folder, write=True, operations=disk, processes=processes) as workspace:
        editor = workspace.load_editor(model())

        def note() -> None:
            assert editor.weights_hash == workspace.ask(Ledger.head)[0]
            processes.agree("weights", editor.weights_hash)
            found.append(editor.weights_hash)

        def edit() -> None:
            apply_work(workspace, editor, plan_work(workspace, FACTS[:3], batch_size=1))

        def replay() -> None:
            undo(workspace, editor, 1, "replay")

        for work in (edit, replay):
            with pytest.raises(WorkspaceError, match="free room on that disk"):
                work()
            note()
            work()
            note()
            disk.full_after(BEFORE_THE_UNDO)
    return found


if __name__ == "__main__":
    with join_processes() as everyone:
        weights = run(Path(sys.argv[1]), everyone)
        if everyone.is_first:
            print(*weights)
