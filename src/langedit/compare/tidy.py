"""All figures of a grid as one tidy table: one row for each figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langedit.compare.cells import Cell
from langedit.compare.config import UNEDITED
from langedit.compare.figures_of import (
    FIRST_BATCH,
    MEAN,
    Record,
    columns_of,
    interference_of,
    languages_of,
    means_of,
    perplexity_ratio,
    retention_curve,
    transfer_of,
)
from langedit.compare.files import write_text
from langedit.compare.grid import Outcome
from langedit.evaluation import cell_values, mean_or_none

FIELDS = (
    "model", "method", "dataset", "seed", "language", "metric", "value", "count", "key",
)  # fmt: skip
ALL = "all"


def write_csv(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the rows of all finished cells."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(outcomes))
    write_text(path, buffer.getvalue())


def rows_of(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Rows of all finished cells; shares in [0, 1].

    `language` is `all`, a code, or a pair such as `de>fr`: edited in German and asked in French, or
    (interference) edited in German and changed by a later batch in French.
    """
    controls = control_records(outcomes)
    for outcome in outcomes:
        if outcome.record is not None:
            cell, record = outcome.cell, outcome.record
            control = controls.get((cell.model, cell.dataset, cell.seed))
            for language, metric, value, count in _figures(cell, record, control):
                if value is not None:
                    yield {
                        "model": cell.model,
                        "method": cell.method,
                        "dataset": cell.dataset,
                        "seed": cell.seed,
                        "language": language,
                        "metric": metric,
                        "value": value,
                        "count": count,
                        "key": record["key"],
                    }


def control_records(outcomes: Sequence[Outcome]) -> dict[tuple[str, str, int], Record]:
    """(model, data set, seed) -> the unedited model's record."""
    return {
        (outcome.cell.model, outcome.cell.dataset, outcome.cell.seed): outcome.record
        for outcome in outcomes
        if outcome.cell.method == UNEDITED and outcome.record is not None
    }


_Figure = tuple[str, str, float | None, int]


def _figures(cell: Cell, record: Record, control: Record | None) -> Iterator[_Figure]:
    """(language, metric, value, number of facts or probes)."""
    metrics = cell.measures["metrics"]
    for language in (None, *languages_of(record)):
        name = language or ALL
        columns = columns_of(record, metrics, language)
        for metric, value in means_of(record, metrics, language).items():
            own = columns.get(metric, columns[FIRST_BATCH])
            size = len(columns[FIRST_BATCH]) if metric == MEAN else sum(v is not None for v in own)
            yield name, metric, value, size
        if control is not None:
            ratio = perplexity_ratio(record, control, language)
            yield name, "perplexity_ratio", ratio, 1 if language else len(record["perplexity"])
    for (after, mean, first), point in zip(
        retention_curve(record), record["retention"], strict=True
    ):
        sizes = [sum(value is not None for value in batch) for batch in point["efficacy"]]
        yield ALL, f"retention_after_{after}", mean, sum(sizes)
        yield ALL, f"first_batch_after_{after}", first, sizes[0]
    for metric, scores in (
        ("transfer", transfer_of(record)),
        ("interference", interference_of(record)),
    ):
        for (row, column), runs in cell_values(scores).items():
            (values,) = runs.values()
            yield f"{row}>{column}", metric, mean_or_none(values), len(values)
    for stage, seconds in record["seconds"].items():
        yield ALL, f"seconds_{stage.replace(' ', '_')}", seconds, 1
    for stage, peaks in record["peak_bytes"].items():
        for place, used in peaks.items():
            yield ALL, f"peak_bytes_{stage.replace(' ', '_')}_{place}", used, 1
