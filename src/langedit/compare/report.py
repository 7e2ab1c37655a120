"""The report of a comparison: Markdown and figures, made from its own results and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langedit.compare.config import UNEDITED, CompareConfig
from langedit.compare.figures_of import (
    MEAN,
    draws_of,
    interference_of,
    languages_of,
    retention_curve,
    transfer_of,
)
from langedit.compare.files import write_text
from langedit.compare.grid import Outcome
from langedit.compare.markdown import heading, link, table
from langedit.compare.report_origin import (
    definitions_section,
    failures,
    origin,
    settings_section,
    trials_section,
)
from langedit.compare.summary import (
    Board,
    Row,
    boards_of,
    is_share,
    shown_interval,
    shown_value,
    units_apart,
)
from langedit.errors import ConfigError
from langedit.evaluation import CrossScore, LanguageMatrix, language_matrix, mean_or_none
from langedit.reporting import heatmap_figure, percent, stream_figure

Records = Mapping[str, Sequence[Mapping[str, Any]]]


def write_report(
    config: CompareConfig, outcomes: Sequence[Outcome], path: Path, command: str
) -> None:
    """Write the report, and its figures into a folder of the same name beside it.

    Args:
        config: the comparison.
        outcomes: its cells.
        path: Markdown file to write.
        command: that makes this very report; stands under every figure.

    Raises:
        ConfigError: no cell is finished, or the path does not end in .md.
        OutputError: a file cannot be written.
    """
    if path.suffix != ".md":
        raise ConfigError(f"--report: expected a path that ends in .md, got {path}")
    if not any(outcome.record for outcome in outcomes):
        raise ConfigError("--report: expected at least one finished cell, got none; run it first")
    parts = [heading(1, f"Comparison {config.name}"), origin(outcomes, command), failures(outcomes)]
    parts.append(definitions_section(config))
    for board in boards_of(outcomes, config.resamples):
        parts += _board_parts(config, board, outcomes, path, command)
    parts += [settings_section(config, outcomes), trials_section(config)]
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _board_parts(
    config: CompareConfig,
    board: Board,
    outcomes: Sequence[Outcome],
    path: Path,
    command: str,
) -> list[str]:
    records: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        if (cell.model, cell.dataset) == (board.model, board.dataset) and outcome.record:
            records.setdefault(cell.method, []).append(outcome.record)
    if not records:
        return []
    # Ablations may have fewer seeds: they have a table, and no curve beside those of all seeds.
    shown = {name: own for name, own in records.items() if name not in config.ablations}
    figures = _Figures(path, f"{board.model}-{board.dataset}".replace("/", "-"), command)
    return [
        heading(2, f"{board.dataset} on {board.model}"),
        _scores(board),
        _differences(config, board, records),
        _ablations(config, board, records),
        heading(3, "By language"),
        _by_language(board, records),
        heading(3, "Retention"),
        _retention(shown, figures),
        heading(3, "From language to language"),
        _languages(config, shown, figures),
        heading(3, "Time and memory"),
        _cost(records),
    ]


def _scores(board: Board) -> str:
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


def _differences(config: CompareConfig, board: Board, records: Records) -> str:
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


def _ablations(config: CompareConfig, board: Board, records: Records) -> str:
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


def _by_language(board: Board, records: Records) -> str:
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


def _language_mean(
    records: Sequence[Mapping[str, Any]], metric: str, language: str
) -> float | None:
    return mean_or_none(
        fact.get(metric)
        for record in records
        for fact in record["facts"]
        if fact["language"] == language
    )


def _retention(records: Records, figures: _Figures) -> str:
    curves: dict[str, dict[str, list[tuple[int, float | None]]]] = {
        "all facts so far": {},
        "first batch": {},
    }
    for name, own in records.items():
        points = [retention_curve(record) for record in own if record["retention"]]
        if points:
            steps = list(zip(*points, strict=True))
            for title, column in (("all facts so far", 1), ("first batch", 2)):
                curves[title][name] = [
                    (step[0][0], mean_or_none(point[column] for point in step)) for step in steps
                ]
    if not any(curves.values()):
        return "No cell was edited."
    return figures.stream("retention", curves, "Efficacy of earlier facts after later batches")


def _languages(config: CompareConfig, records: Records, figures: _Figures) -> str:
    languages = languages_of(next(iter(records.values()))[0])
    edited = {name: own for name, own in records.items() if name != UNEDITED}
    transfer = _matrices("transfer", records, transfer_of, config)
    change = _matrices("interference", edited, interference_of, config)
    rows = [
        [
            name,
            percent(transfer[name].off_diagonal() if name in transfer else None),
            _points(change[name].off_diagonal() if name in change else None),
            _points(change[name].diagonal() if name in change else None),
        ]
        for name in records
    ]
    heads = ["method", "transfer to other languages (%)", "change by others", "by the same"]
    text = (
        "Transfer: efficacy, at the end, of a fact asked in a language in which nobody edited it; "
        "compare with `unedited`. Change (interference): of the efficacy of an earlier fact by one "
        "later batch, of another language or of the same, in percentage points."
    )
    parts = [f"{text}\n\n{table(heads, rows)}"]
    if transfer and len(languages) > 1:
        caption = "Transfer: edited in the row's language, asked in the column's"
        parts.append(figures.matrix("transfer", transfer, languages, caption, "asked in"))
    if change:
        caption = "Interference: change of facts of the row's language by a batch of the column's"
        parts.append(figures.matrix("interference", change, languages, caption, "later batch in"))
    return "\n\n".join(parts)


def _matrices(
    name: str,
    records: Records,
    scores_of: Callable[[Mapping[str, Any], int], list[CrossScore]],
    config: CompareConfig,
) -> dict[str, LanguageMatrix]:
    """Method -> matrix over all its records; methods without scores are left out."""
    found = {}
    for method, own in records.items():
        scores = [score for run, record in enumerate(own) for score in scores_of(record, run)]
        if scores:
            codes = languages_of(own[0])
            found[method] = language_matrix(name, scores, codes, resamples=config.resamples)
    return found


def _cost(records: Records) -> str:
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


class _Figures:
    """Writes the figures of a board and says how each was made."""

    def __init__(self, report: Path, name: str, command: str) -> None:
        self._folder = report.with_suffix("")
        self._name = name
        self._command = command

    def stream(self, kind: str, curves: Any, caption: str) -> str:
        path = self._path(kind)
        stream_figure(curves, path)
        return self._shown(path, caption)

    def matrix(
        self,
        kind: str,
        panels: Mapping[str, LanguageMatrix],
        languages: Sequence[str],
        caption: str,
        columns: str,
    ) -> str:
        path = self._path(kind)
        heatmap_figure(
            panels,
            path,
            rows="edited in",
            columns=columns,
            signed=kind == "interference",
            languages=languages,
        )
        return self._shown(path, f"{caption}, with half the width of the 95 % interval")

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}-{self._name}.png"

    def _shown(self, path: Path, caption: str) -> str:
        return (
            f"{link(path, self._folder.parent, caption)}\n\n{caption}. Made by `{self._command}`."
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


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"
