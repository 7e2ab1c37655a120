"""What the user reads when a comparison or a tuning is done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from langedit.cli.comparison import Comparison, Tuning
from langedit.compare.chosen import best_of
from langedit.compare.figures_of import FIRST_BATCH, MEAN, definitions_of
from langedit.compare.grid import Outcome
from langedit.compare.summary import board_table, boards_of
from langedit.profiler import join_profiles
from langedit.reporting import definition_table, percent, profile_table, score_table


def show_comparison(comparison: Comparison) -> None:
    """Print a table for each model and data set, what failed, and where the files are."""
    console = Console()
    for board in boards_of(comparison.outcomes, comparison.config.resamples):
        console.print(board_table(board), "")
    defined = definitions_of(comparison.config.metrics)
    shown = (*comparison.config.metrics, FIRST_BATCH, MEAN, "perplexity_ratio")
    console.print(definition_table({name: defined[name] for name in shown}), "")
    outcomes = comparison.outcomes
    for outcome in outcomes:
        if outcome.error is not None:
            _line(console, f"FAILED {outcome.cell.name}: {outcome.error}")
    if comparison.profiled:
        _show_profiles(console, outcomes)
    done = sum(outcome.record is not None for outcome in outcomes)
    failed = sum(outcome.error is not None for outcome in outcomes)
    rest = len(outcomes) - done - failed
    elsewhere = f", {rest} still run elsewhere" if rest else ""
    _line(console, f"{done} of {len(outcomes)} runs are done, {failed} failed{elsewhere}.")
    for file in (comparison.csv, comparison.report):
        if file is not None:
            _line(console, str(file))


def show_tuning(tuning: Tuning) -> None:
    """Print the best trial of each method beside its settings as declared in the same round."""
    console = Console()
    declared = {
        (result.trial.method, result.trial.final): result.objective
        for result in tuning.results
        if result.trial.number == 0
    }
    rows = {}
    for method, best in best_of(tuning.results).items():
        settings = ", ".join(f"{name} = {value}" for name, value in best.trial.settings.items())
        runs = sum(result.trial.method == method for result in tuning.results)
        rows[method] = [
            str(runs),
            percent(declared.get((method, best.trial.final))),
            percent(best.scores.get(MEAN)),
            settings or "as declared",
        ]
    columns = ("runs", "declared", "best", "settings")
    console.print(score_table("Objective in percent on the tuning facts", "method", columns, rows))
    for result in tuning.results:
        if result.error is not None:
            kind = "final" if result.trial.final else "trial"
            name = f"{result.trial.method} {kind} {result.trial.number}"
            _line(console, f"FAILED {name}: {result.error}")
    if tuning.profiled:
        _show_profiles(console, tuning.profiled)
    _line(console, str(tuning.file))


def _show_profiles(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what the stages of all runs took together, as far as they were profiled."""
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    profiles = [record["profile"] for record in records if "profile" in record]
    if profiles:
        console.print(profile_table(join_profiles(profiles)))
    if len(profiles) < len(records):
        without = len(records) - len(profiles)
        _line(console, f"{without} of {len(records)} runs were done without a profile, and stay.")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
