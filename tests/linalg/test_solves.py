from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath
import oracles
import pytest
import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg import (
    LowRankUpdate,
    MomentSolver,
    NullSpaceProjector,
    SecondMoment,
    gram,
    memit_update,
    null_fraction,
    projected_update,
)

D_IN, D_OUT = 30, 11


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conditioned_moment(condition: float, d: int = D_IN) -> SecondMoment:
    """A moment with eigenvalues from 1 down to 1/condition, in a random basis."""
    basis = torch.linalg.qr(randn(d, d, seed=9)).Q
    exponent = -torch.log10(torch.tensor(condition, dtype=torch.float64))
    values = torch.logspace(0, float(exponent), d, dtype=torch.float64)
    mean = (basis * values) @ basis.T
    return SecondMoment(count=1000, mean=(mean + mean.T) / 2)


@dataclass
class Problem:
    """One layer: keys and residuals as rows, past keys, a moment, its projector."""

    n: int = 4
    past: int = 6
    condition: float = 1e3
    keys: Tensor = field(init=False)
    residuals: Tensor = field(init=False)
    history: Tensor | None = field(init=False)
    moment: SecondMoment = field(init=False)
    projector: NullSpaceProjector = field(init=False)

    def __post_init__(self) -> None:
        self.keys = randn(self.n, D_IN, seed=1)
        self.residuals = randn(self.n, D_OUT, seed=2)
        self.history = randn(self.past, D_IN, seed=3) if self.past else None
        self.moment = conditioned_moment(self.condition)
        self.projector = NullSpaceProjector.from_moment(self.moment, null_share=0.6)

    @property
    def S(self) -> Tensor | None:
        return None if self.history is None else oracles.outer_sum(self.history.T)


def close(update: LowRankUpdate, expected: Tensor, tolerance: float = 1e-10) -> None:
    error = torch.linalg.matrix_norm(update.dense() - expected)
    assert error <= tolerance * torch.linalg.matrix_norm(expected)


# n + past below, at and above d_in: both sides of the routine's choice of system
SIZES = [(1, 0), (4, 0), (4, 6), (10, 20), (4, 100), (40, 0)]


@pytest.mark.parametrize(("n", "past"), SIZES)
@pytest.mark.parametrize("weight", [0.1, 15000.0])
def test_memit_equals_the_dense_solve(n: int, past: int, weight: float) -> None:
    p = Problem(n, past)
    update = memit_update(p.keys, p.residuals, p.moment, moment_weight=weight, history=p.history)
    close(update, oracles.memit(p.keys.T, p.residuals.T, p.moment.mean, weight, p.S))


@pytest.mark.parametrize(("n", "past"), SIZES)
@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_alphaedit_equals_the_dense_solve(n: int, past: int, ridge: float) -> None:
    p = Problem(n, past)
    update = projected_update(p.projector, p.keys, p.residuals, ridge=ridge, history=p.history)
    expected = oracles.alphaedit(p.projector.dense(), p.keys.T, p.residuals.T, ridge, p.S)
    close(update, expected)


@pytest.mark.parametrize(("n", "past"), SIZES)
def test_projected_and_weighed_equals_the_dense_solve(n: int, past: int) -> None:
    p = Problem(n, past)
    more = {"ridge": 0.1, "history": p.history}
    update = projected_update(
        p.projector, p.keys, p.residuals, moment=p.moment, moment_weight=50.0, **more
    )
    P = p.projector.dense()
    expected = oracles.alphaedit(P, p.keys.T, p.residuals.T, 0.1, p.S, p.moment.mean, 50.0)
    close(update, expected)
    plain = projected_update(p.projector, p.keys, p.residuals, **more)
    assert torch.linalg.matrix_norm(plain.dense() - expected) > 1e-3  # the weight matters


def test_without_history_it_is_langedit_as_the_paper_states_it() -> None:
    p = Problem()
    update = projected_update(p.projector, p.keys, p.residuals, ridge=0.5)
    expected = oracles.langedit_paper(p.projector.dense(), p.keys.T, p.residuals.T, 0.5)
    close(update, expected)


def test_weighed_with_nothing_forbidden_is_memit_plus_ridge() -> None:
    """τ → ∞ and a ridge that tends to zero give MEMIT-seq."""
    p = Problem()
    nothing = NullSpaceProjector.empty(D_IN)
    weighed = projected_update(
        nothing,
        p.keys,
        p.residuals,
        ridge=1e-13,
        history=p.history,
        moment=p.moment,
        moment_weight=7.0,
    )
    memit = memit_update(p.keys, p.residuals, p.moment, moment_weight=7.0, history=p.history)
    close(weighed, memit.dense(), 1e-9)


def test_a_solver_is_the_same_for_every_batch() -> None:
    p = Problem()
    solver = MomentSolver.from_moment(p.moment, 3.0)
    weighed = MomentSolver.from_projected(p.projector, p.moment, 3.0, ridge=0.1)
    for seed in range(3):
        keys = randn(4, D_IN, seed=seed)
        expected = memit_update(keys, p.residuals, p.moment, moment_weight=3.0, history=p.history)
        close(solver.update(keys, p.residuals, history=p.history), expected.dense(), 1e-13)
        expected = projected_update(
            p.projector,
            keys,
            p.residuals,
            ridge=0.1,
            history=p.history,
            moment=p.moment,
            moment_weight=3.0,
        )
        close(weighed.update(keys, p.residuals, history=p.history), expected.dense(), 1e-13)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_forbidden_directions_equal_an_extended_projector(count: int) -> None:
    p = Problem()
    extended = p.projector.extend(randn(count, D_IN, seed=9), 1e-9) if count else p.projector
    forbidden = extended.basis[:, p.projector.rank :]
    assert forbidden.shape[1] == count
    solver = MomentSolver.from_projected(p.projector, p.moment, 3.0, ridge=0.1)
    found = solver.within(extended).update(p.keys, p.residuals, history=p.history)
    expected = oracles.alphaedit(
        extended.dense(), p.keys.T, p.residuals.T, 0.1, p.S, p.moment.mean, 3.0
    )
    close(found, expected)
    assert torch.linalg.matrix_norm(found.dense() @ extended.basis) < 1e-12
    if count:  # control: without them the update reads these directions
        free = solver.update(p.keys, p.residuals, history=p.history)
        assert torch.linalg.matrix_norm(free.dense() @ forbidden) > 1e-2


def skewed(condition: float) -> SecondMoment:
    """A moment whose eigenvalues fall from 1 to 1/condition."""
    vectors, _ = torch.linalg.qr(randn(D_IN, D_IN, seed=21))
    values = torch.logspace(0, -math.log10(condition), D_IN, dtype=torch.float64)
    return SecondMoment(count=1000, mean=(vectors * values) @ vectors.T)


@pytest.mark.parametrize("condition", [1e2, 1e7, 1e12])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_null_space_of_the_moment_itself_needs_no_factor(
    condition: float, share: float
) -> None:
    p, moment = Problem(), skewed(condition)
    projector = NullSpaceProjector.from_moment(moment, null_share=share)
    later = projector.extend(randn(3, D_IN, seed=9), 1e-9)
    fast = MomentSolver.from_null_space(projector, moment, 3.0, ridge=1e-3)
    general = MomentSolver.from_projected(projector, moment, 3.0, ridge=1e-3)
    for history in (None, p.history):
        expected = general.update(p.keys, p.residuals, history=history).dense()
        close(fast.update(p.keys, p.residuals, history=history), expected, 1e-9)
        expected = general.within(later).update(p.keys, p.residuals, history=history).dense()
        found = fast.within(later).update(p.keys, p.residuals, history=history)
        close(found, expected, 1e-9)
        size = torch.linalg.matrix_norm(found.dense())
        assert torch.linalg.matrix_norm(found.dense() @ later.basis) <= 1e-12 * size
    assert fast.tensors[0].shape == (D_IN, projector.left)


@pytest.mark.parametrize(("weight", "ridge"), [(0.0, 0.1), (-1.0, 0.1), (1.0, 0.0)])
def test_weights_out_of_range_are_settings_and_no_moments(weight: float, ridge: float) -> None:
    p = Problem()
    for make in (MomentSolver.from_null_space, MomentSolver.from_projected):
        with pytest.raises(ConfigError, match="finite number above 0"):
            make(p.projector, p.moment, weight, ridge=ridge)


def test_another_projector_is_refused() -> None:
    moment = skewed(100.0)
    own = NullSpaceProjector.from_moment(moment, null_share=0.5)
    others = (
        own.extend(randn(1, D_IN, seed=9), 1e-9),
        NullSpaceProjector.empty(D_IN),
        NullSpaceProjector.from_moment(skewed(1e6), null_share=0.4),
    )
    turned, _ = torch.linalg.qr(randn(D_IN, D_IN, seed=22))
    twin = SecondMoment(count=1000, mean=turned @ moment.mean @ turned.T)  # the same eigenvalues
    for other in (*others, NullSpaceProjector.from_moment(twin, null_share=0.5)):
        with pytest.raises(NumericalError, match="use from_projected"):
            MomentSolver.from_null_space(other, moment, 1.0, ridge=1.0)


def test_forbidden_directions_without_a_projector() -> None:
    p = Problem()
    nothing = NullSpaceProjector.empty(D_IN)
    forbidden = nothing.extend(randn(3, D_IN, seed=9), 1e-9)
    found = MomentSolver.from_moment(p.moment, 3.0).within(forbidden).update(p.keys, p.residuals)
    weighed = projected_update(
        forbidden, p.keys, p.residuals, ridge=1e-13, moment=p.moment, moment_weight=3.0
    )
    close(found, weighed.dense(), 1e-9)


# --- optimality: the gradient of the stated objective is zero at the solve --------------------


def objective(p: Problem, *, weight: float, ridge: float) -> Callable[[Tensor], Tensor]:
    def value(delta: Tensor) -> Tensor:
        total = ((p.keys @ delta.T - p.residuals) ** 2).sum() + ridge * (delta**2).sum()
        if p.history is not None:
            total = total + ((p.history @ delta.T) ** 2).sum()
        return total + weight * torch.trace(delta @ p.moment.mean @ delta.T)

    return value


def gradient(value: Callable[[Tensor], Tensor], delta: Tensor) -> Tensor:
    point = delta.clone().requires_grad_()
    value(point).backward()
    assert point.grad is not None
    return point.grad


@pytest.mark.parametrize("past", [0, 6])
def test_memit_minimises_its_objective(past: int) -> None:
    p = Problem(past=past)
    update = memit_update(p.keys, p.residuals, p.moment, moment_weight=2.0, history=p.history)
    value = objective(p, weight=2.0, ridge=0.0)
    assert gradient(value, update.dense()).abs().max() < 1e-12
    assert gradient(value, torch.zeros(D_OUT, D_IN).double()).abs().max() > 0.1


@pytest.mark.parametrize("past", [0, 6])
@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_projected_update_minimises_its_objective_within_the_null_space(
    past: int, weight: float
) -> None:
    p = Problem(past=past)
    weighed = {"moment": p.moment, "moment_weight": weight} if weight else {}
    update = projected_update(
        p.projector, p.keys, p.residuals, ridge=0.3, history=p.history, **weighed
    )
    P = p.projector.dense()
    slope = gradient(objective(p, weight=weight, ridge=0.3), update.dense())
    assert (slope @ P).abs().max() < 1e-12
    assert slope.abs().max() > 1e-2  # the control: outside the null space it is not zero
    torch.testing.assert_close(update.dense() @ P, update.dense(), rtol=0, atol=1e-14)


# --- the guarantee ----------------------------------------------------------------------------


def relative_change(update: LowRankUpdate, weight: Tensor, keys: Tensor) -> Tensor:
    change = torch.linalg.vector_norm(update.apply_to_keys(keys), dim=1)
    return change / torch.linalg.vector_norm(keys @ weight.T, dim=1)


def test_orthogonal_updates_leave_past_keys_alone_and_others_do_not() -> None:
    weight, moment = randn(D_OUT, D_IN, seed=5), conditioned_moment(1e3)
    projector = NullSpaceProjector.from_moment(moment, null_share=0.8)
    fixed = projector
    past = torch.zeros(0, D_IN, dtype=torch.float64)
    for step in range(4):
        keys, residuals = randn(4, D_IN, seed=10 + step), randn(4, D_OUT, seed=20 + step)
        update = projected_update(projector, keys, residuals, ridge=1e-3)
        assert update.norm() > 0.1
        if step:
            assert relative_change(update, weight, past).max() <= 1e-12
            static = projected_update(fixed, keys, residuals, ridge=1e-3)
            assert relative_change(static, weight, past).max() > 1e-2
            memit = memit_update(keys, residuals, moment, moment_weight=1e-3)
            assert relative_change(memit, weight, past).max() > 1e-2
        past = torch.cat([past, keys])
        projector = projector.extend(keys, 1e-12)


def test_a_small_ridge_fits_the_residuals() -> None:
    p = Problem(past=0)
    update = projected_update(p.projector, p.keys, p.residuals, ridge=1e-9)
    torch.testing.assert_close(update.apply_to_keys(p.keys), p.residuals, rtol=1e-6, atol=1e-6)


def test_a_key_with_nothing_left_gives_no_update_and_no_infinity() -> None:
    p = Problem(past=0)
    projector = p.projector.extend(p.keys[:1], 1e-12)
    assert null_fraction(projector, p.keys)[0] < 1e-13
    assert null_fraction(projector, p.keys)[1:].min() > 0.1
    alone = projected_update(projector, p.keys[:1], p.residuals[:1], ridge=1e-6)
    assert alone.norm() < 1e-6
    both = projected_update(projector, p.keys, p.residuals, ridge=1e-6)
    without = projected_update(projector, p.keys[1:], p.residuals[1:], ridge=1e-6)
    close(both, without.dense(), 1e-6)


# --- conditioning -----------------------------------------------------------------------------


def from_mpmath(matrix: mpmath.matrix) -> Tensor:
    rows = [[float(x) for x in row] for row in matrix.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def exact_memit(p: Problem, weight: float) -> Tensor:
    """MEMIT in 60 digits."""
    with mpmath.workdps(60):
        rows = p.keys if p.history is None else torch.cat([p.history, p.keys])
        Z = mpmath.matrix(rows.tolist())
        A = mpmath.matrix(p.moment.mean.tolist()) * mpmath.mpf(weight) + Z.T * Z
        K, R = mpmath.matrix(p.keys.tolist()), mpmath.matrix(p.residuals.tolist())
        X = mpmath.inverse(A) * K.T * R
        return from_mpmath(X).T


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_memit_is_accurate_for_ill_conditioned_moments(condition: float) -> None:
    p = Problem(n=3, past=4, condition=condition)
    update = memit_update(p.keys, p.residuals, p.moment, moment_weight=1e3, history=p.history)
    exact = exact_memit(p, 1e3)
    # forward error of a stable solve: eps·condition
    close(update, exact, max(1e-12, 1e-15 * condition))
    # and what the edits read is far better determined than the weights
    fit = update.apply_to_keys(p.keys) - p.keys @ exact.T
    assert fit.abs().max() < 1e-11


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_projected_and_weighed_is_accurate_for_ill_conditioned_systems(condition: float) -> None:
    """`ridge·I` against `λ P C0 P` as far apart as the condition number says."""
    p = Problem(n=3, past=4)
    weight = 1e3
    ridge = weight * float(torch.linalg.matrix_norm(p.moment.mean, 2)) / condition
    update = projected_update(
        p.projector,
        p.keys,
        p.residuals,
        ridge=ridge,
        history=p.history,
        moment=p.moment,
        moment_weight=weight,
    )
    with mpmath.workdps(60):
        P, C = mpmath.matrix(p.projector.dense().tolist()), mpmath.matrix(p.moment.mean.tolist())
        assert p.history is not None
        Z = mpmath.matrix(torch.cat([p.history, p.keys]).tolist())
        K, R = mpmath.matrix(p.keys.tolist()), mpmath.matrix(p.residuals.tolist())
        A = P * (Z.T * Z + mpmath.mpf(weight) * C) + mpmath.mpf(ridge) * mpmath.eye(P.rows)
        exact = from_mpmath(mpmath.inverse(A) * P * K.T * R).T
    # P itself is known to rounding only, which the ridge divides
    close(update, exact, max(1e-10, 1e-15 * condition))


@pytest.mark.parametrize("ridge", [1e-2, 1e-6, 1e-10])
def test_projected_update_is_accurate_for_nearly_equal_keys(ridge: float) -> None:
    """Two keys that differ by 1e-6, one key 1e3 long: up to 1e16 in the squared system."""
    p = Problem(n=3, past=0)
    p.keys[1] = p.keys[0] + 1e-6 * p.keys[1]
    p.keys[2] *= 1e3
    update = projected_update(p.projector, p.keys, p.residuals, ridge=ridge)
    with mpmath.workdps(60):
        G = mpmath.matrix(p.projector.apply(p.keys).tolist())
        M = G * G.T + mpmath.eye(3) * mpmath.mpf(ridge)
        X = mpmath.inverse(M) * G
        right = from_mpmath(X)
    exact = p.residuals.T @ right
    close(update, exact, 1e-8)
    if ridge == 1e-10:  # the control: solving the squared system loses four digits more
        G64 = p.projector.apply(p.keys)
        factor = torch.linalg.cholesky(G64 @ G64.T + ridge * torch.eye(3, dtype=torch.float64))
        squared = p.residuals.T @ torch.cholesky_solve(G64, factor)
        assert torch.linalg.matrix_norm(squared - exact) > 1e-6 * torch.linalg.matrix_norm(exact)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keys", "residuals", "history"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs(name: str, bad: float) -> None:
    p = Problem()
    getattr(p, name)[1, 2] = bad
    with pytest.raises(NumericalError, match=f"{name}: 1 of .* row 1"):
        projected_update(p.projector, p.keys, p.residuals, ridge=1.0, history=p.history)
    with pytest.raises(NumericalError, match=f"{name}: 1 of .* row 1"):
        memit_update(p.keys, p.residuals, p.moment, moment_weight=1.0, history=p.history)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_out_of_range(ridge: float) -> None:
    p = Problem()
    with pytest.raises(ConfigError, match="ridge: expected a finite number above 0"):
        projected_update(p.projector, p.keys, p.residuals, ridge=ridge)
    with pytest.raises(ConfigError, match="moment_weight"):
        memit_update(p.keys, p.residuals, p.moment, moment_weight=ridge)
    with pytest.raises(ConfigError, match="together"):
        projected_update(p.projector, p.keys, p.residuals, ridge=1.0, moment=p.moment)


def test_shapes_that_do_not_fit() -> None:
    p = Problem()
    with pytest.raises(NumericalError, match="4 keys and 3 residuals"):
        projected_update(p.projector, p.keys, p.residuals[:3], ridge=1.0)
    with pytest.raises(NumericalError, match="0 keys"):
        memit_update(p.keys[:0], p.residuals[:0], p.moment, moment_weight=1.0)
    with pytest.raises(NumericalError, match=rf"\(n, {D_IN}\), got"):
        memit_update(p.keys[:, :5], p.residuals, p.moment, moment_weight=1.0)
    with pytest.raises(NumericalError, match=r"history: expected"):
        projected_update(p.projector, p.keys, p.residuals, ridge=1.0, history=p.keys[:, :5])


def test_nothing_left_is_an_error() -> None:
    p = Problem()
    full = p.projector.extend(randn(D_IN, D_IN), 1e-10)
    with pytest.raises(NumericalError, match=f"all {D_IN} directions are forbidden"):
        projected_update(full, p.keys, p.residuals, ridge=1.0)
    with pytest.raises(NumericalError, match="none is left"):
        MomentSolver.from_projected(full, p.moment, 1.0, ridge=1.0)


def test_a_singular_moment_is_an_error() -> None:
    p = Problem()
    few = randn(10, D_IN)
    moment = SecondMoment(count=10, mean=gram(few) / 10)
    with pytest.raises(NumericalError, match="singular to working precision"):
        memit_update(p.keys, p.residuals, moment, moment_weight=1.0)


def test_float32_operands_are_solved_in_float64() -> None:
    p = Problem()
    update = projected_update(p.projector, p.keys.float(), p.residuals.float(), ridge=1.0)
    again = projected_update(
        p.projector, p.keys.float().double(), p.residuals.float().double(), ridge=1.0
    )
    assert update.left.dtype == update.right.dtype == torch.float64
    assert torch.equal(update.dense(), again.dense())
