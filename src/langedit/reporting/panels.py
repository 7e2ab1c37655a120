"""Panels of a figure side by side, and the file that it goes to."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

ACROSS = 4
"""Panels in a row."""


def panel_figure(
    count: int, width: float, height: float, *, across: int = ACROSS, sharey: bool = False
) -> tuple[Any, list[Any]]:
    """A figure and its axes, one a panel; what is left of the last row stays empty.

    Args:
        count: of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        across: panels in a row.
        sharey: whether all panels have one scale of y.

    Raises:
        ValueError: there is no panel.
    """
    from matplotlib.figure import Figure

    if count < 1:
        raise ValueError(f"expected at least one panel to draw, got {count}")
    columns = min(count, across)
    rows = ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG; its folder is made if missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=110)
