"""Calibrate a model: look at its layers, search, and confirm on facts held apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from langedit.calibration.bench import Batches, Bench, Trial
from langedit.calibration.budget import Stages
from langedit.calibration.confirmation import Confirmation, confirm
from langedit.calibration.evidence import Evidence, gather
from langedit.calibration.layer_facts import Reach, learning_rate
from langedit.calibration.parts import Parts, split_facts
from langedit.calibration.plan import Plan, Report
from langedit.calibration.search import Space, make_space, search, suggest
from langedit.calibration.start import Start
from langedit.editing import EditConfig, Moments
from langedit.editing.spectra import with_spectrum
from langedit.facts import Fact, check_batch, make_batches
from langedit.linalg import Spectrum
from langedit.models import EditableModel
from langedit.profiler import Profile, Profiler, timed

_MARGIN = 1.2
"""How much longer a confirmation may take than its number of facts says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """All that was found.

    Attributes:
        plan: what could be used; its start has the learning rate that was begun with.
        parts: the facts.
        evidence: what is known of the layers.
        space: what was tried.
        trials: of the search, the start first.
        confirmed: `start`, `found` if that is another, and those compared against.
        kept: whether the start is kept because what was found is no better.
        seconds: stage -> wall-clock time.
        profile: what its stages, and those of all runs together, cost, if that was asked for.
    """

    plan: Plan
    parts: Parts
    evidence: Evidence
    space: Space
    trials: Sequence[Trial]
    confirmed: Mapping[str, Confirmation]
    kept: bool
    seconds: Mapping[str, float]
    profile: Profile | None = None

    @property
    def chosen(self) -> EditConfig:
        """The settings to edit with."""
        return self.confirmed["start" if self.kept else "found"].trial.config


def calibrate(
    model: EditableModel,
    facts: Sequence[Fact],
    moments: Moments,
    plan: Plan,
    report: Report = lambda _what, _done: None,
    profiler: Profiler | None = None,
) -> Calibration:
    """Find settings for a model.

    Args:
        model: the model; it has its own weights again afterwards.
        facts: a sample of what will be edited.
        moments: of the layers that may be edited.
        plan: what may be used.
        report: told of progress.
        profiler: is told of every stage.

    Raises:
        FactError: too few facts, or some that contradict one another.
        ConfigError: the start cannot be used with the model, or the method has nothing to try.
        LangEditError: the facts cannot be encoded, or targets are not finite.
    """
    stages = Stages(plan.budget)
    parts = split_facts(facts)
    searched = _batches(parts.search, plan.batch_size)
    confirming = _batches(parts.confirm, plan.batch_size)
    with timed({}, "spectra", profiler):
        moments = _with_spectra(moments)
    bench = Bench(model, moments, profiler)
    plan = replace(plan, start=_usable(plan.start, moments, model))
    stages.end("moments and spectra")
    asked = model.with_chat(plan.start.config.chat_settings)
    evidence = gather(asked, bench, moments, parts.probe, plan, stages, report, profiler)
    plan = replace(plan, start=_with_rate(plan.start, evidence.reach, model))
    space = _space(plan.start.config, moments, evidence.reach, model)
    trials = _search(bench, searched, plan, parts, space, evidence, report)
    stages.end("search")
    confirmed, kept = confirm(bench, trials, confirming, plan, report)
    stages.end("confirmation")
    return Calibration(
        plan=plan,
        parts=parts,
        evidence=evidence,
        space=space,
        trials=trials,
        confirmed=confirmed,
        kept=kept,
        seconds=stages.seconds,
        profile=None if profiler is None else profiler.to_dict(),
    )


def _batches(facts: Sequence[Fact], size: int) -> Batches:
    batches = make_batches(facts, size)
    for batch in batches:
        check_batch(batch)
    return batches


def _usable(start: Start, moments: Moments, model: EditableModel) -> Start:
    """The start, with its layers those that have second moments; its origin says so."""
    config = start.config
    config.check_depth(model.structure.n_layers)
    layers = tuple(layer for layer in config.layers if layer in moments.layers)
    if layers != config.layers:
        near = min(moments.layers, key=lambda layer: (abs(layer - config.layers[-1]), layer))
        config = config.replace(layers=layers or (near,))
        origin = (
            f"{start.origin}, but with layers {list(config.layers)} instead of "
            f"{list(start.config.layers)}, because the others have no second moments"
        )
        start = replace(start, config=config, origin=origin)
    return start


def _with_rate(start: Start, found: Reach, model: EditableModel) -> Start:
    """The start, with the learning rate that reached most at its last layer, if it has none."""
    if start.rate_known:
        return start
    last = start.config.layers[-1]
    rate = learning_rate(found.stride(last), found.lengths[last], model.structure.d_model)
    return replace(start, config=start.config.replace(value_lr=rate))


def _with_spectra(moments: Moments) -> Moments:
    """The moments with their spectra, which every trial needs: read from their folder, or made."""
    layers = {}
    for number, own in moments.layers.items():
        if moments.folder is not None:
            moment = with_spectrum(own.moment, moments.folder, number)
        else:
            moment = own.moment.with_spectrum(Spectrum.of(own.moment.mean))
        layers[number] = replace(own, moment=moment)
    return replace(moments, layers=layers, folder=None)


def _space(start: EditConfig, moments: Moments, found: Reach, model: EditableModel) -> Space:
    """What is tried: layers with second moments that are not behind the loss layer."""
    end = model.structure.n_layers if start.loss_layer is None else start.loss_layer + 1
    layers = [layer for layer in moments.layers if layer < end]
    return make_space(start.method, layers, found, model.structure.d_model)


def _search(
    bench: Bench,
    batches: Batches,
    plan: Plan,
    parts: Parts,
    space: Space,
    evidence: Evidence,
    report: Report,
) -> Sequence[Trial]:
    """Run settings on the facts of the search, as long as the confirmation still has time."""
    start = plan.start.config
    left = len(parts.confirm) / len(parts.search) * (2 + len(plan.against)) * _MARGIN

    def goes_on(so_far: Sequence[Trial]) -> bool:
        report("settings tried", len(so_far))
        return _goes_on(plan, so_far, left)

    suggested = suggest(space, start, evidence.reach, evidence.statistics, evidence.peak)
    return search(
        space, start, suggested, lambda own: bench.run(own, batches), goes_on, seed=plan.seed
    )


def _goes_on(plan: Plan, trials: Sequence[Trial], left: float) -> bool:
    """Whether one more trial, and the confirmation after it, are within what may be used."""
    if plan.trials is not None:
        return len(trials) <= plan.trials
    longest = max(trial.seconds for trial in trials)
    return len(trials) < 2 or plan.budget.allows(1.0, more=longest + left * longest)
