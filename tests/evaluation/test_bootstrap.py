"""Intervals: against theory, against loops, and where they must not cover."""

from __future__ import annotations

import random

import pytest
import torch

from langedit.errors import FactError
from langedit.evaluation import bootstrap, bootstrap_difference, bootstrap_seeds


def draws(count, seed=0):
    rng = random.Random(seed)
    return [rng.gauss(0.5, 0.2) for _ in range(count)]


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    """For many values: mean ± 1.96 standard errors, to the error of 4000 resamples."""
    values = draws(400)
    found = bootstrap(values, resamples=4000)
    tensor = torch.tensor(values, dtype=torch.float64)
    error = float(tensor.std(correction=0)) / 400**0.5
    assert found.mean == pytest.approx(float(tensor.mean()), abs=1e-12)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.12 * error)
    assert (found.facts, found.clusters, found.level) == (400, 1, 0.95)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = sum(not bootstrap(draws(60, s), resamples=400).excludes(0.5) for s in range(120))
    assert 0.88 <= covered / 120 <= 1.0  # 0.95, minus four standard errors of 120 trials


def test_the_seed_decides_everything():
    assert bootstrap(draws(30), seed=3) == bootstrap(draws(30), seed=3)
    assert bootstrap(draws(30), seed=3) != bootstrap(draws(30), seed=4)


def test_equal_values_have_no_width_and_missing_ones_do_not_count():
    found = bootstrap([0.25, None, 0.25])
    assert (found.mean, found.low, found.high, found.facts) == (0.25, 0.25, 0.25, 2)
    with pytest.raises(FactError, match="at least one fact"):
        bootstrap([None])


def test_paired_differences_are_narrower_than_the_facts_are_spread():
    """A constant gain on facts that differ widely: certain when paired, hidden when not."""
    first = draws(40)
    second = [value - 0.05 for value in first]
    difference = bootstrap_difference(first, second)
    assert difference.low == pytest.approx(0.05)
    assert difference.excludes(0.0)
    assert not bootstrap(first).parts_from(bootstrap(second))
    with pytest.raises(ValueError, match="shorter"):
        bootstrap_difference([1.0, 2.0], [1.0])


def test_facts_of_one_run_share_its_luck():
    """Five runs with different means: drawing runs too gives a wider interval."""
    runs = [[0.1 * k + v for v in draws(40, k)] for k in range(5)]
    clustered = bootstrap_seeds(runs)
    pooled = bootstrap([value for run in runs for value in run])
    assert clustered.mean == pytest.approx(pooled.mean)
    assert clustered.high - clustered.low > 2 * (pooled.high - pooled.low)
    assert (clustered.facts, clustered.clusters) == (200, 5)


def test_runs_of_different_sizes_against_loops():
    runs = [[0.0] * 3, [1.0] * 9, [0.5, None]]
    rng = random.Random(0)
    means = []
    for _ in range(4000):
        own = [rng.choice([[0.0] * 3, [1.0] * 9, [0.5]]) for _ in range(3)]
        facts = [rng.choice(run) for run in own for _ in run]
        means.append(sum(facts) / len(facts))
    means.sort()
    found = bootstrap_seeds(runs, resamples=4000)
    assert found.mean == pytest.approx(9.5 / 13)
    assert (found.low, found.high) == (means[100], means[-100])  # atoms of a discrete law
