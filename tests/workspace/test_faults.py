"""A process that dies at any step of writing loses nothing, and the finished run is the same."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

import pytest
from workspaces import FACTS, Died, FailingOperations, model, new_workspace

from langedit.editing import Editor
from langedit.errors import WorkspaceError
from langedit.workspace import Ledger, Workspace, apply_work, plan_work
from langedit.workspace.operations import FileOperations
from langedit.workspace.undo import undo
from langedit.workspace.verify import verify

TWO = FACTS[:2]
STEPS_OF_A_RUN = 1 + 2 * 6  # a commit for the run; write, sync, rename, 2 syncs, commit a batch
STEPS_OF_INIT = 2 * 5 + 1  # copy, sync, rename, 2 syncs a layer of moments; a commit


class Ground:
    """One unedited workspace, one editor for all tests, and what an uninterrupted run gives."""

    def __init__(self, folder: Path) -> None:
        self.origin = new_workspace(folder, layers=(0, 1), value_steps=1)
        with Workspace.open(self.origin) as workspace:
            self.editor = workspace.load_editor(model())
        self.folder = folder
        self.finished = self.copy("finished")
        self.run(self.finished)
        self.events = self.rows(self.finished)

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.origin, self.folder / name))

    def run(self, folder: Path, operations: FileOperations | None = None) -> Editor:
        """What `langedit apply` does: everything but the loading of the model."""
        with Workspace.open(folder, write=True, operations=operations) as workspace:
            workspace.restore(self.editor)  # compares weights and state with the ledger
            work = plan_work(workspace, TWO, batch_size=1)
            apply_work(workspace, self.editor, work)
        return self.editor

    def rows(self, folder: Path) -> list[tuple[str, str, str | None]]:
        with Ledger.open(folder) as ledger:
            return [(e.weights_after, e.state_after, e.artefact) for e in ledger.events()]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return Ground(tmp_path_factory.mktemp("faults"))


def test_the_steps_are_those_that_the_faults_below_hit(ground, tmp_path):
    operations = FailingOperations()
    ground.run(ground.copy("counted"), operations)
    assert len(operations.steps) == STEPS_OF_A_RUN
    assert operations.steps[1:7] == ["write", "sync", "rename", "sync", "sync", "commit"]
    operations = FailingOperations()
    new_workspace(tmp_path, operations=operations)
    assert len(operations.steps) == STEPS_OF_INIT


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(STEPS_OF_A_RUN))
def test_a_run_that_dies_at_any_step_goes_on_bit_for_bit(ground, at, late):
    folder = ground.copy(f"run-{at}-{late}")
    with pytest.raises(Died):
        ground.run(folder, FailingOperations(at, late=late))
    found = verify(folder)
    assert found.problems == ()
    assert ground.rows(folder) == ground.events[: found.events]
    ground.run(folder)
    assert ground.rows(folder) == ground.events
    assert verify(folder).problems == ()
    assert not list(folder.rglob("*.partial"))
    shutil.rmtree(folder)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(STEPS_OF_INIT))
def test_a_workspace_that_died_while_it_was_made_is_made_by_trying_again(tmp_path, at, late):
    with pytest.raises(Died):
        new_workspace(tmp_path, operations=FailingOperations(at, late=late))
    if not (late and at == STEPS_OF_INIT - 1):  # the last commit had happened
        with pytest.raises(WorkspaceError, match="langedit init"):
            Ledger.open(tmp_path / "ws")
        new_workspace(tmp_path)
    assert verify(tmp_path / "ws").problems == ()


def take_back(ground: Ground, folder: Path, how: str, operations: FileOperations) -> None:
    with Workspace.open(folder, write=True, operations=operations) as workspace:
        workspace.restore(ground.editor)
        undo(workspace, ground.editor, 1, how)


@pytest.mark.parametrize("how", ["removal", "replay"])
@pytest.mark.parametrize("late", [False, True])
def test_an_undo_that_dies_has_happened_or_not(ground, how, late):
    origin = Path(shutil.copytree(ground.finished, ground.folder / f"undo-{how}-{late}"))
    steps = {"removal": 1, "replay": 6}[how]
    for at in range(steps):
        folder = Path(shutil.copytree(origin, ground.folder / f"undo-{how}-{late}-{at}"))
        operations = FailingOperations(at, late=late)
        with pytest.raises(Died):
            take_back(ground, folder, how, operations)
        rows = ground.rows(folder)
        assert rows[: len(ground.events)] == ground.events
        happened = late and at == steps - 1
        added = {"removal": 1, "replay": 2}[how] if happened else 0
        assert len(rows) == len(ground.events) + added
        assert verify(folder).problems == ()
        with Workspace.open(folder) as workspace:
            workspace.restore(ground.editor)


def full(_step: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(_step: str) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def database_full(_step: str) -> None:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize(
    ("at", "fail", "advice"),
    [
        (7, full, "free room on that disk"),
        (8, full, "free room on that disk"),
        (9, read_only, "make the folder writable"),
        (12, database_full, "free room on that disk"),
    ],
)
def test_a_full_disk_says_what_to_do_and_loses_nothing(ground, at, fail, advice):
    folder = ground.copy(f"full-{at}")
    with pytest.raises(WorkspaceError, match=f"{advice}.* then run the same command again"):
        ground.run(folder, FailingOperations(at, fail, late=fail is full))
    assert ground.rows(folder) == ground.events[:1]
    assert ground.editor.weights_hash == ground.events[0][0], "the editor holds what is recorded"
    assert verify(folder).problems == ()
    assert not list(folder.rglob("*.partial"))
    ground.run(folder)
    assert ground.rows(folder) == ground.events


def test_a_damaged_artefact_is_named_and_can_be_put_back(ground):
    folder = Path(shutil.copytree(ground.finished, ground.folder / "damaged"))
    sha256 = ground.events[0][2]
    path = folder / "artefacts" / sha256[:2] / f"{sha256}.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (problem,) = verify(folder).problems
    assert sha256 in problem
    assert "was altered" in problem
    with Workspace.open(folder) as workspace, pytest.raises(WorkspaceError, match="put back that"):
        workspace.restore(ground.editor)
    assert ground.rows(folder) == ground.events
    path.unlink()
    (problem,) = verify(folder).problems
    assert "is missing" in problem
    path.write_bytes(good)
    assert verify(folder).problems == ()


def test_an_artefact_that_is_written_again_mends_a_damaged_file(ground):
    folder = ground.copy("mended")
    with pytest.raises(Died):
        ground.run(folder, FailingOperations(4, late=True))  # the file is there, the row is not
    assert verify(folder).unused == 1
    (path,) = [p for p in folder.rglob("*.safetensors") if ground.events[0][2] in p.name]
    path.write_bytes(b"rubbish")
    ground.run(folder)
    assert ground.rows(folder) == ground.events
    assert verify(folder).problems == ()
