"""Look at the layers of a model: tracing, targets that are reached, and keys of the same facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from langedit.calibration.bench import Bench
from langedit.calibration.budget import Stages
from langedit.calibration.effects import (
    EffectMap,
    average_effects,
    join_traces,
    known_facts,
    role_places,
)
from langedit.calibration.layer_facts import LayerStatistics, Reach, layer_statistics, reach
from langedit.calibration.plan import Plan, Report
from langedit.calibration.tracing import Traces, embedding_deviation, trace
from langedit.editing import EditConfig, EditRequest, Moments, Prefixes, prepare_request
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.profiler import Profiler, timed

ALL = "all"
"""Stands for all languages among the effects."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of the layers before any settings are tried.

    Attributes:
        effects: language -> effects; languages of which the model knows no fact are not there.
        asked: language -> facts that were looked at.
        noise: standard deviation of what was added to the embeddings.
        reach: which targets are reached at which layer.
        statistics: layer -> statistics, of the layers with second moments.
    """

    effects: Mapping[str, EffectMap]
    asked: Mapping[str, int]
    noise: float
    reach: Reach
    statistics: Mapping[int, LayerStatistics]

    @property
    def peak(self) -> int | None:
        """The layer with the largest effect over all languages, if anything was traced."""
        return self.effects[ALL].peak if self.effects else None


def gather(
    model: EditableModel,
    bench: Bench,
    moments: Moments,
    facts: Sequence[Fact],
    plan: Plan,
    stages: Stages,
    report: Report,
    profiler: Profiler | None = None,
) -> Evidence:
    """Look at a model with the settings that a calibration begins with.

    Args:
        model: the unedited model, asked as the settings ask.
        bench: writes the context prefixes.
        moments: of the layers that may be edited, with their spectra.
        facts: of this stage alone.
        plan: what may be used.
        stages: told when each part ends.
        report: told of progress.
        profiler: is told of the stages.

    Raises:
        LangEditError: the facts cannot be encoded, or hidden states are not finite.
    """
    config = plan.start.config
    with timed({}, "tracing", profiler):
        effects, asked, noise = _trace(model, facts, plan, config, report)
    stages.end("tracing")
    prefixes = bench.prefixes(config, list(dict.fromkeys(fact.language for fact in facts)))
    with timed({}, "reachability", profiler):
        found, requests = _reach(model, prefixes, facts, plan, config, report)
    stages.end("reachability")
    limit = config.micro_batch_tokens
    with timed({}, "statistics", profiler):
        statistics = layer_statistics(model, requests, moments, max_tokens=limit)
    stages.end("statistics")
    return Evidence(effects=effects, asked=asked, noise=noise, reach=found, statistics=statistics)


def _chunks(facts: Sequence[Fact], plan: Plan, share: float) -> Iterable[Sequence[Fact]]:
    """Facts in small lots: at least one, then more while a share of the budget is not used.

    Facts come one of each language in turn, so that the first lot has all languages.
    """
    first = max(_CHUNK, len({fact.language for fact in facts}))
    for at in (0, *range(first, len(facts), _CHUNK)):
        if at == 0 or plan.trials is not None or plan.budget.allows(share):
            yield facts[at : at + (_CHUNK if at else first)]


def _most(facts: Sequence[Fact], count: int) -> Sequence[Fact]:
    """The first facts, `count` or as many as there are languages."""
    return facts[: max(count, len({fact.language for fact in facts}))]


def _trace(
    model: EditableModel, facts: Sequence[Fact], plan: Plan, config: EditConfig, report: Report
) -> tuple[dict[str, EffectMap], dict[str, int], float]:
    """Effects by language, facts looked at, and the size of the noise."""
    limit = config.micro_batch_tokens
    asked: dict[str, int] = {}
    codes: list[str] = []
    parts: list[Traces] = []
    noise = 0.0
    for chunk in _chunks(_most(facts, MOST_TRACED), plan, _TRACING_ENDS):
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
    prefixes: Prefixes,
    facts: Sequence[Fact],
    plan: Plan,
    config: EditConfig,
    report: Report,
) -> tuple[Reach, list[EditRequest]]:
    """Reachability of all layers, and the requests of the facts that were tried."""
    requests: list[EditRequest] = []
    found: Reach | None = None
    for chunk in _chunks(_most(facts, MOST_TRIED), plan, _REACH_ENDS):
        own = [prepare_request(model, f, prefixes.of(f.language), config) for f in chunk]
        part = reach(model, own, config)
        found = part if found is None else found.joined(part)
        requests += own
        report("targets tried", len(requests))
    assert found is not None
    return found, requests
