"""The report of a comparison: Markdown and figures, made from its own results and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langedit.compare.config import UNEDITED, CompareConfig
from langedit.compare.figures_of import (
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
from langedit.compare.report_scores import (
    Records,
    ablations_section,
    by_language_section,
    cost_section,
    differences_section,
    scores_section,
)
from langedit.compare.summary import Board, boards_of
from langedit.errors import ConfigError
from langedit.evaluation import CrossScore, LanguageMatrix, language_matrix, mean_or_none
from langedit.reporting import heatmap_figure, percent, stream_figure


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
        scores_section(board),
        differences_section(config, board, records),
        ablations_section(config, board, records),
        heading(3, "By language"),
        by_language_section(board, records),
        heading(3, "Retention"),
        _retention(shown, figures),
        heading(3, "From language to language"),
        _languages(config, shown, figures),
        heading(3, "Time and memory"),
        cost_section(records),
    ]


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


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"
