"""What states that wait in main memory have in common with one another is there once.

Beside each editor whose states wait runs one whose states stay with the model: what the three
states that an editor has keep must have the same bits, and take the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from pretend import NAME, Pretend, pretend_devices
from tiny import tiny_editable, tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from langedit.editing import BatchReport, EditConfig, Editor
from langedit.editing.measure import measure_batch
from langedit.editing.methods import LayerState
from langedit.editing.methods.prune import PruneState
from langedit.editing.planning import (
    PassCost,
    PassCosts,
    Workload,
    plan_memory,
    shaped_model,
)
from langedit.facts import Fact
from langedit.linalg import NullSpaceProjector

CARD = "lazy:0"
MORE = (
    Fact("en", "The river of {} is", "London", "Donau"),
    Fact("de", "Der Maler von {} ist", "Köln", "Anna"),
)
BATCHES = (FACTS[:2], FACTS[2:], LATER, MORE)
ONCE = (
    ("langedit", {}),
    ("langedit", {"corpus_weight": 2.0}),
    ("alphaedit", {}),
    ("alphaedit", {"corpus_weight": 2.0}),
    ("memit", {}),
    ("memit-seq", {}),
    ("prune", {}),
)
ANEW = (("langedit", {"projection": "pooled"}), ("langedit", {"projection": "released"}))
PLANNED = {
    "bases of forbidden directions": ("basis", "closed"),
    "factored moments": ("factor",),
    "keys of past edits": ("history",),
    "solves of past keys": ("soft",),
}


def editor(method: str, place: str, *, card: bool, **own: Any) -> Editor:
    model = tiny_editable("llama", attn_implementation="eager")
    moments = random_moments(model)
    if card:
        model.model.to(CARD)
    config = settings(method=method, states_on=place, **own)
    return Editor(model, None, config, moments, PREFIXES)


def apply(edited: Editor, number: int) -> BatchReport:
    batch, generator = BATCHES[number], torch.Generator().manual_seed(number)
    return edited.apply(batch, target_hidden=torch.randn(len(batch), 32, generator=generator))


def parts(state: LayerState) -> dict[str, Tensor]:
    found = {"history": state.history}
    if state.projector is not None:
        found["basis"] = state.projector.basis
    if state.moment is not None:
        found["moment"] = state.moment.mean
    if state.memory is not None:
        found["soft"] = state.memory.soft
    if state.solver is not None:
        found |= dict(zip(("factor", "lengths"), state.solver.tensors, strict=False))
        if state.solver.closed is not None:
            found["closed"] = state.solver.closed.basis
    if isinstance(state, PruneState) and state.free is not None:
        found["weight"] = state.free.weight
        found["total"] = state.free.total.right
    return found


def states_of(edited: Editor) -> list[Mapping[int, LayerState]]:
    """Those that an editor has: the first, the one for undo, the present."""
    earlier = [] if edited._earlier is None else [edited.earlier_layer_states]
    return [edited._start.layers, *earlier, edited.layer_states]


def storages(states: Sequence[Mapping[int, LayerState]]) -> dict[tuple[int, str], list[int]]:
    """Layer and part -> bytes of the distinct storages that hold it."""
    found: dict[tuple[int, str], dict[int, int]] = {}
    for layers in states:
        for layer, state in layers.items():
            for name, tensor in parts(state).items():
                own = tensor.inner if isinstance(tensor, Pretend) else tensor
                storage = own.untyped_storage()
                if storage.nbytes():
                    found.setdefault((layer, name), {})[storage.data_ptr()] = storage.nbytes()
    return {key: sorted(own.values()) for key, own in found.items()}


def require_kept_once(away: Editor, here: Editor, *, anew: bool = False) -> None:
    assert {s.device.type for layers in states_of(away) for s in layers.values()} == {"cpu"}
    kept = storages(states_of(away))
    assert kept == storages(states_of(here))
    whole = {(layer, name) for layer, name in kept if name not in ("weight", "total")}
    assert anew or {len(kept[key]) for key in whole} == {1}
    assert away.state_hash == here.state_hash
    assert away.weights_hash == here.weights_hash


def held(states: Sequence[Mapping[int, LayerState]]) -> dict[str, int]:
    """Bytes under the titles that plans have for them."""
    kept = storages(states)
    return {
        title: sum(sum(own) for (_, name), own in kept.items() if name in names)
        for title, names in PLANNED.items()
    }


def planned(config: EditConfig, batches: int, stage: str) -> dict[str, int]:
    """What a plan of so many batches counts under them in main memory, at a stage of the last."""
    nothing = PassCost(bytes=0, flops=0.0)
    costs = PassCosts(prepare=nothing, step=nothing, groups=1, walk=nothing, stats=nothing)
    model = shaped_model(tiny_model("llama").config, torch.float32)
    work = Workload(edits=2 * batches, batch_size=2)
    plan = plan_memory(model, config, work, cpu=False, costs=costs)
    host = next(own for own in plan.stages if own.name == stage).host
    return {title: host.get(title, 0) for title in PLANNED}


@pytest.mark.parametrize(("method", "own"), [*ONCE, *ANEW])
def test_each_thing_is_kept_once(method: str, own: dict[str, Any]) -> None:
    anew = (method, own) in ANEW
    here = editor(method, "device", card=False, **own)
    with pretend_devices():
        away = editor(method, "cpu", card=True, **own)
        reports = []
        for number in range(4):
            reports.append(apply(away, number))
            assert reports[-1].ranks == apply(here, number).ranks
            require_kept_once(away, here, anew=anew)
        for edited in (away, here):
            edited.undo()
        require_kept_once(away, here, anew=anew)
        for edited in (away, here):
            apply(edited, 3)
        require_kept_once(away, here, anew=anew)
        for edited in (away, here):
            edited.restore(reports[:3])
        require_kept_once(away, here, anew=anew)


@pytest.mark.parametrize(("method", "own"), ONCE)
def test_as_much_is_kept_as_was_planned(
    method: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    growing: list[dict[str, int]] = []

    def measure(*args: Any) -> BatchReport:  # when the new states are there, and nothing is shared
        growing.append(held([away._start.layers, away.layer_states, args[4].layers]))
        return measure_batch(*args)

    monkeypatch.setattr("langedit.editing.editor.measure_batch", measure)
    with pretend_devices():
        away = editor(method, "cpu", card=True, **own)
        for number in range(4):
            assert held(states_of(away)) == planned(away.config, number + 1, "targets")
            apply(away, number)
            most = {title: max(one[title] for one in growing) for title in PLANNED}
            assert most == planned(away.config, number + 1, "advance")


def test_a_batch_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no report")

    here = editor("langedit", "device", card=False, corpus_weight=2.0)
    with pretend_devices():
        away = editor("langedit", "cpu", card=True, corpus_weight=2.0)
        for edited in (away, here):
            apply(edited, 0)
            with monkeypatch.context() as patched:
                patched.setattr("langedit.editing.editor.measure_batch", fail)
                with pytest.raises(RuntimeError, match="no report"):
                    apply(edited, 1)
            apply(edited, 2)
        require_kept_once(away, here)


class Brought(TorchDispatchMode):
    """Counts the bytes that come from the card to main memory."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        goes = func._schema.name == "aten::_to_copy" and kwargs.get("device")
        if goes and torch.device(goes).type == "cpu" and args[0].device.type == NAME:
            self.bytes += args[0].nbytes
        return func(*args, **kwargs)


NULL = 34
"""Open directions of 48."""


@pytest.mark.parametrize(
    ("method", "own", "widths"),
    [
        ("langedit", {}, (48,)),
        ("langedit", {"corpus_weight": 2.0}, (48, NULL)),
        ("alphaedit", {}, (48,)),
        ("alphaedit", {"corpus_weight": 2.0}, (NULL,)),
        ("memit-seq", {}, (48,)),
    ],
)
def test_only_what_grew_comes_back(
    method: str, own: dict[str, Any], widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[int] = []
    beside = LayerState.beside

    def count(state: LayerState, *others: LayerState) -> LayerState:
        with Brought() as counted:
            found = beside(state, *others)
        brought.append(counted.bytes)
        return found

    monkeypatch.setattr(LayerState, "beside", count)
    with pretend_devices():
        away = editor(method, "cpu", card=True, **own)
        for number in range(3):
            apply(away, number)
    grown = 2 * (4 * 48 + 8 * sum(widths))  # two keys in float32, other rows in float64
    assert brought == [grown] * 2 * 3  # of two layers, in three batches


@pytest.mark.parametrize(
    ("method", "trips"),
    [("langedit", 2), ("memit-seq", 2), ("memit", 1), ("prune", 1), ("rect", 1)],
)
def test_states_go_to_the_card_no_oftener_than_needed(
    method: str, trips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[torch.device] = []
    move = LayerState.to

    def note(state: LayerState, device: torch.device) -> LayerState:
        if device.type == NAME:
            gone.append(device)
        return move(state, device)

    monkeypatch.setattr(LayerState, "to", note)
    with pretend_devices():
        away = editor(method, "cpu", card=True)
        apply(away, 0)
        apply(away, 1)
    assert len(gone) == trips * 2 * 2  # of two layers, in two batches


@pytest.mark.parametrize(("method", "own"), ONCE[:4])
def test_projections_are_made_on_the_card(
    method: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []
    settle = NullSpaceProjector.settle

    def note(projector: NullSpaceProjector, rows: Tensor) -> Tensor:
        places.append(projector.basis.device.type)
        return settle(projector, rows)

    with pretend_devices():
        away = editor(method, "cpu", card=True, **own)
        monkeypatch.setattr(NullSpaceProjector, "settle", note)
        apply(away, 0)
        apply(away, 1)
    assert set(places) == {"lazy"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighed(LayerState):
    """A state of a plug-in, with a tensor of its own."""

    weights: Tensor

    def to(self, device: torch.device) -> Weighed:
        moved = super().to(device)
        return moved if moved is self else replace(moved, weights=self.weights.to(device))


def test_what_a_subclass_has_goes_as_it_says() -> None:
    with pretend_devices():
        waiting = Weighed(history=torch.zeros(0, 4), weights=torch.zeros(0))
        near = waiting.to(torch.device(CARD))
        after = replace(near.after(torch.ones(2, 4)), weights=torch.ones(2, device=CARD))
        back = after.beside(waiting, near)
        assert (back.device.type, back.weights.device.type) == ("cpu", "cpu")
        assert torch.equal(back.weights, torch.ones(2))
        assert torch.equal(back.history, torch.ones(2, 4))
        assert back.batches == 1
        assert waiting.beside(waiting, waiting) is waiting
