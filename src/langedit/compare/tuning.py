"""Tune settings: the same budget of runs for every method, on facts that no evaluation uses.

A trial is a cell like any other, on a stream of the subjects kept for tuning; trials that are
finished stay. The first trial of a method has its settings as declared. Settings that are best on
a short stream need not be so on a long one: a final lets the best of each method try those.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langedit.compare.cells import Cell, make_ground, measures_of
from langedit.compare.config import CompareConfig
from langedit.compare.draws import draw_trials
from langedit.compare.entries import TuneEntry
from langedit.compare.figures_of import MEAN, OBJECTIVE, means_of
from langedit.compare.grid import Outcome
from langedit.compare.ground import Ground, Say
from langedit.compare.nearest import require_name
from langedit.compare.reading import edit_config, overlay, prefix_language
from langedit.compare.streams import Streams, plans_of
from langedit.editing.methods import settings_read
from langedit.errors import ConfigError
from langedit.evaluation import mean_or_none


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Settings of a method that were tried.

    Attributes:
        method: the entry that is tuned.
        number: of the trial, from 0; a final has that of the trial whose settings it repeats.
        settings: what was drawn; empty for the settings as declared.
        cells: one for each stream.
        final: on the longer streams.
    """

    method: str
    number: int
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]
    final: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialResult:
    """How a trial did: means over its streams, `None` where a run failed or is not finished."""

    trial: Trial
    scores: Mapping[str, float | None]
    error: str | None

    @property
    def objective(self) -> float | None:
        """Mean of efficacy, generalization, specificity and first batch."""
        return self.scores.get(MEAN)


def make_trials(
    config: CompareConfig,
    folder: Path,
    *,
    only: Collection[str] = (),
    say: Say = lambda _: None,
) -> tuple[Trial, ...]:
    """All trials of a comparison's methods, on its first model and its first data set.

    Args:
        config: the comparison; its table `[tune]` says what is tried.
        folder: of results.
        only: methods to tune; all methods, without the ablations, if empty.
        say: told what takes long.

    Raises:
        ConfigError: nothing says how to tune, or a drawn setting is wrong.
        FactError: there are too few facts for tuning.
    """
    tune = _tune_of(config)
    for label in only:
        require_name("method", label, config.all_methods())
    labels = [label for label in config.all_methods() if not only or label in only]
    picked = {
        label: list(enumerate(draw_trials(tune, label, settings_read(config.method_of(label)))))
        for label in labels
    }
    return _trials(config, folder, picked, tune, final=False, say=say)


def make_finals(
    config: CompareConfig,
    folder: Path,
    results: Sequence[TrialResult],
    *,
    say: Say = lambda _: None,
) -> tuple[Trial, ...]:
    """The second round: the best trials of each method, on longer streams.

    Args:
        config: the comparison.
        folder: of results.
        results: of the first round; failed ones have no place in the second.
        say: told what takes long.

    Returns:
        Nothing, if no final is asked for.

    Raises:
        FactError: there are too few facts for tuning.
    """
    tune = _tune_of(config)
    if tune.final is None:
        return ()
    ranked = sorted(
        (result for result in results if result.objective is not None),
        key=lambda result: -(result.objective or 0.0),
    )
    picked: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for method in dict.fromkeys(result.trial.method for result in results):
        own = [result.trial for result in ranked if result.trial.method == method]
        picked[method] = [(trial.number, trial.settings) for trial in own[: tune.final.trials]]
    return _trials(config, folder, picked, tune, final=True, say=say)


def _trials(
    config: CompareConfig,
    folder: Path,
    picked: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]],
    tune: TuneEntry,
    *,
    final: bool,
    say: Say,
) -> tuple[Trial, ...]:
    """Trials of numbered settings of each method, in one round."""
    model, dataset = next(iter(config.models)), next(iter(config.datasets))
    length = tune.final if final and tune.final is not None else tune
    small = config.replace(
        batches=length.batches,
        edits_per_batch=length.edits_per_batch,
        metrics=tuple(name for name in OBJECTIVE if name in config.metrics),
        retention=1,
        interference_sample=0,
        transfer_sample=0,
        perplexity_texts=0,
        datasets={dataset: _without_protocol(config, dataset)},
    )
    streams = Streams(small, "tuning")
    tried = [
        (label, number, settings, _tried(small, label, settings, model))
        for label, own in picked.items()
        for number, settings in own
    ]
    every = [edit_config(own, label, model) for label, _, _, own in tried]
    ground = make_ground(small, model, every, folder, say)
    plans = plans_of(small, dataset)
    return tuple(
        Trial(
            method=label,
            number=number,
            settings=settings,
            cells=tuple(
                _cell(
                    own,
                    label,
                    f"{'final' if final else 'trial'} {number}",
                    name,
                    ground,
                    streams,
                    seed,
                )
                for name in plans
                for seed in tune.stream_seeds
            ),
            final=final,
        )
        for label, number, settings, own in tried
    )


def results_of(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> tuple[TrialResult, ...]:
    """Scores of the trials, from the outcomes of their cells in order."""
    rest = iter(outcomes)
    found = []
    for trial in trials:
        own = list(itertools.islice(rest, len(trial.cells)))
        records = [outcome.record for outcome in own if outcome.record is not None]
        errors = [outcome.error for outcome in own if outcome.error is not None]
        scores: dict[str, float | None] = {}
        if len(records) == len(own):
            means = [means_of(record, record["measures"]["metrics"]) for record in records]
            scores = {name: mean_or_none(mean[name] for mean in means) for name in means[0]}
        error = errors[0] if errors else None
        found.append(TrialResult(trial=trial, scores=scores, error=error))
    return tuple(found)


def _tune_of(config: CompareConfig) -> TuneEntry:
    if config.tune is None or not config.tuning_share:
        raise ConfigError(
            f"comparison {config.name}: expected a table [tune] and tuning_share above 0, which "
            "say what to try and which facts are kept for it; add them"
        )
    return config.tune


def _without_protocol(config: CompareConfig, dataset: str) -> Any:
    """The data set with the tuning's batches instead of its own."""
    return config.datasets[dataset].model_copy(update={"batches": None, "edits_per_batch": None})


def _tried(
    config: CompareConfig, label: str, settings: Mapping[str, Any], model: str
) -> CompareConfig:
    """The comparison with settings of one method put on top of everything else."""
    entry = config.entry(label)
    fields = {name: getattr(entry, name) for name in type(entry).model_fields}
    on = {**entry.on, model: overlay(entry.on.get(model, {}), settings)}
    changed = type(entry)(**{**entry.settings, **fields, "on": on})
    kind = "ablations" if label in config.ablations else "methods"
    return config.replace(**{kind: {**getattr(config, kind), label: changed}})


def _cell(
    config: CompareConfig,
    label: str,
    kind: str,
    name: str,
    ground: Ground,
    streams: Streams,
    seed: int,
) -> Cell:
    dataset = name.partition("/")[0]
    stream = streams.stream(dataset, plans_of(config, dataset)[name], seed)
    return Cell(
        model=ground.name,
        method=f"{label} {kind}",
        dataset=name,
        seed=seed,
        group="methods",
        settings=edit_config(config, label, ground.name),
        prefixes_in=prefix_language(config, label),
        stream=stream,
        ground=ground,
        measures=measures_of(config, stream),
    )
