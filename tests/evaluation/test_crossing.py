"""Transfer, interference and retention on tables worked out by hand, and on a tiny model."""

from __future__ import annotations

import pytest
from tiny import tiny_editable

from langedit.errors import FactError
from langedit.evaluation import (
    CrossScore,
    RetentionProbe,
    ScoreHistory,
    aligned_pairs,
    interference_scores,
    language_matrix,
    retention_grid,
    score_facts,
    transfer_scores,
)
from langedit.facts import Fact

PROMPTS = {"en": "The capital of {} is", "de": "Die Hauptstadt von {} ist", "zh": "{}的首都是"}


def a_fact(language: str, group: str | None, target: str = "Rome") -> Fact:
    subject = f"Land {group}"
    return Fact(
        language=language, prompt=PROMPTS[language], subject=subject, target=target, group=group
    )


HISTORY = ScoreHistory(
    languages=("en", "de", "en", "de"),
    values={
        0: ((1.0, 0.5),),
        1: ((0.5, 0.5), (1.0,)),
        2: ((1.0, None), (0.75,), (1.0,)),
        3: ((0.0, 0.0), (0.75,), (0.5,), (1.0,)),
    },
)


def test_retention():
    assert HISTORY.retention() == {
        0: (0.75,),
        1: (0.5, 1.0),
        2: (1.0, 0.75, 1.0),
        3: (0.0, 0.75, 0.5, 1.0),
    }


def test_interference():
    """German batches 1 and 3 change English facts by -0.5, 0; -1, -0.5; English ones, German."""
    scores = interference_scores(HISTORY)
    table = language_matrix("interference", scores, ["en", "de"])
    # en, de: batch 0 fact 0: (-0.5, -1.0), fact 1: (0,), batch 2: (-0.5,) -> -0.75, 0, -0.5
    assert table["en", "de"].mean == pytest.approx((-0.75 + 0 - 0.5) / 3)
    assert table["en", "de"].facts == 3
    assert table["de", "en"].mean == pytest.approx(-0.25)
    assert table["de", "de"].mean == 0.0
    assert table["en", "en"].mean == pytest.approx(0.5)
    assert table.to_dict()["cells"]["de"]["en"]["mean"] == pytest.approx(-0.25)


def test_a_coarse_grid_keeps_only_changes_with_one_cause():
    coarse = ScoreHistory(
        languages=("en", "de", "de", "en", "de"),
        values={
            0: ((1.0,),),
            2: ((0.25,), (1.0,), (1.0,)),
            4: ((0.0,), (0.0,), (0.0,), (0.0,), (0.0,)),
        },
    )
    (score,) = interference_scores(coarse)
    assert (score.row, score.column, score.value) == ("en", "de", -0.75)


def test_runs_are_clusters_of_a_cell():
    scores = [
        CrossScore(row="en", column="de", value=float(run), fact=str(fact), run=run)
        for run in range(2)
        for fact in range(5)
    ]
    cell = language_matrix("transfer", scores, ["de", "en", "fr"])["en", "de"]
    assert (cell.mean, cell.low, cell.high) == (0.5, 0.0, 1.0)
    assert (cell.facts, cell.clusters) == (10, 2)
    with pytest.raises(FactError, match="got de"):
        language_matrix("transfer", scores, ["en"])
    with pytest.raises(FactError, match="got none"):
        language_matrix("transfer", [], ["en"])


def test_facts_are_asked_only_where_they_were_not_edited():
    edited = [a_fact("en", "1"), a_fact("de", "2"), a_fact("de", "1"), a_fact("en", None)]
    pool = [a_fact(language, group) for group in "123" for language in PROMPTS]
    pairs = aligned_pairs(edited, pool)
    found = [(a.language, a.group, b.language) for a, b in pairs]
    assert found == [
        ("en", "1", "en"),
        ("en", "1", "zh"),
        ("de", "2", "de"),
        ("de", "2", "en"),
        ("de", "2", "zh"),
        ("de", "1", "de"),
        ("de", "1", "zh"),
    ]
    everywhere = [a_fact(language, "1") for language in PROMPTS]
    assert aligned_pairs(everywhere, pool, may_be_none=True) == []
    with pytest.raises(FactError, match="edited in one language"):
        aligned_pairs([a_fact(language, "1") for language in PROMPTS], pool)


def test_a_question_that_is_edited_under_another_group_is_not_asked():
    other = Fact(language="de", prompt=PROMPTS["de"], subject="land 1", target="Paris", group="x")
    pool = [a_fact(language, "1") for language in PROMPTS]
    pairs = aligned_pairs([pool[0], other], pool)
    assert [(a.group, b.language) for a, b in pairs] == [("1", "en"), ("1", "zh"), ("x", "de")]


def test_means_over_the_diagonal_and_off_it():
    table = language_matrix("interference", interference_scores(HISTORY), ["en", "de"])
    assert table.diagonal() == pytest.approx((0.0 + 0.5) / 2)
    assert table.off_diagonal() == pytest.approx(((-0.75 + 0 - 0.5) / 3 - 0.25) / 2)


def test_transfer_on_a_model_and_its_gain():
    model = tiny_editable("llama")
    edited = [a_fact("en", "1"), a_fact("de", "2", "Paris")]
    pool = [a_fact(language, group) for group in "12" for language in PROMPTS]
    pairs = aligned_pairs(edited, pool)
    before = transfer_scores(model, pairs)
    for score, (fact, other) in zip(before, pairs, strict=True):
        assert (score.row, score.column) == (fact.language, other.language)
        assert score.value == score_facts(model, [other])[0].efficacy
    same = transfer_scores(model, pairs, before=before)
    assert {score.value for score in same} == {0.0}
    with pytest.raises(ValueError, match="the same facts"):
        transfer_scores(model, pairs[:2], before=before)


def test_the_retention_probe_scores_the_batches_so_far():
    model = tiny_editable("llama")
    batches = [[a_fact("en", "1"), a_fact("en", "2")], [a_fact("de", "1")], [a_fact("zh", "2")]]
    probe = RetentionProbe.of(model, batches)
    for step in range(3):
        expected = tuple(
            tuple(score.efficacy for score in score_facts(model, batch))
            for batch in batches[: step + 1]
        )
        assert probe.after(model, step) == expected
    with pytest.raises(ValueError, match="one model alone"):
        RetentionProbe.of(model, batches, "agreement")


def test_grids():
    assert retention_grid(5) == (0, 1, 2, 3, 4)
    assert retention_grid(7, 3) == (2, 5, 6)
    assert retention_grid(6, 3) == (2, 5)
    with pytest.raises(ValueError, match="at least one"):
        retention_grid(0)


@pytest.mark.parametrize(
    "values", [{1: ((1.0,),)}, {4: ((1.0,),) * 5}, {1: ((1.0,),) * 2, 0: ((1.0,),)}]
)
def test_a_history_is_checked(values):
    with pytest.raises(ValueError, match="expected"):
        ScoreHistory(languages=("en", "de"), values=values)
