"""Intervals: against theory, against loops, and where they must not cover."""

from __future__ import annotations

import random

import pytest
import torch

from langedit.errors import FactError
from langedit.evaluation import bootstrap, bootstrap_difference, bootstrap_seeds, resample


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


OBJECTIVE = ("efficacy", "generalization", "specificity", "first")


def columns(efficacy, first=2):
    return {
        "efficacy": efficacy,
        "generalization": efficacy,
        "specificity": [1.0] * len(efficacy),
        "first": [*efficacy[:first], *[None] * (len(efficacy) - first)],
    }


def test_several_scores_of_equal_values_have_intervals_of_no_width():
    found = resample([columns([0.5] * 10)], apart="first", resamples=100)
    found = found.with_mean("mean", OBJECTIVE)
    for name, value, facts in (("efficacy", 0.5, 10), ("first", 0.5, 2), ("mean", 0.625, 10)):
        own = found.interval(name)
        assert (own.mean, own.low, own.high, own.facts) == (value, value, value, facts)


def test_the_interval_of_one_score_of_several_has_the_width_of_theory():
    values = [0.0, 1.0] * 200
    found = resample([columns(values, 40)], apart="first", resamples=2000).interval("efficacy")
    assert found.mean == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.15)


def test_a_mean_of_scores_is_that_of_each_draw():
    """Scores that add up to one in every fact: their mean has no width, they themselves do."""
    values = draws(30)
    found = resample([{"a": values, "b": [1 - v for v in values]}], resamples=200)
    both = found.with_mean("mean", ("a", "b")).interval("mean")
    assert (both.mean, both.low, both.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.interval("a").high - found.interval("a").low > 0.05


def test_scores_that_few_facts_have_are_in_every_draw_if_drawn_apart():
    few = [1.0, *[None] * 40]
    values = {"few": few, "all": draws(41)}
    assert not resample([values], apart="few", resamples=200).draws.isnan().any()
    assert resample([values], resamples=200).draws[:, 0].isnan().any()


def test_seeds_that_differ_widen_the_interval():
    one = resample([columns([0.5] * 20)] * 2, resamples=200).interval("efficacy")
    two = resample([columns([0.2] * 20), columns([0.8] * 20)], resamples=200).interval("efficacy")
    assert one.low == one.high == 0.5
    assert (two.mean, two.low, two.high) == pytest.approx((0.5, 0.2, 0.8))
    assert two.clusters == 2


def test_differences_of_resamples_are_paired_fact_by_fact():
    base = [i / 40 for i in range(40)]
    better = resample([columns([v + 0.01 for v in base])] * 2, resamples=300)
    worse = resample([columns(base)] * 2, resamples=300)
    found = better.difference(worse, "efficacy")
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert not better.interval("efficacy").parts_from(worse.interval("efficacy"))
    with pytest.raises(ValueError, match="the same facts"):
        better.difference(resample([columns(base)], resamples=300), "efficacy")


def test_a_score_that_nobody_has_has_no_interval():
    found = resample([{"efficacy": [1.0], "first": [None]}], apart="first", resamples=10)
    found = found.with_mean("mean", ("efficacy", "first")).with_mean("other", ("missing",))
    for name in ("first", "mean", "other"):
        assert found.interval(name) is None
    one = found.interval("efficacy")
    assert (one.mean, one.low, one.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one seed"):
        resample([], resamples=10)
