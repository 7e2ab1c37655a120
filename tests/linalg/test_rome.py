from __future__ import annotations

import pytest
import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg import MomentSolver, SecondMoment, rome_update

D_IN, D_OUT = 9, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment() -> SecondMoment:
    rows = randn(60, D_IN, seed=5) * torch.linspace(0.2, 3, D_IN)
    return SecondMoment(count=60, mean=rows.T @ rows / 60)


def solver(weight: float = 1.0) -> MomentSolver:
    return MomentSolver.from_moment(moment(), weight)


def test_the_constraint_is_met_exactly_by_one_rank() -> None:
    read, key, residual = randn(D_IN, seed=1), randn(D_IN, seed=2), randn(D_OUT, seed=3)
    update = rome_update(solver(), read, key, residual)
    assert update.rank == 1
    torch.testing.assert_close(update.dense() @ key, residual, rtol=1e-12, atol=1e-12)
    assert float((update.dense() @ read - residual).norm()) > 0.1  # control: only at that key


def test_it_is_the_formula_of_the_paper() -> None:
    read, key, residual = randn(D_IN, seed=1), randn(D_IN, seed=2), randn(D_OUT, seed=3)
    u = torch.linalg.inv(moment().mean) @ read
    expected = torch.outer(residual, u) / torch.dot(u, key)
    torch.testing.assert_close(rome_update(solver(), read, key, residual).dense(), expected)


def test_no_other_solution_of_the_constraint_is_smaller() -> None:
    """min tr(dW C0 dW^T) subject to dW k = r: the gradient has no part within the constraint."""
    key, residual, c = randn(D_IN, seed=2), randn(D_OUT, seed=3), moment().mean
    best = rome_update(solver(), key, key, residual).dense()
    off = torch.eye(D_IN, dtype=torch.float64) - torch.outer(key, key) / key.dot(key)
    gradient = best @ c @ off
    assert float(gradient.norm()) <= 1e-10 * float((best @ c).norm())

    def size(update: Tensor) -> float:
        return float((update @ c * update).sum())

    for seed in range(20):
        other = best + 0.1 * randn(D_OUT, D_IN, seed=10 + seed) @ off
        torch.testing.assert_close(other @ key, residual)
        assert size(other) > size(best)
    plain = torch.outer(residual, key) / key.dot(key)  # control: C0 matters
    assert size(plain) > 1.01 * size(best)


def test_the_weight_of_the_moment_does_not_matter() -> None:
    read, key, residual = randn(D_IN, seed=1), randn(D_IN, seed=2), randn(D_OUT, seed=3)
    one, many = (rome_update(solver(w), read, key, residual).dense() for w in (1.0, 15000.0))
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize(
    ("read", "key", "message"),
    [
        (torch.zeros(D_IN), torch.ones(D_IN), "uᵀk is 0"),
        (torch.full((D_IN,), torch.nan), torch.ones(D_IN), "keys"),
        (torch.ones(4), torch.ones(4), rf"\(n, {D_IN}\)"),
    ],
)
def test_keys_that_cannot_be_read_are_refused(read: Tensor, key: Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        rome_update(solver(), read, key, torch.ones(D_OUT))
