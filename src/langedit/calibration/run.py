"""Calibrate a model: look at its layers, search, and confirm on facts held apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from langedit.calibration.bench import Batches, Bench, Trial
from langedit.calibration.budget import Budget
from langedit.calibration.effects import (
    EffectMap,
    average_effects,
    join_traces,
    known_facts,
    role_places,
)
from langedit.calibration.layer_facts import (
    LayerStatistics,
    Reach,
    layer_statistics,
    learning_rate,
    reach,
)
from langedit.calibration.parts import Parts, split_facts
from langedit.calibration.search import Space, best_trial, make_space, search, suggest
from langedit.calibration.start import Start
from langedit.calibration.tracing import Traces, embedding_deviation, trace
from langedit.editing import EditConfig, EditRequest, Moments, prepare_request
from langedit.editing.spectra import with_spectrum
from langedit.errors import ConfigError
from langedit.evaluation import Interval
from langedit.facts import Fact, check_batch, make_batches
from langedit.linalg import Spectrum
from langedit.models import EditableModel

NOISE = 3.0
"""Standard deviations of the embeddings that are added to a subject, as in ROME."""

DRAWS = 3
"""Of the noise, for each prompt."""

MOST_TRACED, MOST_TRIED = 60, 24
"""Facts that are traced at most, and whose targets are tried at every layer."""

_CHUNK = 12
"""Facts of which the probing stages take all layers before they look at the clock."""

_TRACING_ENDS, _REACH_ENDS = 0.12, 0.3
"""Shares of the budget after which these stages take no more facts."""

_MARGIN = 1.2
"""How much longer a confirmation may take than its number of facts says."""

Report = Callable[[str, int], None]
"""Told what is done, and how many of it are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a calibration may use.

    Attributes:
        start: settings that the search begins with, and that are kept if nothing better is found.
        budget: minutes.
        trials: runs of the search after the start; `None`: as many as the budget allows.
        batch_size: facts in a batch.
        against: name -> settings that are scored on the confirmation facts, too.
        seed: of noise and search.
    """

    start: Start
    budget: Budget
    trials: int | None
    batch_size: int
    against: Mapping[str, EditConfig]
    seed: int = 0


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """All that was found.

    Attributes:
        plan: what could be used; its start has the learning rate that was begun with.
        parts: the facts.
        effects: language -> effects; languages of which the model knows no fact are not there.
        asked: language -> facts that were looked at.
        noise: standard deviation of what was added to the embeddings.
        reach: which targets are reached at which layer.
        statistics: layer -> statistics, of the layers with second moments.
        space: what was tried.
        trials: of the search, the start first.
        confirmed: `start`, `found` if that is another, and those compared against.
        kept: whether the start is kept because what was found is no better.
        seconds: stage -> wall-clock time.
    """

    plan: Plan
    parts: Parts
    effects: Mapping[str, EffectMap]
    asked: Mapping[str, int]
    noise: float
    reach: Reach
    statistics: Mapping[int, LayerStatistics]
    space: Space
    trials: Sequence[Trial]
    confirmed: Mapping[str, Confirmation]
    kept: bool
    seconds: Mapping[str, float]

    @property
    def chosen(self) -> EditConfig:
        """The settings to edit with."""
        return self.confirmed["start" if self.kept else "found"].trial.config


ALL = "all"
"""Stands for all languages among the effects."""


def calibrate(
    model: EditableModel,
    facts: Sequence[Fact],
    moments: Moments,
    plan: Plan,
    report: Report = lambda _what, _done: None,
) -> Calibration:
    """Find settings for a model.

    Args:
        model: the model; it has its own weights again afterwards.
        facts: a sample of what will be edited.
        moments: of the layers that may be edited.
        plan: what may be used.
        report: told of progress.

    Raises:
        FactError: too few facts, or some that contradict one another.
        ConfigError: the start cannot be used with the model, or the method has nothing to try.
        LangEditError: the facts cannot be encoded, or targets are not finite.
    """
    parts = split_facts(facts)
    searched = _batches(parts.search, plan.batch_size)
    confirming = _batches(parts.confirm, plan.batch_size)
    moments = _with_spectra(moments)
    bench = Bench(model, moments)
    plan = replace(plan, start=_usable(plan.start, moments, model))
    start = plan.start.config
    marks = [("moments and spectra", plan.budget.spent)]
    model = model.with_chat(start.chat_settings)
    effects, asked, noise = _trace(model, parts.probe, plan, start, report)
    marks.append(("tracing", plan.budget.spent))
    found, requests = _reach(model, bench, parts.probe, plan, start, report)
    marks.append(("reachability", plan.budget.spent))
    if not plan.start.rate_known:
        last = start.layers[-1]
        rate = learning_rate(found.stride(last), found.lengths[last], model.structure.d_model)
        start = start.replace(value_lr=rate)
    statistics = layer_statistics(model, requests, moments, max_tokens=start.micro_batch_tokens)
    end = model.structure.n_layers if start.loss_layer is None else start.loss_layer + 1
    layers = [layer for layer in moments.layers if layer < end]
    space = make_space(start.method, layers, found, model.structure.d_model)
    marks.append(("statistics", plan.budget.spent))

    left = len(parts.confirm) / len(parts.search) * (2 + len(plan.against)) * _MARGIN

    def goes_on(so_far: Sequence[Trial]) -> bool:
        report("settings tried", len(so_far))
        return _goes_on(plan, so_far, left)

    peak = effects[ALL].peak if effects else None
    suggested = suggest(space, start, found, statistics, peak)
    trials = search(
        space, start, suggested, lambda own: bench.run(own, searched), goes_on, seed=plan.seed
    )
    marks.append(("search", plan.budget.spent))
    confirmed, kept = _confirm(bench, trials, confirming, plan, report)
    marks.append(("confirmation", plan.budget.spent))
    ends = [0.0, *(end for _, end in marks)]
    return Calibration(
        plan=replace(plan, start=replace(plan.start, config=start)),
        parts=parts,
        effects=effects,
        asked=asked,
        noise=noise,
        reach=found,
        statistics=statistics,
        space=space,
        trials=trials,
        confirmed=confirmed,
        kept=kept,
        seconds={name: end - ends[i] for i, (name, end) in enumerate(marks)},
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


def _chunks(facts: Sequence[Fact], plan: Plan, share: float) -> Iterable[Sequence[Fact]]:
    """Facts in small lots: at least one, then more while a share of the budget is not used."""
    for at in range(0, len(facts), _CHUNK):
        if at == 0 or plan.trials is not None or plan.budget.allows(share):
            yield facts[at : at + _CHUNK]


def _trace(
    model: EditableModel, facts: Sequence[Fact], plan: Plan, config: EditConfig, report: Report
) -> tuple[dict[str, EffectMap], dict[str, int], float]:
    """Effects by language, facts looked at, and the size of the noise."""
    limit = config.micro_batch_tokens
    asked: dict[str, int] = {}
    codes: list[str] = []
    parts: list[Traces] = []
    noise = 0.0
    for chunk in _chunks(facts[:MOST_TRACED], plan, _TRACING_ENDS):
        for fact in chunk:
            asked[fact.language] = asked.get(fact.language, 0) + 1
        known = known_facts(model, chunk, max_tokens=limit)
        if known:
            prompts = [own.prompt for own in known]
            noise = noise or NOISE * embedding_deviation(model, prompts)
            places = [role_places(prompt) for prompt in prompts]
            answers = [own.answer for own in known]
            parts.append(
                trace(
                    model, prompts, answers, places,
                    noise=noise, draws=DRAWS, seed=plan.seed, max_tokens=limit,
                )
            )  # fmt: skip
            codes += [own.fact.language for own in known]
        report("facts traced", len(codes))
    if not parts:
        return {}, asked, noise
    whole = join_traces(parts)
    effects = {ALL: average_effects(whole, range(len(codes)), sum(asked.values()))}
    for language in dict.fromkeys(codes):
        rows = [i for i, code in enumerate(codes) if code == language]
        effects[language] = average_effects(whole, rows, asked[language])
    return effects, asked, noise


def _reach(
    model: EditableModel,
    bench: Bench,
    facts: Sequence[Fact],
    plan: Plan,
    config: EditConfig,
    report: Report,
) -> tuple[Reach, list[EditRequest]]:
    """Reachability of all layers, and the requests of the facts that were tried."""
    prefixes = bench.prefixes(config, list(dict.fromkeys(fact.language for fact in facts)))
    requests: list[EditRequest] = []
    found: Reach | None = None
    for chunk in _chunks(facts[:MOST_TRIED], plan, _REACH_ENDS):
        own = [prepare_request(model, f, prefixes.of(f.language), config) for f in chunk]
        part = reach(model, own, config)
        found = part if found is None else found.joined(part)
        requests += own
        report("targets tried", len(requests))
    assert found is not None
    return found, requests


def _goes_on(plan: Plan, trials: Sequence[Trial], left: float) -> bool:
    """Whether one more trial, and the confirmation after it, are within what may be used."""
    if plan.trials is not None:
        return len(trials) <= plan.trials
    longest = max(trial.seconds for trial in trials)
    return len(trials) < 2 or plan.budget.allows(1.0, more=longest + left * longest)


def _confirm(
    bench: Bench, trials: Sequence[Trial], batches: Batches, plan: Plan, report: Report
) -> tuple[dict[str, Confirmation], bool]:
    """Run start, found and compared settings on facts that only this stage sees."""
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
