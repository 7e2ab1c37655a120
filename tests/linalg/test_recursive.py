"""Rows that come batch by batch: what is known of the earlier ones replaces solving for them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg import (
    MomentSolver,
    NullSpaceProjector,
    RecursiveRidge,
    SecondMoment,
    projected_update,
)
from langedit.linalg.ridge import SQUARABLE, ridge_directions
from langedit.profiler import Profiler

D = 40


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(rows: Tensor, count: int, ridge: float) -> Tensor:
    """By the definition, with an inverse."""
    system = rows.T @ rows + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
    return (rows @ torch.linalg.inv(system))[-count:]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@given(
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    ridge=st.sampled_from([0.03, 1.0, 50.0]),
)
def test_every_batch_is_that_of_the_whole_system(cuts: list[int], ridge: float) -> None:
    """Also where there are more rows than the width, and less room is made for them."""
    rows, known, start = randn(sum(cuts), D), RecursiveRidge.begin(D, ridge), 0
    for count in cuts:
        batch = rows[start : start + count]
        start += count
        found = known.directions(batch)
        assert found is not None
        assert distance(found, naive(rows[:start], count, ridge)) < 1e-11
        known = known.after(batch)
        assert len(known.soft) <= 1.25 * D
    assert known.count == sum(cuts)
    eye = torch.eye(D, dtype=torch.float64)
    expected = ridge * torch.linalg.inv(rows.T @ rows + ridge * eye)
    assert distance(eye - known.soft.T @ known.soft, expected) < 1e-11


def streams(kind: str) -> Tensor:
    """400 rows of width 200, well or badly conditioned."""
    rows = randn(400, 200, seed=1)
    if kind == "falling":
        return rows * torch.logspace(0, -5, 200, dtype=torch.float64)
    if kind == "twice":
        return torch.cat([rows[:200], rows[:200] + 1e-5 * rows[200:]])
    return rows[:1] + 1e-4 * rows if kind == "alike" else rows


@pytest.mark.parametrize("kind", ["random", "falling", "twice", "alike"])
@pytest.mark.parametrize("condition", [1e2, 1e5, 0.99 * SQUARABLE])
def test_no_more_digits_are_lost_than_by_one_decomposition(kind: str, condition: float) -> None:
    """Against a QR decomposition that never forms a product, up to the bound that is let pass."""
    rows = streams(kind)
    ridge = sum(float(torch.linalg.matrix_norm(b, ord=2)) ** 2 for b in rows.split(20)) / condition
    known = RecursiveRidge.begin(200, ridge)
    for batch in rows.split(20):
        found = known.directions(batch)
        known = known.after(batch)
        assert found is not None
        assert known is not None
    tall = torch.cat([rows, ridge**0.5 * torch.eye(200, dtype=torch.float64)])
    upper = torch.linalg.qr(tall, mode="r").R
    exact = torch.cholesky_solve(rows[-20:].T, upper.T, upper=False).T
    assert distance(found, exact) < 1e-9


def test_rows_that_are_too_long_for_it_are_told() -> None:
    known = RecursiveRidge.begin(D, 1.0)
    rows = randn(4, D)
    long = rows * (SQUARABLE**0.5 / float(torch.linalg.matrix_norm(rows, ord=2)))
    for own, borne in ((0.99 * long, True), (1.01 * long, False)):
        assert (known.directions(own) is not None) == borne
        assert (known.after(own) is not None) == borne
    half = 0.75 * long
    once = known.after(half)
    assert once is not None
    assert once.directions(half) is None, "energies add up"


def test_many_rows_that_have_little_in_common_are_borne() -> None:
    """The sum of squares of all of them would be far above the bound, their condition is not."""
    width = 300
    rows = randn(40 * 30, width)
    ridge = float(rows.norm()) ** 2 / 10 / SQUARABLE
    known = RecursiveRidge.begin(width, ridge)
    for batch in rows.split(30):
        known = known.after(batch)
        assert known is not None
    largest = float(torch.linalg.matrix_norm(rows, ord=2)) ** 2
    assert largest <= known.energy <= SQUARABLE * ridge
    last = randn(30, width, seed=4)
    found = known.directions(last)
    assert found is not None
    assert distance(found, ridge_directions(torch.cat([rows, last]), 30, ridge)) < 1e-9


@pytest.mark.parametrize("past", [0, 25, 90])
def test_more_rows_than_the_width_are_solved_for_together_and_join_all_the_same(past: int) -> None:
    """Their own system would be the larger one."""
    history, rows, last = randn(past, D, seed=1), randn(3 * D + 5, D, seed=2), randn(5, D, seed=3)
    known = RecursiveRidge.begin(D, 0.5)
    known = known if past == 0 else known.after(history)
    assert known.directions(rows) is None
    known = known.after(rows)
    assert known.count == past + len(rows)
    assert len(known.soft) <= 1.25 * D
    found = known.directions(last)
    assert found is not None
    assert distance(found, naive(torch.cat([history, rows, last]), 5, 0.5)) < 1e-11


def test_what_was_made_smaller_gives_the_same_bits_wherever_it_is_kept() -> None:
    """Kept as the beginning of a later one, as for undo, it goes on as if there had been none."""
    known = RecursiveRidge.begin(152, 1.0)
    smaller = 0
    for seed in range(24):
        rows, other = randn(25, 152, seed=seed), randn(25, 152, seed=100 + seed)
        after = known.after(rows)
        shared = known.sharing(after)
        for own in (other, rows):
            assert torch.equal(shared.directions(own.clone()), known.directions(own.clone()))
        assert torch.equal(shared.after(other).soft, known.after(other).soft)
        smaller += len(after.soft) < len(known.soft)
        known = after
    assert smaller > 3


def update_of(
    way: str, history: Tensor | None, known: RecursiveRidge | None, keys: Tensor
) -> Tensor:
    residuals = randn(len(keys), 7, seed=9)
    if way == "projected":
        return projected_update(
            PROJECTOR, keys, residuals, ridge=RIDGE, history=history, memory=known
        ).dense()
    return SOLVERS[way].update(keys, residuals, history=history, memory=known).dense()


RIDGE = 0.2
MOMENT = SecondMoment(count=100, mean=randn(100, D, seed=5).T @ randn(100, D, seed=5) / 100)
PROJECTOR = NullSpaceProjector.from_moment(MOMENT, null_share=0.6)
SOLVERS = {
    "memit": MomentSolver.from_moment(MOMENT, 3.0),
    "weighed": MomentSolver.from_null_space(PROJECTOR, MOMENT, 3.0, ridge=RIDGE),
    "another projector": MomentSolver.from_projected(
        NullSpaceProjector.empty(D).extend(randn(5, D, seed=6), 1e-9), MOMENT, 3.0, ridge=RIDGE
    ),
}


def coordinates(way: str, keys: Tensor) -> Tensor:
    return PROJECTOR.project_keys(keys) if way == "projected" else SOLVERS[way].coordinates(keys)


@pytest.mark.parametrize("way", ["projected", *SOLVERS])
def test_updates_are_those_with_the_whole_history(way: str) -> None:
    width = coordinates(way, randn(1, D)).shape[1]
    known = RecursiveRidge.begin(width, RIDGE if way == "projected" else 1.0)
    history: Tensor | None = None
    for seed in range(12):
        keys = randn(9, D, seed=20 + seed)
        expected = update_of(way, history, None, keys)
        assert distance(update_of(way, history, known, keys), expected) < 1e-11
        if history is not None:  # the control: without it the update is another
            assert distance(update_of(way, None, None, keys), expected) > 1e-2
        known = known.after(coordinates(way, keys))
        history = keys if history is None else torch.cat([history, keys])


@pytest.mark.parametrize("way", ["projected", "memit"])
def test_keys_that_are_too_long_for_it_are_solved_with_the_whole_history(way: str) -> None:
    known = RecursiveRidge.begin(D, RIDGE if way == "projected" else 1.0)
    history = randn(9, D, seed=1)
    known = known.after(coordinates(way, history))
    keys = 1e5 * randn(9, D, seed=2)
    assert known.directions(coordinates(way, keys)) is None
    expected = update_of(way, history, None, keys)
    assert torch.equal(update_of(way, history, known, keys), expected)


@pytest.mark.parametrize("way", ["projected", "memit"])
def test_the_memory_of_another_history_is_refused(way: str) -> None:
    known = RecursiveRidge.begin(D, RIDGE if way == "projected" else 1.0)
    with pytest.raises(NumericalError, match="that of the 3 keys of the history, got one of 0"):
        update_of(way, randn(3, D), known, randn(2, D))
    with pytest.raises(NumericalError, match="that of the 0 keys of the history, got one of 2"):
        update_of(way, None, known.after(randn(2, D)), randn(2, D))


def test_the_memory_of_another_ridge_is_refused() -> None:
    with pytest.raises(NumericalError, match=r"one of ridge 0\.2, got 3\.0"):
        update_of("projected", None, RecursiveRidge.begin(D, 3.0), randn(2, D))


def test_a_batch_costs_what_its_products_with_earlier_rows_cost() -> None:
    """So its operations grow with the rows so far, not with their square or cube."""

    def operations(edits: int, *, whole: bool) -> int:
        rows, batch, profiler = randn(edits, 1000), randn(10, 1000, seed=1), Profiler()
        known = RecursiveRidge.begin(1000, 1e4).after(rows)
        with profiler.stage("batch"):
            if whole:
                ridge_directions(torch.cat([rows, batch]), 10, 1e4)
            else:
                known.directions(batch)
                known.after(batch)
        return profiler.costs["batch"].flops

    few, many = operations(100, whole=False), operations(800, whole=False)
    products = 2 * 2 * 10 * 800 * 1000 + 10 * 10 * 1000 * 6
    assert many <= 1.1 * products
    assert many < 8 * few
    assert operations(800, whole=True) > 20 * many, "the control"


def test_the_innovation_is_worked_out_once() -> None:
    known, batch, profiler = (
        RecursiveRidge.begin(D, 1.0).after(randn(30, D)),
        randn(5, D),
        Profiler(),
    )
    with profiler.stage("solve"):
        known.directions(batch)
    with profiler.stage("advance"):
        known.after(batch)
    assert profiler.costs["advance"].flops < profiler.costs["solve"].flops / 10


def test_an_earlier_one_shares_rows_and_goes_on_alike() -> None:
    first = RecursiveRidge.begin(D, 1.0).after(randn(8, D))
    second = first.after(randn(2, D, seed=1))
    shared = first.sharing(second)
    assert shared.soft.untyped_storage().data_ptr() == second.soft.untyped_storage().data_ptr()
    other = randn(3, D, seed=2)
    kept = second.soft.clone()
    assert torch.equal(shared.after(other).soft, first.after(other).soft)
    assert torch.equal(second.soft, kept)


def test_one_that_was_made_smaller_shares_nothing() -> None:
    first = RecursiveRidge.begin(D, 1.0).after(randn(D + 8, D))
    second = first.after(randn(20, D, seed=1))
    assert len(second.soft) == D
    assert first.sharing(second) is first


def test_beside_one_that_waits_only_what_joined_is_brought() -> None:
    waiting = direct = RecursiveRidge.begin(D, 1.0)
    places, sizes = set(), []
    for seed in range(12):
        rows = randn(5, D, seed=seed)
        near = waiting.to(torch.device("cpu"))
        joined, direct_after = near.after(rows), direct.after(rows)
        assert joined is not None
        assert direct_after is not None
        later, before = joined.beside(waiting, near), waiting.soft.clone()
        assert torch.equal(waiting.soft, before)
        assert torch.equal(later.soft, direct_after.soft)
        assert (later.energy, later.count) == (direct_after.energy, direct_after.count)
        assert near.beside(waiting, near) is waiting
        waiting, direct = later, direct_after
        places.add(later.soft.untyped_storage().data_ptr())
        sizes.append(len(later.soft))
    assert sizes[9:11] == [50, D], "rows beyond the width were made fewer, and came as a whole"
    assert len(places) <= 5
