from __future__ import annotations

import pytest
import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg import LowRankUpdate, SecondMoment, compress_update, key_metric

D_OUT, D_IN, N = 7, 11, 5


def update(seed: int = 0, n: int = N) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(D_OUT, n, generator=generator, dtype=torch.float64)
    right = torch.randn(n, D_IN, generator=generator, dtype=torch.float64)
    return LowRankUpdate(left=left, right=right)


def keys(count: int = 40, seed: int = 1) -> Tensor:
    """Keys of very unequal directions, as those of models are."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -2, D_IN, dtype=torch.float64)
    return torch.randn(count, D_IN, generator=generator, dtype=torch.float64) * scales


def metric(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def error_at(rows: Tensor, exact: Tensor, other: Tensor) -> float:
    """Root mean square over keys of what is missing, one key at a time."""
    total = sum(float((((other - exact) @ key) ** 2).sum()) for key in rows)
    return (total / len(rows)) ** 0.5


def plain_svd(dense: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_error_at_keys_is_the_smallest_there_is(rank: int) -> None:
    rows, exact = keys(), update().dense()
    found = compress_update(update(), metric(rows), rank)
    error = error_at(rows, exact, found.update.dense())
    # Eckart and Young, written out: the singular values of ΔW C^½ that are left out.
    values, vectors = torch.linalg.eigh(metric(rows))
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    left_out = torch.linalg.svdvals(exact @ root)[rank:]
    assert error == pytest.approx(float(left_out.square().sum() ** 0.5), rel=1e-9)
    none = error_at(rows, exact, torch.zeros_like(exact))
    assert found.lost == pytest.approx(error / none, rel=1e-9)
    # The control: the usual truncation is nearer as a matrix, and farther at the keys.
    usual = plain_svd(exact, rank)
    assert error_at(rows, exact, usual) > 1.1 * error
    assert torch.dist(usual, exact) < torch.dist(found.update.dense(), exact)


def test_no_small_step_within_the_rank_is_better() -> None:
    """The gradient with respect to both factors is zero, and random steps lead uphill."""
    exact, c = update().dense(), metric(keys())
    found = compress_update(update(), c, 2).update
    left, right = found.left.clone().requires_grad_(), found.right.clone().requires_grad_()

    def objective(a: Tensor, b: Tensor) -> Tensor:
        missing = a @ b - exact
        return torch.trace(missing @ c @ missing.T)

    reached = objective(left, right)
    reached.backward()
    value = reached.item()
    assert left.grad is not None
    assert right.grad is not None
    assert float(left.grad.norm()) < 1e-9 * value
    assert float(right.grad.norm()) < 1e-9 * value
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        moved = [
            part.detach() + 0.05 * torch.randn(part.shape, generator=generator, dtype=part.dtype)
            for part in (left, right)
        ]
        assert objective(*moved) > value


def test_a_singular_metric_needs_no_inverse() -> None:
    rows = keys(count=3)
    found = compress_update(update(), metric(rows), 3)
    assert found.lost < 1e-7
    assert torch.allclose(rows @ found.update.dense().T, rows @ update().dense().T, atol=1e-9)


def test_what_the_update_does_not_change_stays_unchanged() -> None:
    """The guarantee of orthogonal edits outlives compression."""
    past = keys(count=2, seed=5)
    basis, _ = torch.linalg.qr(past.T)
    whole = update()
    blind = LowRankUpdate(left=whole.left, right=whole.right - whole.right @ basis @ basis.T)
    compressed = compress_update(blind, metric(keys()), 2).update
    assert float((past @ compressed.dense().T).norm()) < 1e-12 * float(past.norm())
    assert float((past @ compress_update(whole, metric(keys()), 2).update.dense().T).norm()) > 1e-3


def test_the_full_rank_gives_the_update_back() -> None:
    found = compress_update(update(), metric(keys()), N)
    assert torch.allclose(found.update.dense(), update().dense(), atol=1e-9)
    assert found.lost < 1e-7


def test_the_dtype_of_the_update_is_kept() -> None:
    found = compress_update(update().to(dtype=torch.float32), metric(keys()), 2)
    assert found.update.left.dtype == found.update.right.dtype == torch.float32
    assert found.update.rank == 2


def test_an_update_that_does_nothing_loses_nothing() -> None:
    zero = LowRankUpdate(left=torch.zeros(D_OUT, 3), right=torch.zeros(3, D_IN))
    found = compress_update(zero, metric(keys()), 1)
    assert found.lost == 0
    assert float(found.update.dense().norm()) == 0


def test_the_metric_is_half_corpus_half_edits() -> None:
    corpus, edited = keys(seed=2), keys(count=4, seed=3)
    moment = SecondMoment(count=len(corpus), mean=metric(corpus))
    assert torch.allclose(key_metric(moment, edited), (metric(corpus) + metric(edited)) / 2)
    with pytest.raises(NumericalError, match="at least one"):
        key_metric(moment, torch.zeros(0, D_IN))


def test_what_cannot_be_compressed() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        compress_update(update(), metric(keys()), 0)
    with pytest.raises(NumericalError, match="metric"):
        compress_update(update(), torch.eye(D_IN + 1), 1)
    with pytest.raises(NumericalError, match="metric"):
        compress_update(update(), torch.ones(2, D_IN), 1)
