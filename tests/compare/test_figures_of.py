"""Figures by hand-computed tables."""

from __future__ import annotations

import pytest

from langedit.compare.figures_of import (
    columns_of,
    draws_of,
    interference_of,
    means_of,
    perplexity_ratio,
    retention_curve,
    transfer_of,
)
from langedit.evaluation import cell_values


def fact(group, language, batch, efficacy, specificity=None):
    return {
        "group": group,
        "language": language,
        "batch": batch,
        "efficacy": efficacy,
        "generalization": efficacy / 2,
        "specificity": specificity,
    }


RECORD = {
    "facts": [
        fact("a", "en", 0, 1.0, 0.5),
        fact("b", "en", 0, 0.5),
        fact("c", "de", 1, 0.25, 1.0),
        fact("d", "en", 2, 0.0),
    ],
    "retention": [
        {"after": 1, "efficacy": [[1.0, 1.0]]},
        {"after": 3, "efficacy": [[1.0, 0.5], [0.25], [0.0]]},
    ],
    "sampled": [[0], [0], [0]],
    "interference": [
        {"after": 1, "efficacy": [[1.0]]},
        {"after": 2, "efficacy": [[0.75], [1.0]]},
        {"after": 3, "efficacy": [[0.25], [0.25], [0.0]]},
    ],
    "transfer": [
        {"row": "en", "column": "de", "value": 0.5, "fact": "a", "run": 0},
        {"row": "en", "column": "de", "value": 0.0, "fact": "b", "run": 0},
        {"row": "de", "column": "en", "value": 1.0, "fact": "c", "run": 0},
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
    assert cell_values(transfer_of(RECORD, 3)) == {
        ("en", "de"): {3: [0.5, 0.0]},
        ("de", "en"): {3: [1.0]},
        ("en", "en"): {3: [1.0, 0.5]},
        ("de", "de"): {3: [0.25]},
    }


def test_interference_by_hand():
    assert cell_values(interference_of(RECORD, 1)) == {
        ("en", "de"): {1: [-0.25]},
        ("en", "en"): {1: [-0.5]},
        ("de", "en"): {1: [-0.75]},
    }


def test_mixed_batches_and_gaps_say_nothing_of_one_language():
    mixed = [dict(own, batch=0 if own["batch"] < 2 else 1) for own in RECORD["facts"]]
    record = {
        **RECORD,
        "facts": mixed,
        "sampled": [[0, 2], [0]],
        "interference": [
            {"after": 1, "efficacy": [[1.0, 1.0]]},
            {"after": 2, "efficacy": [[0.75, 0.5], [1.0]]},
        ],
    }
    found = cell_values(interference_of(record))
    assert found == {("en", "en"): {0: [-0.25]}, ("de", "en"): {0: [-0.5]}}
    last = [dict(own, batch=number // 2) for number, own in enumerate(RECORD["facts"])]
    points = [{"after": 1, "efficacy": [[1.0]]}, {"after": 2, "efficacy": [[0.5], [1.0]]}]
    by_both = {**RECORD, "facts": last, "sampled": [[0], [1]], "interference": points}
    assert interference_of(by_both) == []  # the later batch is in German and in English
    points = RECORD["interference"]
    assert interference_of({**RECORD, "interference": [points[0], points[2]]}) == []


def test_perplexity_ratio_is_a_geometric_mean():
    control = {"perplexity": {"en": 2.0, "de": 18.0}}
    assert perplexity_ratio(RECORD, control) == pytest.approx(1.0)
    assert perplexity_ratio(RECORD, control, "en") == 2.0
    assert perplexity_ratio({"perplexity": {"en": None}}, control) is None
    assert perplexity_ratio({"perplexity": {}}, {"perplexity": {}}) is None


def test_draws_have_the_mean_of_the_four_scores():
    found = draws_of([RECORD, RECORD], METRICS, 20)
    expected = means_of(RECORD, METRICS)
    for name in (*METRICS, "first_batch", "mean"):
        assert found.interval(name).mean == pytest.approx(expected[name])
    assert draws_of([RECORD], ("efficacy",), 20).interval("mean") is None
