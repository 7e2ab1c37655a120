"""Figures, written as PNG. Labels use language codes: the default font has no Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from langedit.reporting.panels import panel_figure, save_figure

Curve = Sequence[tuple[int, float | None]]
"""(batches so far, share in [0, 1])."""


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
        path: PNG file to write; its folder is made if missing.
        steps: the batches j, counted from 0, after which was scored; None for all.

    Raises:
        ValueError: a method's scores are not those of the steps.
    """
    from matplotlib.lines import Line2D

    figure, panels = panel_figure(len(curves), 4.6, 4.2, sharey=True)
    grid = range(len(languages)) if steps is None else steps
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
    save_figure(figure, path)


def stream_figure(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Draw curves over the stream: a panel a figure, a line a method.

    Args:
        curves: title of a panel -> method -> (batches so far, share in [0, 1]).
        path: PNG file to write.

    Raises:
        ValueError: there is no panel.
    """
    figure, axes = panel_figure(len(curves), 5.2, 4.2)
    methods = list(dict.fromkeys(method for own in curves.values() for method in own))
    marks = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
    for axis, (title, own) in zip(axes, curves.items(), strict=True):
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
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False
    )
    save_figure(figure, path)
