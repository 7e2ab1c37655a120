"""The best of the settings that were tried, as a file that a comparison reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def write_chosen(
    results: Sequence[TrialResult], path: Path, command: str, kept: Mapping[str, Any] | None = None
) -> None:
    """Write the best settings of each method, and all trials, as TOML that a comparison reads.

    Args:
        results: of this tuning.
        path: the file.
        command: that tuned.
        kept: content of such a file, of which methods that are not tuned now stay.

    Raises:
        OutputError: the file cannot be written.
    """
    tuned = {result.trial.method for result in results}
    kept = kept or {}
    rows = [row for row in kept.get("trials", ()) if row.get("method") not in tuned]
    tables = {name: own for name, own in kept.get("methods", {}).items() if name not in tuned}
    earlier = str(kept.get("command", "")).split("; ") if rows or tables else []
    commands = "; ".join(dict.fromkeys(filter(None, [*earlier, command])))
    lines = [f"# Written by `{commands}`: do not edit.", f"command = {toml_value(commands)}", ""]
    lines.append("# Every run; scores in [0, 1]. A run without an objective failed.")
    lines.append("trials = [")
    lines += [f"    {toml_value(row)}," for row in (*rows, *map(_row, results))]
    lines.append("]")
    for method, table in (tables | _tables(results, command)).items():
        plain = {name: value for name, value in table.items() if name != "on"}
        lines += ["", f"[methods.{toml_value(method)}]", *_settings(plain)]
        for model, own in table.get("on", {}).items():
            lines += [f"[methods.{toml_value(method)}.on.{toml_value(model)}]", *_settings(own)]
    write_text(path, "\n".join(lines) + "\n")


def _tables(results: Sequence[TrialResult], command: str) -> dict[str, dict[str, Any]]:
    """Method -> its table: the best settings on the model that was tuned, and why."""
    tables = {}
    for method, best in best_of(results).items():
        count = sum(
            result.trial.method == method and result.trial.final == best.trial.final
            for result in results
        )
        table: dict[str, Any] = {"chosen": _reason(best, count, command)}
        if best.trial.settings:
            table["on"] = {best.trial.cells[0].model: dict(best.trial.settings)}
        tables[method] = table
    return tables


def _settings(table: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in table.items()]


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
