"""Tables of a report: scores by method, differences, ablations, languages, and what runs cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langedit.compare.config import CompareConfig
from langedit.compare.figures_of import MEAN, draws_of, languages_of
from langedit.compare.markdown import heading, table
from langedit.compare.summary import (
    Board,
    Row,
    is_share,
    shown_interval,
    shown_value,
    units_apart,
)
from langedit.evaluation import mean_or_none

Records = Mapping[str, Sequence[Mapping[str, Any]]]
"""Method -> records of its runs, one a seed."""


def scores_section(board: Board) -> str:
    """Every method on the final state, with intervals."""
    text = (
        f"Percent{units_apart(board.columns)} on the final state, mean over facts and seeds, "
        "with 95 % bootstrap intervals (facts within seeds, and seeds). **Bold**: the interval "
        "lies above those of all other methods. `unedited` is the model before any edit."
    )
    rows = [
        [name, *board.cells(name, mark=lambda cell: f"**{cell}**"), _ratio(row)]
        for name, row in board.rows.items()
        if row.group != "ablations" and row.scores is not None
    ]
    heads = ["method", *(name.replace("_", " ") for name in board.columns), "perplexity ×"]
    return f"{text}\n\n{table(heads, rows)}"


def differences_section(config: CompareConfig, board: Board, records: Records) -> str:
    """Every method minus the reference, on the same facts."""
    reference = config.reference
    if reference is None or reference not in records:
        return ""
    rows = []
    for name, row in board.rows.items():
        if row.group == "methods" and name != reference and name in records:
            pair = records[name], records[reference]
            rows.append([name, *(_difference(config, *pair, column) for column in board.columns)])
    heads = ["method", *(name.replace("_", " ") for name in board.columns)]
    text = (
        f"{heading(3, f'Against {reference}')}\n\nDifference to `{reference}` in percentage "
        f"points{units_apart(board.columns)}, paired fact by fact, with 95 % intervals; an "
        "interval without 0 is a difference."
    )
    return f"{text}\n\n{table(heads, rows)}" if rows else ""


def ablations_section(config: CompareConfig, board: Board, records: Records) -> str:
    """Every ablation, and how far it is from the entry that it begins with."""
    rows = []
    for name, row in board.rows.items():
        if row.group != "ablations" or row.scores is None:
            continue
        base = config.entry(name).base or ""
        change = _difference(config, records[name], records.get(base, ()), MEAN)
        seeds = str(row.seeds[0])
        rows.append([name, base or "–", seeds, *board.cells(name), change])
    if not rows:
        return ""
    heads = ["ablation", "of", "seeds", *(name.replace("_", " ") for name in board.columns)]
    text = (
        f"{heading(3, 'Ablations')}\n\nThe last column is the paired difference of the means, "
        "over the streams that both ran on."
    )
    return f"{text}\n\n{table([*heads, 'mean − base'], rows)}"


def by_language_section(board: Board, records: Records) -> str:
    """A table a score: its mean by method and language of the fact."""
    first = next(iter(records.values()))[0]
    languages = languages_of(first)
    parts = []
    for metric in (name for name in board.columns if name in first["measures"]["metrics"]):
        rows = [
            [name, *(shown_value(metric, _language_mean(own, metric, code)) for code in languages)]
            for name, own in records.items()
        ]
        unit = "percent" if is_share(metric) else "in its own unit"
        parts.append(f"{metric}, {unit}:\n\n{table(['method', *languages], rows)}")
    return "\n\n".join(parts)


def cost_section(records: Records) -> str:
    """Seconds by stage, and the largest memory."""
    stages = list(
        dict.fromkeys(stage for own in records.values() for r in own for stage in r["seconds"])
    )
    rows = []
    for name, own in records.items():
        seconds = [mean_or_none(r["seconds"].get(stage) for r in own) for stage in stages]
        peaks = [
            used for r in own for places in r["peak_bytes"].values() for used in places.values()
        ]
        cells = ["–" if value is None else f"{value:.1f}" for value in seconds]
        rows.append([name, *cells, f"{max(peaks, default=0) / 2**20:.0f}"])
    heads = ["method", *(f"{stage} (s)" for stage in stages), "peak memory (MiB)"]
    return f"Mean seconds a run by stage.\n\n{table(heads, rows)}"


def _language_mean(
    records: Sequence[Mapping[str, Any]], metric: str, language: str
) -> float | None:
    return mean_or_none(
        fact.get(metric)
        for record in records
        for fact in record["facts"]
        if fact["language"] == language
    )


def _difference(
    config: CompareConfig,
    own: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    column: str,
) -> str:
    """One method minus another over the streams that both ran on, paired fact by fact."""
    pairs = {record["data"]["fingerprint"]: record for record in other}
    both = [
        (record, pairs[record["data"]["fingerprint"]])
        for record in own
        if record["data"]["fingerprint"] in pairs
    ]
    if not both:
        return "–"
    first, second = (
        draws_of([pair[side] for pair in both], config.metrics, config.resamples) for side in (0, 1)
    )
    return shown_interval(column, first.difference(second, column), sign=True)


def _ratio(row: Row) -> str:
    return "–" if row.perplexity is None else f"{row.perplexity:.3f}"
