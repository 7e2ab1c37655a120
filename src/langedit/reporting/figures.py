"""Figures, written as PNG. Labels use language codes: the default font has no Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def retention_figure(
    curves: Mapping[str, Sequence[Sequence[float]]],
    languages: Sequence[str],
    path: Path,
    *,
    steps: Sequence[int] | None = None,
) -> None:
    """Draw how each batch fares after later batches: a panel a method, a line a batch.

    Args:
        curves: method -> for each scored step j the scores in [0, 1] of batches 0..j after batch j.
        languages: language code of each batch.
        path: PNG file to write.
        steps: the batches j, counted from 0, after which was scored; None for all.

    Raises:
        ValueError: a method's scores are not those of the steps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(4.6 * len(curves), 4.2), layout="constrained")
    grid = range(len(languages)) if steps is None else steps
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    colours = {code: f"C{index}" for index, code in enumerate(dict.fromkeys(languages))}
    lowest = min(value for scored in curves.values() for own in scored for value in own)
    for panel, (method, scored) in zip(panels, curves.items(), strict=True):
        at = list(grid)[: len(scored)] if steps is None else list(grid)
        if [len(own) for own in scored] != [step + 1 for step in at]:
            raise ValueError(f"{method}: expected scores of every batch up to each of {at}")
        for batch in range(at[-1] + 1):
            known = [
                (j + 1, 100 * own[batch]) for j, own in zip(at, scored, strict=True) if batch <= j
            ]
            style = {"linewidth": 2.6, "zorder": 3} if batch == 0 else {"linewidth": 1.0}
            panel.plot(
                [j for j, _ in known],
                [value for _, value in known],
                color=colours[languages[batch]],
                marker="." if len(known) == 1 or steps is not None else None,
                **style,
            )
        mean = [100 * sum(own) / len(own) for own in scored]
        panel.plot([j + 1 for j in at], mean, color="black", linestyle="--", linewidth=1.6)
        panel.set_title(method)
        panel.set_xlabel("after batch")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("efficacy of a batch (%)")
    panels[0].set_ylim(max(0.0, 100 * lowest - 5), 101)
    handles = [Line2D([], [], color=colour, label=code) for code, colour in colours.items()]
    handles.append(Line2D([], [], color="black", linestyle="--", label="mean"))
    handles.append(Line2D([], [], color=colours[languages[0]], linewidth=2.6, label="first batch"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")
