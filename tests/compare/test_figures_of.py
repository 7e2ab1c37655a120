"""Figures by hand-computed tables, and intervals against known cases."""

from __future__ import annotations

import pytest

from langedit.compare.figures_of import (
    columns_of,
    interference_values,
    matrix_of,
    means_of,
    off_diagonal,
    perplexity_ratio,
    retention_curve,
    transfer_values,
)
from langedit.compare.intervals import Interval, resample


def fact(language, batch, efficacy, specificity=None):
    return {
        "language": language,
        "batch": batch,
        "efficacy": efficacy,
        "generalization": efficacy / 2,
        "specificity": specificity,
    }


RECORD = {
    "facts": [
        fact("en", 0, 1.0, 0.5),
        fact("en", 0, 0.5),
        fact("de", 1, 0.25, 1.0),
        fact("en", 2, 0.0),
    ],
    "retention": [
        {"after": 1, "efficacy": [1.0, 1.0]},
        {"after": 3, "efficacy": [1.0, 0.5, 0.25, 0.0]},
    ],
    "interference": [
        {"after": 1, "efficacy": {"0": 1.0}},
        {"after": 2, "efficacy": {"0": 0.75, "2": 1.0}},
        {"after": 3, "efficacy": {"0": 0.25, "2": 0.25, "3": 0.0}},
    ],
    "transfer": [
        {"fact": 0, "language": "de", "efficacy": 0.5},
        {"fact": 1, "language": "de", "efficacy": 0.0},
        {"fact": 2, "language": "en", "efficacy": None},
    ],
    "perplexity": {"en": 4.0, "de": 9.0},
}  # fmt: skip
METRICS = ("efficacy", "generalization", "specificity")


def test_means_by_hand():
    found = means_of(RECORD, METRICS)
    assert found["efficacy"] == pytest.approx(1.75 / 4)
    assert found["specificity"] == pytest.approx(0.75)
    assert found["first_batch"] == pytest.approx(0.75)
    assert found["mean"] == pytest.approx((0.4375 + 0.21875 + 0.75 + 0.75) / 4)


def test_of_a_language_the_first_batch_is_its_own():
    german = means_of(RECORD, METRICS, "de")
    assert german["first_batch"] == german["efficacy"] == 0.25
    assert columns_of(RECORD, METRICS, "en")["first_batch"] == [1.0, 0.5, None]
    assert means_of(RECORD, ("efficacy",))["mean"] is None


def test_retention_by_hand():
    assert retention_curve(RECORD) == [(1, 1.0, 1.0), (3, 0.4375, 0.75)]


def test_transfer_by_hand():
    assert matrix_of([transfer_values(RECORD)]) == {
        ("en", "de"): 0.25,
        ("en", "en"): 0.75,
        ("de", "de"): 0.25,
    }


def test_interference_by_hand():
    values = interference_values(RECORD)
    assert values == {("de", "en"): [-0.25], ("en", "en"): [-0.5], ("en", "de"): [-0.75]}
    assert off_diagonal(matrix_of([values, values])) == pytest.approx(-0.5)


def test_mixed_batches_and_gaps_say_nothing_of_one_language():
    mixed = [dict(own, batch=0 if own["batch"] < 2 else 1) for own in RECORD["facts"]]
    points = RECORD["interference"]
    record = {**RECORD, "facts": mixed, "interference": [points[0], points[1]]}
    assert interference_values(record) == {("en", "en"): [-0.25]}
    gap = {**RECORD, "interference": [points[0], points[2]]}
    assert interference_values(gap) == {}


def test_perplexity_ratio_is_a_geometric_mean():
    control = {"perplexity": {"en": 2.0, "de": 18.0}}
    assert perplexity_ratio(RECORD, control) == pytest.approx(1.0)
    assert perplexity_ratio(RECORD, control, "en") == 2.0
    assert perplexity_ratio({"perplexity": {"en": None}}, control) is None
    assert perplexity_ratio({"perplexity": {}}, {"perplexity": {}}) is None


def columns(efficacy, first=2):
    return {
        "efficacy": efficacy,
        "generalization": efficacy,
        "specificity": [1.0] * len(efficacy),
        "first_batch": [*efficacy[:first], *[None] * (len(efficacy) - first)],
    }


def test_equal_values_have_an_interval_of_no_width():
    found = resample([columns([0.5] * 10)], resamples=100)
    assert found.interval("efficacy") == Interval(0.5, 0.5, 0.5)
    assert found.interval("mean") == Interval(0.625, 0.625, 0.625)


def test_the_interval_has_the_width_of_theory():
    values = [0.0, 1.0] * 200
    found = resample([columns(values, 40)], resamples=2000).interval("efficacy")
    assert found.mean == 0.5
    half = 1.96 * 0.5 / 400**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_seeds_that_differ_widen_the_interval():
    one = resample([columns([0.5] * 20)] * 2, resamples=200).interval("efficacy")
    two = resample([columns([0.2] * 20), columns([0.8] * 20)], resamples=200).interval("efficacy")
    assert one.low == one.high == 0.5
    assert (two.mean, two.low, two.high) == pytest.approx((0.5, 0.2, 0.8))


def test_differences_are_paired_fact_by_fact():
    base = [i / 40 for i in range(40)]
    better = resample([columns([v + 0.01 for v in base])], resamples=300)
    worse = resample([columns(base)], resamples=300)
    found = better.difference(worse, "efficacy")
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert not better.interval("efficacy").parts_from(worse.interval("efficacy"))


def test_a_score_that_nobody_has_has_no_interval():
    found = resample([{"efficacy": [1.0], "first_batch": [None]}], resamples=10)
    assert found.interval("first_batch") is None
    assert found.interval("mean") is None
    assert found.interval("efficacy") == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one seed"):
        resample([], resamples=10)
