"""Heat maps of figures by row and column, and curves; written as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from langedit.reporting.panels import ACROSS, panel_figure, save_figure

_WRITTEN = 12
"""Columns up to which the figures are written into the cells."""


def grid_figure(
    panels: Mapping[str, Sequence[Sequence[float]]],
    path: Path,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    unit: str,
) -> None:
    """Draw a heat map a panel; all share one colour scale, which begins at 0.

    Args:
        panels: title -> a value for each row and column; those that are no numbers are grey.
        path: PNG file to write.
        rows: labels, from top to bottom.
        columns: labels, from left to right.
        across: what the columns are.
        unit: of the values, beside the colour scale.

    Raises:
        ValueError: there is no panel.
    """
    in_a_row = ACROSS if len(columns) <= _WRITTEN else ACROSS // 2
    wide = min(8.0, max(3.2, 0.5 * len(columns))) + 0.7
    figure, axes = panel_figure(
        len(panels), wide, 0.42 * len(rows) + 1.1, across=in_a_row, sharey=True
    )
    known = [v for own in panels.values() for row in own for v in row if math.isfinite(v)]
    top = max([0.0, *known]) or 1.0
    for number, (axis, (title, own)) in enumerate(zip(axes, panels.items(), strict=True)):
        axis.set_facecolor("0.85")
        image = axis.imshow(own, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        axis.set_title(title, fontsize=10)
        step = 1 if len(columns) <= 2 * _WRITTEN else 4
        axis.set_xticks(range(0, len(columns), step), columns[::step])
        axis.set_yticks(range(len(rows)), rows)
        if number + in_a_row >= len(panels):
            axis.set_xlabel(across)
        for y, row in enumerate(own if len(columns) <= _WRITTEN else ()):
            for x, value in enumerate(row):
                if math.isfinite(value):
                    colour = "white" if value > 0.6 * top else "black"
                    text = f"{round(value) + 0:d}"
                    axis.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes, label=unit, shrink=0.85)
    save_figure(figure, path)


def curve_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    across: str,
    up: str,
    bold: str | None = None,
    logarithmic: bool = False,
    points: bool = False,
) -> None:
    """Draw curves in one panel.

    Args:
        curves: label -> (x, y) in order.
        path: PNG file to write.
        across: what x is.
        up: what y is, with its unit.
        bold: label of a curve that is drawn in black.
        logarithmic: whether y has a logarithmic scale.
        points: whether the curves, but for the bold one, are points without lines.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("expected at least one curve to draw")
    figure, (axis,) = panel_figure(1, 6.4, 4.2)
    longest = max(map(len, curves.values()))
    for label, curve in curves.items():
        style = {"color": "black", "linewidth": 2.2} if label == bold else {"linewidth": 1.3}
        axis.plot(
            [x for x, _ in curve],
            [y for _, y in curve],
            label=label,
            marker="." if longest <= 100 else None,
            linestyle="" if points and label != bold else "-",
            **style,
        )
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    if logarithmic:
        axis.set_yscale("log")
    if longest <= 2 * _WRITTEN:
        axis.set_xticks(sorted({x for curve in curves.values() for x, _ in curve}))
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=min(7, len(curves)), frameon=False)
    save_figure(figure, path)
