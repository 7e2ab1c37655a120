"""Figures of a cell from what its file holds: pure functions of the record.

Definitions, beside those of `langedit.evaluation.metrics`:

* first batch: efficacy, at the end, of the facts of the first batch; of a language, of the facts in
  its own first batch;
* mean: mean of efficacy, generalization, specificity and first batch;
* retention after batch j: mean efficacy of all facts of batches 1 to j, after batch j;
* transfer[A, B]: mean efficacy, at the end, of facts edited in A asked in B with B's own words,
  where nobody edited them in B; on the diagonal of the same facts in A itself;
* interference[B, A]: mean change of the efficacy of an earlier fact of A by one later batch of B.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from langedit.evaluation import mean_or_none

Record = Mapping[str, Any]
Matrix = dict[tuple[str, str], float]

FIRST_BATCH = "first_batch"
MEAN = "mean"
OBJECTIVE = ("efficacy", "generalization", "specificity", FIRST_BATCH)
"""Scores that `mean` is the mean of."""


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


def retention_curve(record: Record) -> list[tuple[int, float | None, float | None]]:
    """(batches so far, mean efficacy of all facts so far, of those of the first batch)."""
    early = in_first_batch(record)
    curve = []
    for point in record["retention"]:
        values = point["efficacy"]
        first = [value for value, is_early in zip(values, early, strict=False) if is_early]
        curve.append((point["after"], mean_or_none(values), mean_or_none(first)))
    return curve


def transfer_values(record: Record) -> dict[tuple[str, str], list[float]]:
    """(edited in, asked in) -> efficacies."""
    facts = record["facts"]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for probe in record["transfer"]:
        if probe["efficacy"] is not None:
            edited_in = facts[probe["fact"]]["language"]
            found[edited_in, probe["language"]].append(probe["efficacy"])
    for index in dict.fromkeys(probe["fact"] for probe in record["transfer"]):
        own = facts[index]
        if own.get("efficacy") is not None:
            found[own["language"], own["language"]].append(own["efficacy"])
    return dict(found)


def interference_values(record: Record) -> dict[tuple[str, str], list[float]]:
    """(language of a later batch, of an earlier fact) -> changes of efficacy by one batch.

    Batches of several languages say nothing of one of them, and are left out.
    """
    facts = record["facts"]
    batch_languages: dict[int, set[str]] = defaultdict(set)
    for fact in facts:
        batch_languages[fact["batch"] + 1].add(fact["language"])
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for earlier, later in zip(record["interference"], record["interference"][1:], strict=False):
        edited = batch_languages[later["after"]]
        if len(edited) != 1 or later["after"] != earlier["after"] + 1:
            continue
        for index, before in earlier["efficacy"].items():
            after = later["efficacy"].get(index)
            if before is not None and after is not None:
                found[next(iter(edited)), facts[int(index)]["language"]].append(after - before)
    return dict(found)


def matrix_of(records: Sequence[Mapping[tuple[str, str], Sequence[float]]]) -> Matrix:
    """Mean of each pair of languages over the values of all records."""
    pooled: dict[tuple[str, str], list[float]] = defaultdict(list)
    for values in records:
        for pair, own in values.items():
            pooled[pair] += own
    return {pair: sum(own) / len(own) for pair, own in pooled.items()}


def off_diagonal(matrix: Mapping[tuple[str, str], float]) -> float | None:
    """Mean over the pairs of two languages."""
    return mean_or_none(value for (first, second), value in matrix.items() if first != second)


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
