"""Who does what when several processes work on a workspace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from jobs.full_disk import run
from processes import JOBS, side_by_side
from workspaces import FACTS, canary, contents, model, new_workspace

from langedit.errors import ProcessError
from langedit.facts import Probe
from langedit.parallel import Processes
from langedit.workspace import GuardSettings, Workspace, apply_work, plan_work
from langedit.workspace.artefacts import ArtefactStore
from langedit.workspace.operations import FileOperations
from langedit.workspace.undo import undo


def test_a_full_disk_leaves_all_processes_where_the_ledger_stands(tmp_path):
    """The first process meets the error, all go back, and go on."""
    folder = new_workspace(tmp_path)
    alone = Path(shutil.copytree(folder, tmp_path / "alone"))
    found = run(alone)
    assert len(set(found)) == 3
    assert found[1] == found[2], "an undo that failed has not happened"
    first, second = side_by_side(JOBS / "full_disk.py", folder)
    assert (first.code, second.code) == (0, 0), [first.err, second.err]
    assert first.out.split() == found
    assert contents(folder) == contents(alone)


@dataclass(frozen=True)
class Watched(Processes):
    """One process that knows when it works for all: in its share, or while the others wait."""

    working: list[str] = field(default_factory=list)

    def spread(self, items: Sequence[Any], work: Callable[..., Any]) -> list[Any]:
        return self._within("share", lambda: Processes.spread(self, items, work))

    def first(self, work: Callable[[], Any]) -> Any:
        return self._within("first", work)

    def only_first(self, work: Callable[[], Any]) -> Any:
        return self._within("first", work)

    def _within(self, what: str, work: Callable[[], Any]) -> Any:
        assert not self.working, "one call of all processes inside another"
        self.working.append(what)
        try:
            return work()
        finally:
            self.working.pop()


def test_no_pass_through_the_model_is_made_by_all(tmp_path):
    """Targets and all scores are shared; keys are read by the first process."""
    limits = {"max_specificity_loss": 1, "max_perplexity_ratio": 1e6, "min_retention": 0}
    guards = GuardSettings.of({**limits, "canaries": [canary()], "texts": ["given below"]})
    near = (Probe("Berlin is in", "Peru"),)
    facts = [replace(fact, neighbourhood=near) for fact in FACTS[:3]]
    folder = new_workspace(tmp_path, guards=guards, texts=["Paris is in France."])
    watched, passes = Watched(), []
    edited = model()
    assert edited.behaviour is not None  # found out by a pass of its own, in each process
    for layer in range(edited.structure.n_layers):
        edited.layer(layer).register_forward_pre_hook(
            lambda *_: passes.append((*watched.working, "all")[0])
        )
    with Workspace.open(folder, write=True, processes=watched) as workspace:
        editor = workspace.load_editor(edited)
        work = plan_work(workspace, facts, batch_size=1)
        apply_work(workspace, editor, work, on_breach="skip")
        assert set(passes) == {"share", "first"}
        passes.clear()
        undo(workspace, editor, None, "last")
        assert set(passes) == {"share"}


def test_other_processes_have_no_ledger(tmp_path):
    store = ArtefactStore(tmp_path / "artefacts", FileOperations())
    with pytest.raises(ProcessError, match=r"first process to open .*, got process 1: ask with"):
        Workspace(tmp_path, None, store, Processes(rank=1))
