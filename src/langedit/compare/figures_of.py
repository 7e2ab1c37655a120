"""Figures of a cell from what its file holds: pure functions of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

from langedit.evaluation import (
    PERPLEXITY,
    CrossScore,
    Resampled,
    ScoreHistory,
    definitions,
    interference_scores,
    mean_or_none,
    resample,
)

Record = Mapping[str, Any]

FIRST_BATCH = "first_batch"
MEAN = "mean"
OBJECTIVE = ("efficacy", "generalization", "specificity", FIRST_BATCH)
"""Scores that `mean` is the mean of."""

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {
        FIRST_BATCH: "efficacy, at the end, of the facts of the first batch; of a language, of the "
        "facts of its own first batch",
        MEAN: "mean of efficacy, generalization, specificity and first batch",
        "retention": "mean efficacy of all facts of batches 1 to j, after batch j",
        "transfer": "efficacy, at the end, of facts edited in A and asked in B with B's own words, "
        "where nobody edited that question in B; on the diagonal of the same facts in A",
        "interference": "change of the efficacy of an earlier fact of A by one later batch in B, "
        "mean over the changes of each fact, then over facts",
        "perplexity": PERPLEXITY,
        "perplexity_ratio": "perplexity as a multiple of that of the unedited model; over "
        "languages the geometric mean",
    }
)
"""Figures that a comparison has beside the scores of facts."""


def definitions_of(metrics: Sequence[str]) -> dict[str, str]:
    """Name -> definition of some scores of facts, and of all other figures of a comparison."""
    return {**definitions(metrics), **DEFINITIONS}


def languages_of(record: Record) -> tuple[str, ...]:
    """Languages of the edited facts, in order of appearance."""
    return tuple(dict.fromkeys(fact["language"] for fact in record["facts"]))


def in_first_batch(record: Record, language: str | None = None) -> list[bool]:
    """Of each fact, whether it is in the first batch; of a language, in the first that has it."""
    facts = record["facts"]
    own = [fact["batch"] for fact in facts if language in (None, fact["language"])]
    first = min(own, default=-1)
    return [fact["batch"] == first and language in (None, fact["language"]) for fact in facts]


def columns_of(
    record: Record, metrics: Sequence[str], language: str | None = None
) -> dict[str, list[float | None]]:
    """Score -> its value of each fact (of a language), `None` where the fact has no such value."""
    early = in_first_batch(record, language)
    rows = [
        (fact, is_early)
        for fact, is_early in zip(record["facts"], early, strict=True)
        if language in (None, fact["language"])
    ]
    found: dict[str, list[float | None]] = {
        metric: [fact.get(metric) for fact, _ in rows] for metric in metrics
    }
    found[FIRST_BATCH] = [fact.get("efficacy") if is_early else None for fact, is_early in rows]
    return found


def means_of(
    record: Record, metrics: Sequence[str], language: str | None = None
) -> dict[str, float | None]:
    """Score -> mean over the facts (of a language); with `mean`, if all that it needs is there."""
    columns = columns_of(record, metrics, language)
    found = {name: mean_or_none(values) for name, values in columns.items()}
    return {**found, MEAN: composite(found)}


def composite(means: Mapping[str, float | None]) -> float | None:
    """Mean of the scores of `OBJECTIVE`, `None` if one is missing."""
    values = [means.get(name) for name in OBJECTIVE]
    return None if None in values else mean_or_none(values)


def draws_of(records: Sequence[Record], metrics: Sequence[str], resamples: int) -> Resampled:
    """Scores resampled over seeds and facts, with `mean`; equal draws for equal streams.

    The facts of the first batch are drawn apart, so that every resample has as many of them.

    Raises:
        ValueError: there is no record.
    """
    columns = [columns_of(record, metrics) for record in records]
    found = resample(columns, apart=FIRST_BATCH, resamples=resamples)
    return found.with_mean(MEAN, OBJECTIVE)


def retention_curve(record: Record) -> list[tuple[int, float | None, float | None]]:
    """(batches so far, mean efficacy of all facts so far, of those of the first batch)."""
    codes = _batch_codes(record)
    history = _history(codes, codes, record["retention"])
    return [
        (step + 1, mean_or_none(chain.from_iterable(history.values[step])), means[0])
        for step, means in history.retention().items()
    ]


def transfer_of(record: Record, run: int = 0) -> list[CrossScore]:
    """Scores of the aligned facts at the end, and on the diagonal those of the facts themselves."""
    scores = [CrossScore(**{**probe, "run": run}) for probe in record["transfer"]]
    asked = {(score.row, score.fact) for score in scores}
    return scores + [
        CrossScore(row=own["language"], column=own["language"], value=own["efficacy"],
                   fact=own["group"], run=run)
        for own in record["facts"]
        if (own["language"], own["group"]) in asked and own["efficacy"] is not None
    ]  # fmt: skip


def interference_of(record: Record, run: int = 0) -> list[CrossScore]:
    """Changes of earlier facts' efficacies, of those that were asked after every batch.

    Batches of several languages say nothing of one of them, and are left out.
    """
    codes = _batch_codes(record)
    sampled = [tuple(own[place] for place in places) for own, places in
               zip(codes, record["sampled"], strict=True)]  # fmt: skip
    return interference_scores(_history(codes, sampled, record["interference"]), run=run)


def _batch_codes(record: Record) -> list[list[str]]:
    """For each batch the languages of its facts."""
    codes: dict[int, list[str]] = {}
    for fact in record["facts"]:
        codes.setdefault(fact["batch"], []).append(fact["language"])
    return list(codes.values())


def _history(
    codes: Sequence[Sequence[str]],
    scored: Sequence[Sequence[str]],
    points: Sequence[Mapping[str, Any]],
) -> ScoreHistory:
    """The history of a cell's points.

    Args:
        codes: for each batch the languages of its facts.
        scored: the same, of the facts that are in the points.
        points: scores by batch and fact after a number of batches.
    """
    return ScoreHistory(
        languages=tuple(
            own[0] if len(set(own)) == 1 else tuple(some)
            for own, some in zip(codes, scored, strict=True)
        ),
        values={
            point["after"] - 1: tuple(tuple(batch) for batch in point["efficacy"])
            for point in points
        },
    )


def perplexity_ratio(record: Record, control: Record, language: str | None = None) -> float | None:
    """Perplexity after, as a multiple of that before; over languages the geometric mean."""
    product, count = 1.0, 0
    for code, before in control["perplexity"].items():
        after = record["perplexity"].get(code)
        if language in (None, code):
            if after is None or not before:
                return None
            product *= after / before
            count += 1
    return product ** (1 / count) if count else None
