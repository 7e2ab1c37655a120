from __future__ import annotations

import oracles
import pytest
import torch
from torch import Tensor

from langedit.editing import EditConfig, LayerState, find_method
from langedit.editing.methods import ClosedForm, settings_read
from langedit.editing.methods.memit import Memit, solver_of
from langedit.editing.methods.null_space import corpus_moment, projector_of
from langedit.errors import MomentsError
from langedit.linalg import SecondMoment
from langedit.method_points import BUILT_IN

D_IN, D_MODEL, TAU = 24, 5, 0.6


def config(**settings: object) -> EditConfig:
    standard = {"layers": (0,), "null_threshold": TAU, "ridge": 0.3, "moment_weight": 2.0}
    return EditConfig(**{**standard, "moment_count": 50, **settings})


def method(**settings: object) -> ClosedForm:
    chosen = config(**settings)
    return find_method(chosen.method).from_config(chosen)


def moment() -> SecondMoment:
    generator = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.2, 1.5, D_IN).double()
    rows = torch.randn(200, D_IN, generator=generator, dtype=torch.float64) * scale
    return SecondMoment(count=200, mean=rows.T @ rows / 200)


def batches(count: int = 3, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(size, D_IN, generator=generator),
            torch.randn(size, D_MODEL, generator=generator),
        )
        for _ in range(count)
    ]


def run(chosen: ClosedForm) -> tuple[list[Tensor], list[LayerState]]:
    """Dense updates of the batches in turn, and the states before each."""
    updates, states = [], [chosen.start(0, moment())]
    for keys, residuals in batches():
        updates.append(chosen.solve(states[-1], keys, residuals).dense())
        states.append(chosen.advance(states[-1], keys))
    return updates, states


def projected(
    projector: Tensor,
    keys: Tensor,
    residuals: Tensor,
    past: Tensor,
    *,
    ridge: float = 0.3,
    corpus: float = 0.0,
) -> Tensor:
    """`(P (K K^T + S + lambda C0) + L2 I)^-1 P K R^T`, transposed; rows are items."""
    gram = oracles.outer_sum(keys.T) + (oracles.outer_sum(past.T) if len(past) else 0)
    left = projector @ (gram + corpus * moment().mean) + ridge * torch.eye(D_IN).double()
    right = projector @ keys.double().T @ residuals.double()
    return torch.linalg.solve(left, right).T


def assert_updates(chosen: ClosedForm, expected: list[Tensor]) -> None:
    updates, _ = run(chosen)
    for found, wanted in zip(updates, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_alphaedit_keeps_its_projector_and_counts_the_past() -> None:
    p = oracles.null_projector(moment().mean, TAU)
    past, expected = torch.zeros(0, D_IN), []
    for keys, residuals in batches():
        expected.append(projected(p, keys, residuals, past))
        past = torch.cat([past, keys])
    assert_updates(method(method="alphaedit"), expected)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_without_history_only_the_projector_protects_the_past(weight: float) -> None:
    p, none = oracles.null_projector(moment().mean, TAU), torch.zeros(0, D_IN)
    expected = [projected(p, keys, residuals, none, corpus=weight) for keys, residuals in batches()]
    chosen = method(method="alphaedit", solve_history=False, corpus_weight=weight)
    assert_updates(chosen, expected)
    with_history = run(method(method="alphaedit", corpus_weight=weight))[0]
    assert not torch.allclose(with_history[1], expected[1], rtol=1e-3)


@pytest.mark.parametrize("refresh", [None, 100])
@pytest.mark.parametrize("projection", ["released", "pooled"])
def test_refreshed_projectors(projection: str, refresh: int | None) -> None:
    running, past, expected = moment().mean, torch.zeros(0, D_IN), []
    for t, (keys, residuals) in enumerate(batches()):
        n = refresh or len(keys)
        past_sum = oracles.outer_sum(past.T)
        if t and projection == "released":
            running = 50 / (50 + n * t) * running + n / (50 + n * t) * past_sum
        if projection == "pooled":
            running = (50 * moment().mean + past_sum) / (50 + n * t)
        p = oracles.null_projector(running, TAU)
        expected.append(projected(p, keys, residuals, past))
        past = torch.cat([past, keys])
    assert_updates(method(projection=projection, refresh_edits=refresh), expected)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_orthogonal_and_weighed(weight: float) -> None:
    """The corpus stays in the solve, and earlier keys stay forbidden all the same."""
    p, expected = oracles.null_projector(moment().mean, TAU), []
    for keys, residuals in batches():
        expected.append(projected(p, keys, residuals, torch.zeros(0, D_IN), corpus=weight))
        p = oracles.orthogonal_projector(p, keys.T)
    chosen = method(projection="orthogonal", corpus_weight=weight)
    assert_updates(chosen, expected)
    first = batches()[0][0].double()
    for later in run(chosen)[0][1:]:
        assert float((first @ later.T).norm()) < 1e-12


def test_alphaedit_weighed() -> None:
    p, past, expected = oracles.null_projector(moment().mean, TAU), torch.zeros(0, D_IN), []
    for keys, residuals in batches():
        expected.append(projected(p, keys, residuals, past, corpus=4.0))
        past = torch.cat([past, keys])
    assert_updates(method(method="alphaedit", corpus_weight=4.0), expected)


@pytest.mark.parametrize("name", ["alphaedit", "memit-seq"])
def test_earlier_keys_weigh_the_same_where_their_system_is_ill_conditioned(name: str) -> None:
    """Then nothing is kept of them but themselves, and every batch solves with all of them."""
    known = method(method=name)
    forgetful = method(method=name, ridge=0.3e-7, moment_weight=2e-7)
    assert run(known)[1][-1].memory is not None
    states = run(forgetful)[1]
    assert [state.memory is None for state in states] == [False, True, True, True]
    for ridge, weight, chosen in ((0.3, 2.0, known), (0.3e-7, 2e-7, forgetful)):
        past, expected = torch.zeros(0, D_IN), []
        p = oracles.null_projector(moment().mean, TAU) if name == "alphaedit" else torch.eye(D_IN)
        for keys, residuals in batches():
            if name == "alphaedit":
                expected.append(projected(p, keys, residuals, past, ridge=ridge))
            else:
                gram = oracles.outer_sum(keys.T) + oracles.outer_sum(past.T)
                left = gram + weight * moment().mean
                expected.append(torch.linalg.solve(left, keys.double().T @ residuals.double()).T)
            past = torch.cat([past, keys])
        for found, wanted in zip(run(chosen)[0], expected, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["langedit", "alphaedit"])
def test_a_relative_ridge_fits_itself_to_the_keys(name: str) -> None:
    """tr(P C0) is the mean squared length of what is left of a key: scaled keys, scaled ridge."""
    chosen = method(method=name, relative_ridge=0.2, null_threshold=None, null_share=0.5)
    mean = moment().mean
    eigenvalues = torch.linalg.eigvalsh(mean)
    expected = 0.2 * float(eigenvalues[: D_IN // 2].sum())
    for scale in (1.0, 1e-4, 1e6):
        state = chosen.start(0, SecondMoment(count=200, mean=mean * scale))
        assert state.ridge == pytest.approx(expected * scale, rel=1e-9)
    assert method(method=name).start(0, moment()).ridge == 0.3  # control: an absolute one stays


def test_orthogonal_projection_forbids_every_past_key() -> None:
    p, expected = oracles.null_projector(moment().mean, TAU), []
    for keys, residuals in batches():
        expected.append(projected(p, keys, residuals, torch.zeros(0, D_IN)))
        p = oracles.orthogonal_projector(p, keys.T)
    chosen = method(projection="orthogonal")
    assert_updates(chosen, expected)
    updates, states = run(chosen)
    first = batches()[0][0].double()
    assert float((first @ updates[0].T).norm()) > 0.1  # the batch itself is felt
    for later in updates[1:]:
        assert float((first @ later.T).norm()) < 1e-12
    assert [state.projector.left for state in states if state.projector] == [
        states[0].projector.left - 2 * t for t in range(4) if states[0].projector
    ]


def test_memit_with_and_without_memory() -> None:
    past, alone, remembering = torch.zeros(0, D_IN), [], []
    for keys, residuals in batches():
        for found, history in ((alone, past[:0]), (remembering, past)):
            gram = oracles.outer_sum(keys.T) + oracles.outer_sum(history.T) + 2 * moment().mean
            found.append(torch.linalg.solve(gram, keys.double().T @ residuals.double()).T)
        past = torch.cat([past, keys])
    assert_updates(method(method="memit"), alone)
    assert_updates(method(method="memit-seq"), remembering)


@pytest.mark.parametrize(
    "chosen",
    [
        {"method": "langedit", "projection": "orthogonal"},
        {"method": "langedit", "projection": "pooled"},
        {"method": "langedit", "projection": "released"},
        {"method": "alphaedit"},
        {"method": "memit"},
        {"method": "memit-seq"},
    ],
    ids=lambda chosen: "-".join(chosen.values()),
)
def test_a_state_never_changes(chosen: dict[str, str]) -> None:
    one = method(**chosen)
    state = one.start(0, moment())
    (keys, residuals), (others, _), _ = batches()
    before = one.solve(state, keys, residuals).dense()
    later = one.advance(one.advance(state, keys), others)
    assert torch.equal(later.history, torch.cat([keys, others]))
    assert (state.batches, later.batches, len(state.history)) == (0, 2, 0)
    assert torch.equal(one.solve(state, keys, residuals).dense(), before)


def test_states_of_other_methods_are_refused() -> None:
    state = method(method="memit").start(0, moment())
    with pytest.raises(MomentsError, match="projector"):
        projector_of(state)
    with pytest.raises(MomentsError, match="second moment"):
        corpus_moment(state)
    with pytest.raises(MomentsError, match="factored"):
        solver_of(method(method="alphaedit").start(0, moment()))


class Recording:
    """A config that remembers which of its settings were asked for."""

    def __init__(self, config):
        self.config, self.asked = config, set()

    def __getattr__(self, name):
        found = getattr(self.config, name)
        self.asked |= {name} & set(EditConfig.model_fields)
        return found


@pytest.mark.parametrize("name", [point.name for point in BUILT_IN])
def test_a_method_says_which_settings_it_reads(name):
    config = EditConfig(method=name, layers=[0], null_share=0.5)
    recording = Recording(config)
    find_method(name).from_config(recording)
    reads = settings_read(name)
    assert recording.asked <= reads <= set(EditConfig.model_fields) - {"method"}
    assert ("norm_clamp" in reads) == (name not in ("ft", "ft-l"))


def test_what_a_plug_in_inherits_is_not_all_that_it_reads(monkeypatch):
    class Own(Memit):
        pass

    monkeypatch.setattr("langedit.editing.methods.registry.find_method", lambda name: Own)
    assert settings_read("own") is None
