from __future__ import annotations

import pytest
import torch

from langedit.errors import NumericalError
from langedit.linalg import DenseUpdate, LowRankUpdate


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 3, 20])
def test_factors_and_dense_agree(n: int) -> None:
    update = LowRankUpdate(left=randn(5, n), right=randn(n, 8, seed=1))
    keys = randn(4, 8, seed=2)
    assert update.rank == n
    assert update.dense().shape == (5, 8)
    torch.testing.assert_close(update.apply_to_keys(keys), keys @ update.dense().T)
    norm = float(torch.linalg.matrix_norm(update.dense()))
    assert update.norm() == pytest.approx(norm, rel=1e-12)


def test_norm_survives_cancellation() -> None:
    """Two rank-one parts that cancel to 1e-10: a norm from Gram matrices would be rounding."""
    left, right = randn(5, 1), randn(1, 8, seed=1)
    faint = 1e-10 * randn(5, 1, seed=2)
    update = LowRankUpdate(left=torch.cat([left, -left + faint], 1), right=torch.cat([right] * 2))
    expected = float(torch.linalg.vector_norm(faint) * torch.linalg.vector_norm(right))
    assert update.norm() == pytest.approx(expected, rel=1e-4)


def test_to_casts_both_factors() -> None:
    update = LowRankUpdate(left=randn(5, 2), right=randn(2, 8)).to(dtype=torch.float32)
    assert update.left.dtype == update.right.dtype == torch.float32
    assert update.apply_to_keys(randn(3, 8)).dtype == torch.float32


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (randn(5, 2), randn(3, 8), r"\(n, d_in\)"),
        (randn(5), randn(5, 8), r"\(n, d_in\)"),
        (randn(5, 2), randn(2, 8).float(), "one dtype"),
        (randn(5, 2), torch.full((2, 8), float("nan"), dtype=torch.float64), "right factor"),
        (torch.full((5, 2), float("inf"), dtype=torch.float64), randn(2, 8), "left factor"),
    ],
)
def test_what_does_not_fit_is_refused(
    left: torch.Tensor, right: torch.Tensor, message: str
) -> None:
    with pytest.raises(NumericalError, match=message):
        LowRankUpdate(left=left, right=right)


def test_keys_of_another_width_are_refused() -> None:
    update = LowRankUpdate(left=randn(5, 2), right=randn(2, 8))
    with pytest.raises(NumericalError, match=r"\(m, 8\), got \(1, 7\)"):
        update.apply_to_keys(randn(1, 7))


def test_joined_factors_are_the_sum() -> None:
    one = LowRankUpdate(left=randn(5, 2), right=randn(2, 8))
    other = LowRankUpdate(left=randn(5, 3, seed=1), right=randn(3, 8, seed=1))
    joined = LowRankUpdate.join([one, other])
    assert joined.rank == 5
    torch.testing.assert_close(joined.dense(), one.dense() + other.dense())


def test_a_dense_update_answers_like_its_factors() -> None:
    factors = LowRankUpdate(left=randn(5, 2), right=randn(2, 8))
    dense = DenseUpdate(matrix=factors.dense())
    keys = randn(4, 8, seed=2)
    torch.testing.assert_close(dense.apply_to_keys(keys), factors.apply_to_keys(keys))
    assert dense.norm() == pytest.approx(factors.norm(), rel=1e-12)
    assert torch.equal(dense.dense(), factors.dense())
    assert dense.rank is None
    assert dense.device == factors.device
    assert dense.to(dtype=torch.float32).matrix.dtype == torch.float32


@pytest.mark.parametrize(
    ("matrix", "message"),
    [(randn(5), r"\(d_out, d_in\)"), (torch.full((2, 3), float("nan")), "not finite")],
)
def test_a_dense_update_that_does_not_fit_is_refused(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        DenseUpdate(matrix=matrix)
    with pytest.raises(NumericalError, match=r"\(m, 8\), got \(1, 7\)"):
        DenseUpdate(matrix=randn(5, 8)).apply_to_keys(randn(1, 7))
