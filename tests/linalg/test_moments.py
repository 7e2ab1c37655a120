from __future__ import annotations

import math
from itertools import pairwise

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langedit.errors import NumericalError
from langedit.linalg import (
    MomentAccumulator,
    MomentSolver,
    NullSpaceProjector,
    SecondMoment,
    gram,
    pooled_moment,
)
from langedit.linalg.whitening import TriangularWhitening


def rows(n: int, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def moment_of(keys: torch.Tensor, *, compensated: bool | None = None) -> SecondMoment:
    accumulator = MomentAccumulator(keys.shape[1], compensated=compensated)
    accumulator.add(keys)
    return accumulator.result()


@pytest.mark.parametrize("compensated", [False, True])
def test_one_block_is_the_mean_of_outer_products(compensated: bool) -> None:
    keys = rows(40, dtype=torch.float32)
    moment = moment_of(keys, compensated=compensated)
    assert moment.count == 40
    assert moment.mean.dtype == torch.float64
    # one float32 product of 40 rows against none
    tolerance = 1e-6 if compensated else 1e-15
    torch.testing.assert_close(
        moment.mean, oracles.second_moment(keys.T), rtol=0, atol=10 * tolerance
    )


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), compensated=st.booleans())
def test_streaming_equals_one_shot(cuts: list[int], compensated: bool) -> None:
    keys = rows(60, dtype=torch.float32)
    accumulator = MomentAccumulator(6, compensated=compensated)
    edges = [0, *sorted(cuts), 60]
    for start, stop in pairwise(edges):
        accumulator.add(keys[start:stop])
    whole = moment_of(keys)
    result = accumulator.result()
    assert result.count == whole.count
    tolerance = 1e-5 if compensated else 1e-13
    torch.testing.assert_close(result.mean, whole.mean, rtol=0, atol=tolerance)


def test_moment_is_symmetric_bit_for_bit() -> None:
    mean = moment_of(rows(500, 33)).mean
    assert torch.equal(mean, mean.T)


def test_uncentred_and_not_a_sum() -> None:
    keys = torch.full((10, 2), 3.0, dtype=torch.float64)
    assert torch.equal(moment_of(keys).mean, torch.full((2, 2), 9.0, dtype=torch.float64))
    assert torch.equal(gram(keys), torch.full((2, 2), 90.0, dtype=torch.float64))


def test_merge_commutes_associates_and_equals_one_shot() -> None:
    parts = [rows(n, seed=n) for n in (3, 50, 700)]
    a, b, c = (moment_of(part) for part in parts)
    assert torch.equal(a.merge(b).mean, b.merge(a).mean)
    left, right, whole = a.merge(b).merge(c), a.merge(b.merge(c)), moment_of(torch.cat(parts))
    assert left.count == right.count == whole.count == 753
    torch.testing.assert_close(left.mean, right.mean, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("compensated", [False, True])
def test_merge_of_accumulators_equals_merge_of_results(compensated: bool) -> None:
    first, second = rows(20, dtype=torch.float32), rows(30, seed=1, dtype=torch.float32)
    merged = MomentAccumulator(6, compensated=compensated)
    merged.add(first)
    other = MomentAccumulator(6, compensated=compensated)
    other.add(second)
    merged.merge(other)
    expected = moment_of(first).merge(moment_of(second))
    assert merged.result().count == expected.count
    tolerance = 1e-5 if compensated else 1e-14
    torch.testing.assert_close(merged.result().mean, expected.mean, rtol=0, atol=tolerance)


def test_compensation_keeps_what_plain_float32_loses() -> None:
    """After one large key, small ones vanish from a float32 sum but not from the pair."""
    large = torch.tensor([[4096.0]])
    small = torch.full((1, 1), 0.5)
    pair, plain = MomentAccumulator(1, compensated=True), large.T @ large
    pair.add(large)
    for _ in range(1000):
        pair.add(small)
        plain = plain + small.T @ small
    exact = 4096.0**2 + 1000 * 0.25
    assert float(pair.result().mean) * 1001 == pytest.approx(exact, rel=1e-12)
    assert float(plain) == 4096.0**2  # the control: every small key was lost


def test_long_compensated_stream_is_as_good_as_its_products() -> None:
    keys = rows(20_000, 4, dtype=torch.float32) + 1.0
    exact = moment_of(keys).mean
    pair = moment_of(keys, compensated=True).mean
    error = (pair - exact).abs().max() / exact.abs().max()
    assert error < 1e-7  # float32 eps: only the rounding inside blocks of 256 is left


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_keys_are_refused_and_not_added(bad: float, compensated: bool) -> None:
    accumulator = MomentAccumulator(2, compensated=compensated)
    accumulator.add(torch.ones(3, 2))
    keys = torch.ones(4, 2)
    keys[2, 1] = bad
    with pytest.raises(NumericalError, match=r"keys: 1 of 8 values are not finite.* row 2"):
        accumulator.add(keys)
    assert accumulator.count == 3
    assert torch.equal(accumulator.result().mean, torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("compensated", [False, True])
def test_wrong_width_is_refused(compensated: bool) -> None:
    with pytest.raises(NumericalError, match=r"\(n, 4\), got \(2, 3\)"):
        MomentAccumulator(4, compensated=compensated).add(torch.ones(2, 3))


def test_keys_of_another_precision_are_summed_in_float64() -> None:
    keys = rows(50).to(torch.bfloat16)
    torch.testing.assert_close(moment_of(keys).mean, moment_of(keys.double()).mean, rtol=0, atol=0)
    with pytest.raises(NumericalError, match="int64"):
        MomentAccumulator(2).add(torch.ones(1, 2, dtype=torch.int64))


def test_to_changes_the_precision_and_nothing_else() -> None:
    moment = moment_of(rows(50))
    half = moment.to(dtype=torch.float32)
    assert half.count == 50
    assert torch.equal(half.mean, moment.mean.float())


def test_no_key_at_all_is_an_error() -> None:
    accumulator = MomentAccumulator(3)
    accumulator.add(torch.zeros(0, 3))
    with pytest.raises(NumericalError, match="no key was added"):
        accumulator.result()


def test_merge_refuses_other_widths_and_modes() -> None:
    with pytest.raises(NumericalError, match="expected width 6, got 4"):
        moment_of(rows(5)).merge(moment_of(rows(5, 4)))
    with pytest.raises(NumericalError, match="compensated=True"):
        MomentAccumulator(3).merge(MomentAccumulator(3, compensated=True))
    with pytest.raises(NumericalError, match="width 4"):
        MomentAccumulator(3).merge(MomentAccumulator(4))


@pytest.mark.parametrize(
    ("mean", "count", "message"),
    [
        (torch.ones(2, 3), 1, "square"),
        (torch.ones(4), 1, "square"),
        (torch.ones(2, 2).half(), 1, "float16"),
        (torch.ones(2, 2), 0, "count"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), 1, "not finite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1, "symmetric"),
    ],
)
def test_what_is_no_second_moment_is_refused(mean: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        SecondMoment(count=count, mean=mean)


def falling(n: int, d: int, smallest: float) -> torch.Tensor:
    """Float32 keys in whose moment eigenvalues fall from 1 to about `smallest`."""
    basis = torch.linalg.qr(rows(d, d, seed=7)).Q
    lengths = torch.logspace(0, math.log10(smallest) / 2, d, dtype=torch.float64)
    return ((rows(n, d, seed=8) * lengths) @ basis).float()


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("d", [5, 300, 600])
def test_what_float32_products_lose_is_measured(d: int, compensated: bool) -> None:
    keys = falling(5000, d, 1e-6)
    single = MomentAccumulator(d, compensated=compensated, products=torch.float32)
    for block in keys.split(700):
        single.add(block)
    found, exact = single.result(), moment_of(keys)
    lost = float(torch.linalg.matrix_norm(found.mean - exact.mean))
    assert exact.rounding == 0.0
    assert 0 < lost < 1e-6 * float(torch.linalg.matrix_norm(exact.mean))
    assert 0.3 * lost <= found.rounding <= 3 * lost
    values = [torch.linalg.eigvalsh(own.mean) for own in (found, exact)]
    assert float((values[0] - values[1]).abs().max()) <= 3 * found.rounding


def test_a_sum_that_is_wrong_is_measured_as_wrong() -> None:
    keys = rows(100, 20, dtype=torch.float32)
    single = MomentAccumulator(20, products=torch.float32)
    single.add(keys)
    right = single.result().rounding
    single._sum[3, 1] += 1.0  # an entry and its mirror image
    assert single.result().rounding * 100 == pytest.approx(2**0.5, rel=0.7)
    assert right * 100 < 1e-4


def test_products_in_float32_are_those_in_float64_to_rounding() -> None:
    keys = rows(3000, 400, dtype=torch.float32)
    single = MomentAccumulator(400, products=torch.float32)
    single.add(keys)
    torch.testing.assert_close(single.result().mean, moment_of(keys).mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(single.result().mean, single.result().mean.T)
    assert single.result().mean.dtype == torch.float64


def test_rounding_stays_with_the_moment() -> None:
    moment = SecondMoment(count=10, mean=torch.eye(3, dtype=torch.float64), rounding=0.4)
    other = SecondMoment(count=30, mean=torch.eye(3, dtype=torch.float64))
    assert moment.merge(other).rounding == pytest.approx(0.1)
    assert moment.decomposed().rounding == moment.to(dtype=torch.float64).rounding == 0.4
    third = SecondMoment(count=1, mean=torch.eye(3, dtype=torch.float64) / 3)
    stored = third.to(dtype=torch.float32)
    assert stored.rounding == pytest.approx(3**0.5 * abs(float(stored.mean[0, 0]) - 1 / 3))
    assert pooled_moment(moment, torch.eye(3), edits=1, corpus_weight=3).rounding == pytest.approx(
        0.3
    )


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda m: NullSpaceProjector.from_moment(m, threshold=0.5), "cuts the null space"),
        (lambda m: MomentSolver.from_moment(m, 3.0), "its smallest eigenvalue"),
        (
            lambda m: MomentSolver.from_projected(NullSpaceProjector.empty(3), m, 10.0, ridge=0.1),
            "ridge / corpus_weight",
        ),
    ],
)
def test_a_moment_that_is_not_known_well_enough_is_refused(use, what: str) -> None:
    values = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    for rounding, refused in ((0.0, False), (1e-4, False), (0.2, True)):
        moment = SecondMoment(count=10, mean=values.diag(), rounding=rounding)
        if not refused:
            use(moment)
            continue
        with pytest.raises(NumericalError, match=f"a tenth of .*{what}.*--precision float64"):
            use(moment)


def test_a_factor_knows_its_smallest_eigenvalue_and_not_its_smallest_pivot() -> None:
    values = torch.logspace(0, -7, 200, dtype=torch.float64)
    basis = torch.linalg.qr(rows(200, 200)).Q
    factor = TriangularWhitening.of((basis * values) @ basis.T)
    assert 1e-7 * 0.999 <= factor.smallest() <= 2e-7
    assert float(factor.factor.diagonal().amin()) ** 2 > 5e-7  # the control
