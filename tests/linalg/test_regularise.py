from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg import LowRankUpdate, keep_largest, spectral_excess


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_share_with_the_largest_relative_change_is_kept(share: float) -> None:
    update, weight = randn(10, 20), randn(10, 20, seed=1)
    masked = keep_largest(update, weight, share)
    kept = masked != 0
    assert torch.equal(masked[kept], update[kept])
    assert int(kept.sum()) == pytest.approx(share * 200, abs=2)
    relative = (update / weight).abs()
    assert float(relative[kept].min()) >= float(relative[~kept].max())
    by_size = update.abs()  # control: the size of the change itself would choose others
    assert not float(by_size[kept].min()) >= float(by_size[~kept].max())


def test_entries_as_large_as_the_smallest_kept_stay() -> None:
    update = torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0]])
    masked = keep_largest(update, torch.ones(1, 5), 0.4)
    assert masked.tolist() == [[0.0, 2.0, 2.0, 2.0, 3.0]]


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        keep_largest(randn(2, 3), randn(2, 3), share)


def test_a_weight_of_another_shape_is_refused() -> None:
    with pytest.raises(NumericalError, match=r"\(2, 3\), got \(3, 2\)"):
        keep_largest(randn(2, 3), randn(3, 2), 0.5)


def restrained(update: LowRankUpdate, limit: float) -> Tensor:
    return update.dense() - spectral_excess(update, limit).dense()


@pytest.mark.parametrize("n", [2, 6, 30])
def test_large_singular_values_become_logarithms_and_vectors_stay(n: int) -> None:
    """Against a dense decomposition; n = 30 is more than either side of the matrix."""
    update = LowRankUpdate(left=randn(7, n), right=randn(n, 12, seed=1))
    u, sigma, vt = torch.linalg.svd(update.dense(), full_matrices=False)
    limit = float(sigma[0] * 0.5)
    excess = spectral_excess(update, limit)
    assert 0 < excess.rank < len(sigma)
    assert excess.rank == int((sigma > limit).sum())
    wanted = [s if s <= limit else math.log(s) - math.log(limit) + limit for s in sigma.tolist()]
    expected = u @ torch.diag(torch.tensor(wanted, dtype=torch.float64)) @ vt
    torch.testing.assert_close(restrained(update, limit), expected, rtol=1e-10, atol=1e-10)
    found = torch.linalg.svdvals(restrained(update, limit))
    assert float(found[0]) == pytest.approx(limit + math.log(float(sigma[0]) / limit))
    assert float(found[0]) < float(sigma[0])


def test_an_update_without_large_singular_values_loses_nothing() -> None:
    update = LowRankUpdate(left=randn(7, 3), right=randn(3, 12, seed=1))
    excess = spectral_excess(update, float(torch.linalg.matrix_norm(update.dense(), ord=2)) + 1e-9)
    assert excess.rank == 0
    assert torch.equal(excess.dense(), torch.zeros(7, 12, dtype=torch.float64))


def test_nothing_is_taken_from_no_update() -> None:
    nothing = LowRankUpdate(left=torch.zeros(7, 2), right=torch.zeros(2, 12))
    assert spectral_excess(nothing, 1.0).rank == 0


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="limit"):
        spectral_excess(LowRankUpdate(left=randn(2, 1), right=randn(1, 3)), limit)
