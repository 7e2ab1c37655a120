"""Facts that contradict earlier ones: refused, or put in their place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from workspaces import FACTS, apply, model, new_workspace, weights

from langedit.errors import FactError, NumericalError
from langedit.linalg import keep_edits
from langedit.workspace import GuardSettings, Ledger, Workspace
from langedit.workspace.undo import undo
from langedit.workspace.verify import verify

NEW = replace(FACTS[0], target="Wien", id="france-again")


@pytest.fixture
def folder(tmp_path):
    """One batch of two English facts, and one of Chinese."""
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:3], batch_size=2)
    return folder


def test_a_contradiction_is_refused_before_anything_is_edited(folder):
    before = weights(folder)
    with pytest.raises(FactError, match="-> 'Wien'; batch 1 says 'Rome'"):
        apply(folder, [FACTS[4], NEW])
    assert weights(folder) == before
    (step,) = apply(folder, [replace(NEW, language="de", prompt="Die Hauptstadt von {} ist")])
    assert step.kept, "another question in another language is none"


def test_case_and_white_space_do_not_hide_a_contradiction(folder):
    with pytest.raises(FactError, match="batch 1 says 'Rome'"):
        apply(folder, [replace(NEW, prompt="the  capital OF {} is")])


def test_the_new_fact_replaces_the_old_one_and_frees_its_directions(folder):
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
        first, second = editor.reports
    (step,) = apply(folder, [NEW], supersede=True)
    with Workspace.open(folder) as workspace:
        now = workspace.load_editor(model())
    assert [fact.id for report in now.reports for fact in report.facts] == [
        "peru", "zh-france", "france-again",
    ]  # fmt: skip
    for layer in (0, 1):
        left = editor.layer_states[layer].projector.left
        assert now.layer_states[layer].projector.left == left, "one freed, one taken"
        base = model().read_weight(layer)
        old = keep_edits(first.updates[layer], [1], 2)
        total = base + old.dense() + second.updates[layer].dense()
        assert torch.equal(now.model.read_weight(layer), total + step.report.updates[layer].dense())
        assert torch.linalg.vector_norm(step.report.updates[layer].dense()) > 0
    with Ledger.open(folder) as ledger:
        event = ledger.event(3)
        assert event.superseded == ((1, 0),)
        assert [row.fact.target for row in ledger.find("france")] == ["Rome", "Wien"]
    assert verify(folder, model()).problems == ()


def test_without_freeing_it_the_key_could_not_be_edited_again(folder):
    """The control: the old key is forbidden, so that its fact cannot be written over."""
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
    kept = editor.apply([NEW]).ranks[0].kept_smallest
    (step,) = apply(folder, [NEW], supersede=True)
    assert kept < 1e-3
    assert step.report.ranks[0].kept_smallest > 100 * kept


def test_undo_of_the_new_fact_brings_the_old_one_back(folder):
    before = weights(folder)
    apply(folder, [NEW], supersede=True)
    with Workspace.open(folder, write=True) as workspace:
        editor = workspace.load_editor(model())
        assert undo(workspace, editor, None, "last").weights == before
    assert weights(folder) == before
    assert verify(folder, model()).problems == ()


def test_a_batch_whose_facts_were_all_replaced(folder):
    apply(folder, [replace(FACTS[2], target="Rom")], supersede=True)
    apply(folder, FACTS[4:5])
    assert verify(folder, model()).problems == ()
    with Workspace.open(folder, write=True) as workspace:
        editor = workspace.load_editor(model())
        assert [report.facts[0].target for report in editor.reports] == ["Rome", "Rom", "Rom"]
        undo(workspace, editor, 2, "removal")
        undo(workspace, editor, 1, "replay")
    assert verify(folder, model()).problems == ()


def test_the_same_fact_twice_replaced(folder):
    apply(folder, [NEW], supersede=True)
    apply(folder, [replace(NEW, target="Anna")], supersede=True)
    with Ledger.open(folder) as ledger:
        assert ledger.event(4).superseded == ((3, 0),)
    apply(folder, [replace(NEW, target="Rome")], supersede=True)
    assert verify(folder, model()).problems == ()


def test_a_refused_batch_leaves_the_old_fact_in_its_place(tmp_path):
    folder = new_workspace(tmp_path, guards=GuardSettings.of({"min_rank_left": 32}))
    apply(folder, FACTS[:2], batch_size=2)
    before = weights(folder)
    (step,) = apply(folder, [NEW, FACTS[3]], batch_size=2, supersede=True)
    assert not step.kept
    assert weights(folder) == before
    assert verify(folder, model()).problems == ()


def test_facts_of_one_update_that_cannot_be_told_apart(folder, monkeypatch):
    def mixed(*_: object) -> None:
        raise NumericalError("its edits cannot be told apart; undo the whole batch instead")

    monkeypatch.setattr("langedit.workspace.record.keep_edits", mixed)
    with Workspace.open(folder, write=True) as workspace:
        head = workspace.ledger.head()
    with pytest.raises(NumericalError, match="undo the whole batch"):
        apply(folder, [NEW], supersede=True)
    with Ledger.open(folder) as ledger:
        assert ledger.head() == head
