"""Heat maps of language matrices, written as PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langedit.reporting.panels import panel_figure, save_figure

if TYPE_CHECKING:
    from langedit.evaluation import Interval, LanguageMatrix


def heatmap_figure(
    panels: Mapping[str, LanguageMatrix],
    path: Path,
    *,
    rows: str,
    columns: str,
    signed: bool = False,
    languages: Sequence[str] | None = None,
) -> None:
    """Draw a matrix of languages for each method, in percent, with half-widths of the intervals.

    All panels share one colour scale and one order of languages. Pairs without scores are grey.

    Args:
        panels: method -> matrix, such as transfer or interference.
        path: PNG file to write.
        rows: what the languages of rows are, such as "edited in".
        columns: what those of columns are, such as "asked in".
        signed: whether values are differences: colours then go from loss over white to gain.
        languages: codes in order; those that no matrix has are left out. In the order in which
            they appear if not given.

    Raises:
        ValueError: there is no matrix.
    """
    if not panels:
        raise ValueError("expected at least one matrix to draw")
    across = _ordered((code for own in panels.values() for code in own.columns), languages)
    down = _ordered((code for own in panels.values() for code in own.rows), languages)
    means = [cell.mean for own in panels.values() for cell in own.cells.values()]
    limit = max(0.01, *map(abs, means)) if signed else 1.0
    size = (0.62 * len(across) + 1.2, 0.62 * len(down) + 1.3)
    figure, axes = panel_figure(len(panels), *size)
    scale: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 100}
    if signed:
        scale = {"cmap": "RdBu", "vmin": -100 * limit, "vmax": 100 * limit}
    for axis, (method, own) in zip(axes, panels.items(), strict=True):
        grid = [[_mean(own, row, column) for column in across] for row in down]
        axis.set_facecolor("0.85")
        image = axis.imshow(grid, **scale)
        for (row, column), cell in own.cells.items():
            place = (across.index(column), down.index(row))
            _write(axis, place, cell, "white" if abs(cell.mean) > 0.6 * limit else "black", signed)
        axis.set_xticks(range(len(across)), across)
        axis.set_yticks(range(len(down)), down)
        axis.set_title(method, fontsize=10)
        axis.set_xlabel(columns)
        axis.set_ylabel(rows)
    figure.colorbar(image, ax=axes, label="percentage points" if signed else "percent", shrink=0.85)
    save_figure(figure, path)


def _ordered(found: Iterable[str], languages: Sequence[str] | None) -> list[str]:
    """The languages that were found, each once, in the order wanted if there is one."""
    known = list(dict.fromkeys(found))
    return known if languages is None else sorted(known, key=list(languages).index)


def _write(axis: Any, place: tuple[int, int], cell: Interval, colour: str, signed: bool) -> None:
    """Write a mean and the half-width of its interval into a cell, in percent."""
    mean = f"{round(100 * cell.mean, 1) + 0.0:+.1f}" if signed else f"{100 * cell.mean:.0f}"
    half = f"±{50 * (cell.high - cell.low):.{1 if signed else 0}f}"
    axis.text(*place, mean, va="bottom", ha="center", fontsize=9, color=colour)
    axis.text(*place, half, va="top", ha="center", fontsize=6.5, color=colour)


def _mean(matrix: LanguageMatrix, row: str, column: str) -> float:
    """A cell in percent; not a number where there is none, which is left blank."""
    cell = matrix.cells.get((row, column))
    return float("nan") if cell is None else 100 * cell.mean
