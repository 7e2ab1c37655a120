"""Settings on facts held apart: is what was found better than the start, and than others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langedit.calibration.bench import Batches, Bench, Trial
from langedit.calibration.plan import Plan, Report
from langedit.calibration.search import best_trial
from langedit.errors import ConfigError
from langedit.evaluation import Interval


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Settings on the facts that only the confirmation has seen.

    Attributes:
        trial: the run.
        intervals: score -> its mean and interval; empty if the run failed.
        gains: score -> mean and interval of this minus the start; empty for the start.
        leads: score -> mean and interval of the chosen settings minus this, on the same facts;
            empty for the chosen ones.
    """

    trial: Trial
    intervals: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    leads: Mapping[str, Interval]


def confirm(
    bench: Bench, trials: Sequence[Trial], batches: Batches, plan: Plan, report: Report
) -> tuple[dict[str, Confirmation], bool]:
    """Run start, found and compared settings on facts that only this stage sees.

    Args:
        bench: runs them.
        trials: of the search, the start first.
        batches: of the facts.
        plan: names what is compared against.
        report: told of progress.

    Returns:
        Name -> confirmation, and whether the start is kept because what was found is no better.

    Raises:
        ConfigError: neither the start nor what was found can edit the model.
    """
    best = best_trial(trials).config
    wanted = {"start": trials[0].config}
    if best != trials[0].config:
        wanted["found"] = best
    runs: dict[str, Trial] = {}
    for name, config in (wanted | dict(plan.against)).items():
        runs[name] = bench.run(config, batches)
        report("confirmations", len(runs))
    if all(trial.record is None for name, trial in runs.items() if name in wanted):
        raise ConfigError(
            f"calibrate: expected settings with which the model can be edited, got none: "
            f"{runs['start'].error}"
        )
    kept = "found" not in runs or not runs["found"].objective > runs["start"].objective
    start, chosen = runs["start"], runs["start" if kept else "found"]
    confirmed = {
        name: Confirmation(
            trial=trial,
            intervals=_intervals(trial),
            gains=_differences(trial, start),
            leads=_differences(chosen, trial),
        )
        for name, trial in runs.items()
    }
    return confirmed, kept


def _intervals(trial: Trial) -> dict[str, Interval]:
    """Score -> mean and interval; nothing of a run that failed."""
    if trial.record is None:
        return {}
    drawn = trial.resampled()
    own = {name: drawn.interval(name) for name in trial.scores}
    return {name: value for name, value in own.items() if value is not None}


def _differences(trial: Trial, other: Trial) -> dict[str, Interval]:
    """Score -> one run minus another on the same facts; nothing if they are one or one failed."""
    if trial is other or trial.record is None or other.record is None:
        return {}
    drawn, base = trial.resampled(), other.resampled()
    own = {name: drawn.difference(base, name) for name in trial.scores}
    return {name: value for name, value in own.items() if value is not None}
