"""Metrics on tables worked out by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from langedit.evaluation import (
    FORCED,
    GENERATED,
    METRICS,
    FactScore,
    Scores,
    ScoreValues,
    begins_with_answer,
    by_language,
    definitions,
    mean_or_none,
    ngram_entropy,
    token_accuracy,
)
from langedit.evaluation.metrics import is_likelier, probability_per_token, total_probability


@pytest.mark.parametrize(
    ("predicted", "expected", "accuracy"),
    [
        ([5], [5], 1.0),
        ([5], [6], 0.0),
        ([1, 2, 3, 4], [1, 9, 3, 9], 0.5),
        ([2, 1], [1, 2], 0.0),  # right tokens in the wrong places
    ],
)
def test_token_accuracy(predicted, expected, accuracy):
    assert token_accuracy(predicted, expected) == accuracy


@pytest.mark.parametrize(("predicted", "expected"), [([], []), ([1], [1, 2])])
def test_token_accuracy_refuses_other_lengths(predicted, expected):
    with pytest.raises(ValueError, match="as many predictions"):
        token_accuracy(predicted, expected)


def test_probabilities():
    """Tokens of probability 1/2 and 1/8: 1/16 together, 1/4 a token."""
    logs = [math.log(1 / 2), math.log(1 / 8)]
    assert total_probability(logs) == pytest.approx(1 / 16)
    assert probability_per_token(logs) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("first", "second", "likelier"),
    [
        ([-1.0], [-2.0], 1.0),
        ([-2.0], [-1.0], 0.0),
        ([-1.0], [-1.0], 0.0),  # a tie is no success
        ([-1.0, -1.0, -1.0], [-2.0], 1.0),  # a token, not in total
    ],
)
def test_success_compares_means_a_token(first, second, likelier):
    assert is_likelier(first, second) == likelier


@pytest.mark.parametrize(
    ("text", "answer", "language", "right"),
    [
        (" Paris. And", "Paris", "en", 1.0),
        (" not at all", "no", "en", 0.0),  # no substring of a word
        (" no, not", "no", "en", 1.0),
        (" in Paris", "Paris", "en", 0.0),
        (" paris", "Paris", "en", 0.0),
        (" New  York\n", "New York", "en", 1.0),
        ("Zu\u0308rich", "Z\u00fcrich", "de", 1.0),
        ("巴黎是", "巴黎", "zh", 1.0),
        ("不是", "是", "zh", 0.0),
        ("", "Paris", "en", 0.0),
        (" C++11", "C++", "en", 1.0),
    ],
)
def test_exact_match(text, answer, language, right):
    assert begins_with_answer(text, answer, language) == right


def test_ngram_entropy():
    """1 2 3 4: three bigrams and two trigrams, all different: log2 3 and 1 bit."""
    assert ngram_entropy([1, 2, 3, 4]) == pytest.approx((2 / 3 * math.log2(3) + 4 / 3) / 2)
    assert ngram_entropy([7] * 20) == 0.0
    # 1 2 1 2 1: bigrams 12 and 21 twice each (1 bit), trigrams 121 twice and 212 once
    trigrams = -2 / 3 * math.log2(2 / 3) - 1 / 3 * math.log2(1 / 3)
    assert ngram_entropy([1, 2, 1, 2, 1]) == pytest.approx((2 / 3 + 4 / 3 * trigrams) / 2)
    assert ngram_entropy([1, 2]) is None


def test_facts_without_probes_do_not_count():
    assert mean_or_none([1.0, None, 0.0]) == 0.5
    assert mean_or_none([None, None]) is None


def test_means_over_facts_and_languages():
    scores = [
        FactScore(language="de", efficacy=1.0, generalization=0.5),
        FactScore(language="en", efficacy=0.0, specificity=1.0, success=1.0),
        FactScore(language="de", efficacy=0.5),
    ]
    mean = Scores(facts=3, efficacy=0.5, generalization=0.5, specificity=1.0, success=1.0)
    assert Scores.of(scores) == mean
    languages = by_language(scores)
    assert list(languages) == ["de", "en"]
    assert languages["de"] == Scores(facts=2, efficacy=0.75, generalization=0.5)
    assert languages["en"] == Scores(facts=1, efficacy=0.0, specificity=1.0, success=1.0)
    assert scores[2].to_dict() == {
        "language": "de",
        "efficacy": 0.5,
        "generalization": None,
        "specificity": None,
    }


def test_every_score_has_a_definition_and_a_field():
    assert [field.name for field in fields(ScoreValues)] == list(METRICS)
    assert {*FORCED, *GENERATED, "agreement"} == set(METRICS)
    assert definitions(["efficacy", "facts"]) == {"efficacy": METRICS["efficacy"].definition}
    assert len({metric.definition for metric in METRICS.values()}) == len(METRICS)
