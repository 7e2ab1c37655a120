"""Figures of several methods side by side: language by language, and curves over a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

_PANELS = 4  # in a row

Curve = Sequence[tuple[int, float | None]]


def matrix_figure(
    panels: Mapping[str, Mapping[tuple[str, str], float]],
    languages: Sequence[str],
    path: Path,
    *,
    rows: str,
    columns: str,
    signed: bool = False,
) -> None:
    """Draw one matrix of languages for each method, in percent.

    Args:
        panels: method -> (row language, column language) -> value in [-1, 1]; pairs may be missing.
        languages: in order.
        path: PNG file to write.
        rows, columns: what the languages of rows and columns are.
        signed: whether values are changes, coloured from loss to gain.
    """
    figure, axes = _figure(len(panels), 3.0, 2.9)
    values = [abs(value) for own in panels.values() for value in own.values()]
    limit = (max(values, default=1.0) or 1.0) if signed else 1.0
    style = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if signed else {"vmin": 0, "vmax": 1}
    for axis, (method, own) in zip(axes, panels.items(), strict=False):
        grid = [[own.get((a, b), float("nan")) for b in languages] for a in languages]
        axis.imshow(grid, **style)
        for i, first in enumerate(languages):
            for j, second in enumerate(languages):
                value = own.get((first, second))
                if value is not None:
                    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.0f}"
                    dark = abs(value) > 0.6 * limit if signed else value < 0.45
                    colour = "white" if dark else "black"
                    axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(languages)), languages)
        axis.set_yticks(range(len(languages)), languages)
        axis.set_title(method, fontsize=9)
        axis.set_xlabel(columns, fontsize=8)
        axis.set_ylabel(rows, fontsize=8)
    _save(figure, path)


def stream_figure(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Draw curves over the stream: a panel a figure, a line a method.

    Args:
        curves: title of a panel -> method -> (batches so far, share in [0, 1]).
        path: PNG file to write.
    """
    figure, axes = _figure(len(curves), 5.2, 3.8)
    methods = list(dict.fromkeys(method for own in curves.values() for method in own))
    marks = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
    for axis, (title, own) in zip(axes, curves.items(), strict=False):
        for method, curve in own.items():
            known = [(at, 100 * value) for at, value in curve if value is not None]
            number = methods.index(method)
            axis.plot(
                [at for at, _ in known],
                [value for _, value in known],
                label=method,
                color=f"C{number % 10}",
                marker=marks[number % len(marks)],
                markersize=4,
                linestyle="-" if number < 10 else "--",
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("after batch")
        axis.set_ylabel("efficacy (%)")
        axis.grid(alpha=0.25)
    if axes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False
        )
    _save(figure, path)


def _figure(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    across = min(count, _PANELS)
    down = ceil(count / across)
    figure = Figure(figsize=(width * across, height * down + 0.5), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=110)
