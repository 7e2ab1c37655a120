"""What a workspace records, and that an editor made from it goes on as the first one would."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from edits import random_moments
from tiny import tiny_editable
from workspaces import FACTS, PREFIXES, apply, model, new_workspace, weights

from langedit.editing import Editor
from langedit.errors import FactError, WorkspaceError
from langedit.workspace import Ledger, Workspace, apply_work, plan_work, run_stream
from langedit.workspace.record import read_report
from langedit.workspace.verify import verify

METHODS = [
    {},
    {"projection": "pooled"},
    {"projection": "released"},
    {"corpus_weight": 0.5},
    {"method": "alphaedit"},
    {"method": "memit"},
    {"method": "memit-seq"},
]


def uninterrupted(folder, batches) -> Editor:
    with Workspace.open(folder) as workspace:
        editor = workspace.fresh_editor(model())
    run_stream(editor, batches, retention=False)
    return editor


@pytest.mark.parametrize("changes", METHODS, ids=str)
def test_batches_edited_in_runs_of_their_own_give_the_weights_of_one_run(tmp_path, changes):
    folder = new_workspace(tmp_path, **changes)
    apply(folder, FACTS[:3], batch_size=2)
    apply(folder, FACTS[3:], batch_size=2)
    wanted = uninterrupted(folder, [FACTS[:2], FACTS[2:3], FACTS[3:4], FACTS[4:5], FACTS[5:]])
    with Ledger.open(folder) as ledger:
        assert ledger.head() == (wanted.weights_hash, wanted.state_hash)
    assert weights(folder) == wanted.weights_hash
    found = verify(folder, model())
    assert (found.problems, found.replayed) == ((), 5)


def test_prefixes_that_the_model_writes_are_recorded(tmp_path):
    folder = new_workspace(tmp_path, prefixes=None, prefix_count=1, prefix_length=2)
    apply(folder, FACTS[:3])
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
        english = editor.prefixes["en"]
    apply(folder, FACTS[3:])
    with Workspace.open(folder) as workspace:
        assert workspace.load_editor(model()).prefixes["en"] == english
    wanted = uninterrupted(
        folder, [[FACTS[i]] for i in (0, 2, 1, 3, 4, 5)]
    )  # languages take turns within a run
    assert weights(folder) == wanted.weights_hash


def test_everything_about_a_batch_comes_back(tmp_path):
    folder = new_workspace(tmp_path)
    (step, later) = apply(folder, FACTS[:2])
    with Workspace.open(folder) as workspace:
        first, second = (workspace.load_editor(model())).reports
        figures = workspace.ledger.figures(1)
    for old, new in ((step.report, first), (later.report, second)):
        assert new.to_dict() == old.to_dict()
        assert new.prefixes == old.prefixes
        for layer in old.keys:
            assert torch.equal(new.keys[layer], old.keys[layer])
            assert torch.equal(new.updates[layer].left, old.updates[layer].left)
        assert torch.equal(new.targets.target_hidden, old.targets.target_hidden)
    assert first.facts == FACTS[:1]
    assert figures["software"]["torch"] == torch.__version__
    assert figures["software"]["threads"] == 1
    assert second.independence_max is not None


def test_an_editor_made_from_a_workspace_can_be_saved_with_all_batches(tmp_path):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:2])
    with Workspace.open(folder) as workspace:
        workspace.load_editor(model()).save_pretrained(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "langedit.json").read_text(encoding="utf-8"))
    assert [batch["facts"][0]["name"] for batch in record["batches"]] == ["france", "peru"]


def test_facts_in_the_model_are_not_edited_again(tmp_path):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:2])
    before = weights(folder)
    assert apply(folder, FACTS[:2]) == ()
    assert weights(folder) == before
    (step,) = apply(folder, FACTS[:3], batch_size=5)
    assert step.report.facts == FACTS[2:3]


def test_another_batch_size_is_another_run_over_what_is_left(tmp_path):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:2])
    steps = apply(folder, FACTS[:5], batch_size=3)
    assert [len(step.report.facts) for step in steps] == [1, 1, 1]
    assert {fact for step in steps for fact in step.report.facts} == set(FACTS[2:5])


def test_a_file_that_contradicts_itself_or_is_too_long_is_refused(tmp_path):
    folder = new_workspace(tmp_path)
    with pytest.raises(FactError, match="'Rome' and 'Wien'"):
        apply(folder, [FACTS[0], replace(FACTS[0], target="Wien")])
    with pytest.raises(FactError, match="expected at most 100000 characters"):
        apply(folder, [replace(FACTS[0], prompt="a" * 100_000_000 + " {}")])
    with Ledger.open(folder) as ledger:
        assert ledger.count() == 0


def test_moments_may_stay_where_they_are(tmp_path):
    folder = new_workspace(tmp_path, keep_moments=False)
    assert not list(folder.rglob("*.safetensors"))
    apply(folder, FACTS[:1])
    assert verify(folder, model()).problems == ()
    path = tmp_path / "moments" / "layer-000.safetensors"
    path.rename(path.with_name("away"))
    with pytest.raises(WorkspaceError, match=r"layer 0 is missing: put the file back"):
        weights(folder)


def test_another_model_is_refused(tmp_path):
    folder = new_workspace(tmp_path)
    with (
        Workspace.open(folder) as workspace,
        pytest.raises(WorkspaceError, match="expected the model tiny as it was"),
    ):
        workspace.load_editor(tiny_editable("llama", seed=1))


def test_a_batch_of_another_model_is_refused(tmp_path):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:1])
    with Workspace.open(folder) as workspace:
        content, figures = workspace.artefact(1), workspace.ledger.figures(1)
        with pytest.raises(WorkspaceError, match="belongs to another workspace"):
            read_report(content, figures, FACTS[:1], base="0" * 64)
        with pytest.raises(WorkspaceError, match="there are 2 facts"):
            read_report(content, figures, FACTS[:2], workspace.base)


def test_weights_that_come_out_differently_are_not_used(tmp_path, monkeypatch):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:1])
    monkeypatch.setattr("langedit.workspace.creation.torch.get_num_threads", lambda: 7)
    monkeypatch.setattr(
        "langedit.editing.editor.sum_updates", lambda base, updates: base + 1e-7 * len(updates)
    )
    with pytest.raises(WorkspaceError, match=r"weights bit for bit.*threads 1 then, 7 now"):
        weights(folder)


def test_a_folder_with_other_things_is_no_place_for_a_workspace(tmp_path):
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "notes.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"one with 'notes\.txt' in it"):
        new_workspace(tmp_path)
    assert (tmp_path / "ws" / "notes.txt").read_text() == "mine"


def test_a_workspace_is_made_once(tmp_path):
    new_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="expected no ledger, got one"):
        new_workspace(tmp_path)


def test_settings_and_prefixes_come_from_the_ledger(tmp_path):
    folder = new_workspace(tmp_path, ridge=0.5)
    with Workspace.open(folder) as workspace:
        assert workspace.config.ridge == 0.5
        editor = workspace.load_editor(model())
    assert editor.prefixes == PREFIXES
    assert editor.config.layers == tuple(random_moments(model()).layers)


def test_a_run_that_goes_on_leaves_out_what_another_run_has_edited_since(tmp_path):
    folder = new_workspace(tmp_path)
    with Workspace.open(folder, write=True) as workspace:
        work = plan_work(workspace, FACTS[:3], batch_size=1)
        first = replace(work, batches=work.batches[:1])  # and then it is interrupted
        apply_work(workspace, workspace.load_editor(model()), first)
    apply(folder, FACTS[1:2])
    with Workspace.open(folder, write=True) as workspace:
        again = plan_work(workspace, FACTS[:3], batch_size=1)
        left = [fact.id for _, batch in again.batches for fact in batch]
    edited = {FACTS[1].id} | {fact.id for _, batch in first.batches for fact in batch}
    assert sorted(left) == sorted({fact.id for fact in FACTS[:3]} - edited)


def test_a_folder_that_nobody_can_write_into_can_be_read(tmp_path, monkeypatch):
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:1])
    assert sorted(path.name for path in folder.glob("ledger*")) == ["ledger.sqlite"]
    monkeypatch.setattr("langedit.workspace.database.os.access", lambda *_: False)
    with Ledger.open(folder) as ledger:
        assert ledger.count() == 1
        assert sorted(path.name for path in folder.glob("ledger*")) == ["ledger.sqlite"]
