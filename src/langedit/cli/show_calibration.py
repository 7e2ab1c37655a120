"""What the user reads when a model is calibrated."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from langedit.calibration.report import REPORT, SETTINGS
from langedit.calibration.run import Calibration
from langedit.calibration.settings_file import changed_settings, comparisons, percent_interval
from langedit.editing.toml import toml_value
from langedit.reporting import profile_table, score_table


def show_calibration(found: Calibration, output: Path) -> None:
    """Print the scores of start and found settings, the settings, and where the files are."""
    console = Console()
    names = list(dict.fromkeys(n for own in found.confirmed.values() for n in own.intervals))
    rows = {
        label: [
            percent_interval(own.intervals[name]) if name in own.intervals else "failed"
            for name in names
        ]
        for label, own in found.confirmed.items()
    }
    title = f"Scores in percent on {len(found.parts.confirm)} facts held apart, 95 % intervals"
    console.print(score_table(title, "settings", names, rows), "")
    if found.profile is not None:
        console.print(profile_table(found.profile), "")
    evidence = found.evidence
    untraced = [code for code in evidence.asked if code not in evidence.effects]
    lines = [
        f"{name} = {toml_value(value)}" for name, value in changed_settings(found.chosen).items()
    ]
    lines.append("")
    if untraced:
        lines.append(f"Not traced, because the model knows no fact of these: {', '.join(untraced)}")
    lines.append(f"{len(found.trials)} settings were tried on {len(found.parts.search)} facts.")
    if found.kept:
        lines.append("Nothing that was found is better than the start, which is kept.")
    lines += comparisons(found)
    lines += [str(output / SETTINGS), str(output / REPORT)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
