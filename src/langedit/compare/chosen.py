"""The best of the settings that were tried, as a file that a comparison reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langedit.compare.figures_of import MEAN
from langedit.compare.files import write_text
from langedit.compare.tuning import TrialResult
from langedit.editing.toml import toml_value


def best_of(results: Sequence[TrialResult]) -> dict[str, TrialResult]:
    """Method -> its trial with the largest objective, of the final if there is one.

    The first of equals.
    """
    best: dict[str, TrialResult] = {}
    decided = {result.trial.method for result in results if result.trial.final}
    for result in results:
        name = result.trial.method
        if result.trial.final != (name in decided):
            continue
        if result.objective is not None and (
            name not in best or result.objective > (best[name].objective or 0.0)
        ):
            best[name] = result
    return best


def write_chosen(results: Sequence[TrialResult], path: Path, command: str) -> None:
    """Write the best settings of each method, and all trials, as TOML that a comparison reads.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = [f"# Written by `{command}`: do not edit.", f"command = {toml_value(command)}", ""]
    lines.append("# Every run; scores in [0, 1]. A run without an objective failed.")
    lines.append("trials = [")
    lines += [f"    {toml_value(_row(result))}," for result in results]
    lines.append("]")
    for method, best in best_of(results).items():
        count = sum(
            result.trial.method == method and result.trial.final == best.trial.final
            for result in results
        )
        lines += ["", f"[methods.{toml_value(method)}]"]
        lines.append(f"chosen = {toml_value(_reason(best, count, command))}")
        if best.trial.settings:
            model = best.trial.cells[0].model
            lines.append(f"[methods.{toml_value(method)}.on.{toml_value(model)}]")
        lines += [f"{name} = {toml_value(value)}" for name, value in best.trial.settings.items()]
    write_text(path, "\n".join(lines) + "\n")


def _reason(best: TrialResult, count: int, command: str) -> str:
    which = f"trial {best.trial.number}" if best.trial.number else "the settings as declared"
    value = 100 * (best.objective or 0.0)
    where = " in the final" if best.trial.final else ""
    return f"{which}, best of {count}{where} by {command}: objective {value:.1f}"


def _row(result: TrialResult) -> dict[str, Any]:
    trial = result.trial
    row: dict[str, Any] = {"method": trial.method, "trial": trial.number, "final": trial.final}
    known = {name: value for name, value in result.scores.items() if value is not None}
    if MEAN in known:
        row["objective"] = round(known.pop(MEAN), 6)
    row |= {name: round(value, 6) for name, value in known.items()}
    if result.error is not None:
        row["error"] = result.error
    return {**row, "settings": dict(trial.settings)}
