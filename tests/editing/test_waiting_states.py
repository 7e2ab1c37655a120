"""States that wait in main memory, one layer's at a time with its weight.

The card is that of tests/pretend.py: it refuses to mix with the CPU, but computes as it does.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from pretend import pretend_devices
from tiny import tiny_editable

from langedit.editing import Editor
from langedit.editing.methods import LayerState
from langedit.editing.methods.langedit import LangEdit

CARD = "lazy:0"


def editor(method: str, place: str, *, card: bool = True) -> Editor:
    model = tiny_editable("llama", attn_implementation="eager")
    moments = random_moments(model)
    if card:
        model.model.to(CARD)
    own: dict[str, Any] = {"layers": (1,)} if method == "rome" else {}
    own |= {"corpus_weight": 2.0} if method == "langedit" else {}
    config = settings(method=method, states_on=place, value_steps=3, **own)
    return Editor(model, None, config, moments, PREFIXES)


def run(edited: Editor) -> tuple[str, str]:
    """Two batches, one of which is taken back, read again from its report, and edited anew."""
    first = edited.apply(FACTS)
    edited.apply(LATER)
    edited.undo()
    edited.restore([first])
    edited.apply(LATER)
    return edited.weights_hash, edited.state_hash


@pytest.mark.parametrize("method", ["langedit", "alphaedit", "memit-seq", "rome", "prune"])
def test_where_states_wait_changes_no_bit(method: str) -> None:
    found = []
    with pretend_devices():
        for place, kind in (("device", "lazy"), ("cpu", "cpu")):
            edited = editor(method, place)
            found.append(run(edited))
            assert {s.device.type for s in edited.layer_states.values()} == {kind}
    assert found[0] == found[1]


def test_one_layer_at_a_time_is_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[weakref.ref[LayerState]] = []
    most: list[int] = []
    move = LayerState.to

    def note(state: LayerState, device: torch.device) -> LayerState:
        moved = move(state, device)
        if device.type == "lazy":
            there.append(weakref.ref(moved))
            most.append(sum(own() is not None for own in there))
        return moved

    solved: list[str] = []
    solve = LangEdit.solve

    def watch(method: LangEdit, state: LayerState, *rest: Any) -> Any:
        solved.append(state.device.type)
        return solve(method, state, *rest)

    monkeypatch.setattr(LayerState, "to", note)
    monkeypatch.setattr(LangEdit, "solve", watch)
    with pretend_devices():
        edited = editor("langedit", "cpu")
        edited.apply(FACTS)
        edited.apply(LATER)
        assert solved == ["lazy"] * 4  # two layers, two batches
        assert len(most) == 8  # for the solve and for what is remembered
        assert max(most) == 1
        assert all(own() is None for own in there)


def test_a_state_is_not_copied_to_where_it_is() -> None:
    state = editor("langedit", "cpu", card=False).layer_states[0]
    assert state.to(torch.device("cpu")) is state


def test_states_before_and_after_a_batch_are_kept_once() -> None:
    edited = editor("langedit", "device", card=False)
    for batch in (FACTS, LATER, FACTS[:1]):
        edited.apply(batch)
        present, before = edited.layer_states[0], edited.earlier_layer_states[0]
        start = edited._start.layers[0]
        assert present.projector is not None
        assert present.solver is not None
        for name in ("history", "basis", "closed"):
            places = {
                tensor.untyped_storage().data_ptr()
                for tensor in map(partial(_tensor, name=name), (start, before, present))
                if tensor is not None and tensor.numel()
            }
            assert len(places) == 1, name


def _tensor(state: LayerState, name: str) -> torch.Tensor | None:
    assert state.projector is not None
    assert state.solver is not None
    if name == "history":
        return state.history
    if name == "basis":
        return state.projector.basis
    return None if state.solver.closed is None else state.solver.closed.basis


def test_a_state_taken_back_does_not_write_into_the_one_it_shared_with() -> None:
    edited = editor("langedit", "device", card=False)
    edited.apply(FACTS)
    first = edited.apply(LATER)
    history = edited.layer_states[0].history.clone()
    later = edited.layer_states[0]
    edited.undo()
    edited.apply((FACTS[0],))
    assert torch.equal(later.history, history)
    assert first.facts == LATER


def test_what_a_state_shares_stays_shared() -> None:
    with pretend_devices():
        edited = editor("langedit", "cpu")
        edited.apply(FACTS)
        moved = edited.layer_states[0].to(torch.device(CARD))
        assert moved.solver is not None
        assert moved.solver.closed is not None
        assert moved.solver.projector is moved.projector
        tensors = [moved.history, *moved.solver.tensors, moved.solver.closed.basis]
        assert {tensor.device.type for tensor in tensors} == {"lazy"}
