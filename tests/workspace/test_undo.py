"""Undo of the last batch, of an earlier one by removal and by replay, and of all."""

from __future__ import annotations

import pytest
import torch
from workspaces import FACTS, apply, model, new_workspace, weights

from langedit.editing.batch import sum_updates
from langedit.errors import WorkspaceError
from langedit.facts import Fact
from langedit.workspace import Ledger, Workspace, run_stream
from langedit.workspace.undo import undo
from langedit.workspace.verify import verify


@pytest.fixture
def folder(tmp_path):
    """Four batches of one fact."""
    folder = new_workspace(tmp_path)
    apply(folder, FACTS[:4], batch_size=1)
    return folder


def take_back(folder, batch, how):
    with Workspace.open(folder, write=True) as workspace:
        return undo(workspace, workspace.load_editor(model()), batch, how)


def hashes(folder):
    with Ledger.open(folder) as ledger:
        base = ledger.meta("model")["weights"]
        return [base, *(event.weights_after for event in ledger.events())]


def test_the_last_batch_goes_exactly(folder):
    before = hashes(folder)
    undone = take_back(folder, None, "last")
    assert undone.batches == (4,)
    assert undone.weights == before[3] == weights(folder)
    assert hashes(folder)[:-1] == before, "history stays"
    with Ledger.open(folder) as ledger:
        assert ledger.head()[1] == ledger.event(3).state_after
    assert take_back(folder, 3, "last").weights == before[2]
    assert verify(folder, model()).problems == ()


def test_an_earlier_batch_by_removal_leaves_the_sum_of_the_other_updates(folder):
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
        reports = editor.reports
    undone = take_back(folder, 1, "removal")
    assert (undone.batches, undone.later, undone.replayed) == ((1,), 3, ())
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
    plain = model()
    for layer in (0, 1):
        base = plain.read_weight(layer)
        wanted = sum_updates(base, [report.updates[layer] for report in reports[1:]])
        assert torch.equal(editor.model.read_weight(layer), wanted)
        history = torch.cat([report.keys[layer] for report in reports[1:]])
        assert torch.equal(editor.layer_states[layer].history, history)
    assert verify(folder, model()).problems == ()


def test_removal_frees_the_directions_of_the_batch(folder):
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
    left = {layer: state.projector.left for layer, state in editor.layer_states.items()}
    take_back(folder, 2, "removal")
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
    for layer, state in editor.layer_states.items():
        assert state.projector.left == left[layer] + 1


def test_an_earlier_batch_by_replay_gives_the_run_without_it(folder):
    undone = take_back(folder, 2, "replay")
    assert (undone.batches, undone.replayed) == ((2,), (6, 7))
    with Workspace.open(folder) as workspace:
        other = workspace.fresh_editor(model())
        with Ledger.open(folder) as ledger:
            order = [ledger.facts(number)[0].fact for number in (1, 3, 4)]
            assert [ledger.event(number).replays for number in (6, 7)] == [3, 4]
            assert ledger.event(5).removed == (2, 3, 4)
    run_stream(other, [[fact] for fact in order], retention=False)
    assert undone.weights == other.weights_hash == weights(folder)
    assert verify(folder, model()).problems == ()


@pytest.mark.parametrize("orders", [["all"], [3, 1, 4, 2], ["last"] * 4])
def test_with_all_batches_taken_back_the_original_bits_are_there(folder, orders):
    for order in orders:
        if isinstance(order, int):
            undone = take_back(folder, order, "removal")
        else:
            undone = take_back(folder, None, order)
    assert undone.weights == hashes(folder)[0]
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
        assert editor.state_hash == workspace.ledger.meta("model")["state"]
    assert editor.model.identity() == model().identity()
    assert verify(folder, model()).problems == ()
    with pytest.raises(WorkspaceError, match="expected a batch in the model to take back"):
        take_back(folder, None, "last")


def test_editing_goes_on_after_an_undo(folder):
    take_back(folder, 2, "removal")
    with Workspace.open(folder) as workspace:
        editor = workspace.load_editor(model())
    editor.apply([FACTS[4]])
    apply(folder, FACTS[4:5])
    assert weights(folder) == editor.weights_hash


def test_a_batch_taken_back_can_be_edited_again(folder):
    take_back(folder, 1, "removal")
    (step,) = apply(folder, FACTS[:4], batch_size=2)
    assert step.report.facts == FACTS[:1]


def test_only_the_last_batch_is_the_last(folder):
    with pytest.raises(WorkspaceError, match=r"not the last in the model \(2 came after it\)"):
        take_back(folder, 2, "last")
    take_back(folder, 4, "last")
    with pytest.raises(WorkspaceError, match="number of a batch in the model, got 4"):
        take_back(folder, 4, "removal")
    with pytest.raises(WorkspaceError, match="got 99"):
        take_back(folder, 99, "replay")


def test_the_report_says_what_became_of_later_facts(tmp_path):
    folder = new_workspace(
        tmp_path,
        prefixes=None,
        prefix_count=0,
        ridge=1e-3,
        value_steps=40,
        value_lr=0.5,
        norm_clamp=8.0,
        kl_weight=0.0,
        value_weight_decay=0.0,
        null_share=0.9,
    )
    facts = [Fact("zh", "首都是{}", subject, "z") for subject in ("法国", "德国", "中国")]
    apply(folder, facts)
    undone = take_back(folder, 1, "removal")
    assert undone.efficacy[0] == 1.0, "the batch was learnt"
    assert undone.efficacy[1] < 1.0, "and is forgotten"
    assert undone.later == 2
    assert undone.later_efficacy[0] == 1.0
    assert undone.later_efficacy[1] == 1 - undone.later_changed / 2, "one token a target"
