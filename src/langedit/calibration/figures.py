"""Figures of a calibration: heat maps of the effects, curves of reach, spectra and search."""

from __future__ import annotations

from pathlib import Path

from langedit.calibration.effects import ROLES
from langedit.calibration.evidence import ALL
from langedit.calibration.run import Calibration
from langedit.calibration.tracing import SITE_NAMES, SITES
from langedit.reporting import curve_figure, grid_figure


def draw_figures(calibration: Calibration, folder: Path) -> None:
    """Draw them all.

    Raises:
        OutputError: a file cannot be written.
    """
    evidence = calibration.evidence
    layers = range(len(evidence.reach.lengths))
    for site in SITES if evidence.effects else ():
        grid_figure(
            {
                f"{name} ({own.facts} facts, total effect {100 * own.total:.0f} points)": (
                    100 * own.indirect[site].T
                ).tolist()
                for name, own in evidence.effects.items()
            },
            folder / f"tracing-{site}.png",
            rows=ROLES,
            columns=[str(layer) for layer in layers],
            across=f"layer at which {SITE_NAMES[site]} is restored",
            unit="indirect effect (points of probability)",
        )
    curves = {ALL: evidence.reach.best()}
    curves |= {code: evidence.reach.best(code) for code in dict.fromkeys(evidence.reach.languages)}
    curve_figure(
        {name: [(layer, 100 * own[layer]) for layer in layers] for name, own in curves.items()},
        folder / "reachability.png",
        across="layer whose output is changed",
        up="targets reached (%)",
        bold=ALL,
    )
    curve_figure(
        {
            f"layer {layer}": [
                (100 * (i + 1) / len(own.spectrum), value)
                for i, value in enumerate(own.spectrum)
                if value > 1e-12
            ]
            for layer, own in evidence.statistics.items()
        },
        folder / "spectra.png",
        across="directions, strongest first (%)",
        up="share of the corpus's keys, by squared length",
        logarithmic=True,
    )
    done = [(i, 100 * own.objective) for i, own in enumerate(calibration.trials) if own.scores]
    best = [(i, max(value for _, value in done[: at + 1])) for at, (i, _) in enumerate(done)]
    if done:
        curve_figure(
            {"a run": done, "best so far": best},
            folder / "search.png",
            across="run of the search; 0 is the start",
            up="mean of the scores (%)",
            bold="best so far",
            points=True,
        )
