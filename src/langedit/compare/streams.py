"""Streams: which facts are edited in what order, and where the aligned ones are asked."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain

from langedit.compare.atlas_pool import atlas_pool
from langedit.compare.config import CompareConfig
from langedit.compare.entries import Schedule
from langedit.compare.pools import ATLAS, Part, Pool, dataset_source, file_pool
from langedit.demo.atlas import Atlas
from langedit.errors import ConfigError, FactError
from langedit.evaluation import aligned_pairs
from langedit.facts import Fact


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The protocol of one stream."""

    schedule: Schedule
    languages: tuple[str, ...]
    batches: int
    size: int

    @property
    def facts_each(self) -> int:
        """Facts of each language.

        Raises:
            ConfigError: the languages do not share out evenly.
        """
        shares, total = len(self.languages), self.batches
        if self.schedule == "per-fact":
            total *= self.size
        if total % shares:
            what = "facts" if self.schedule == "per-fact" else "batches"
            raise ConfigError(
                f"expected {what} that {shares} languages share evenly, got {total}: change "
                "batches, edits_per_batch or languages"
            )
        return total // shares * (1 if self.schedule == "per-fact" else self.size)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Batches in order, and what is asked beside their own probes.

    Attributes:
        batches: what is edited.
        aligned: an edited fact, and the same in a language in which nobody edits its question.
        texts: language -> texts for perplexity.
        rejected: records of the source that are no facts.
        subjects: language -> how subjects were found in the source -> facts; not in the
            fingerprint, which is of the facts themselves.
    """

    batches: tuple[tuple[Fact, ...], ...]
    aligned: tuple[tuple[Fact, Fact], ...] = ()
    texts: Mapping[str, tuple[str, ...]]
    rejected: int = 0
    subjects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, in the order in which they are edited."""
        return tuple(chain.from_iterable(self.batches))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that is edited and asked."""
        content = [
            [[asdict(fact) for fact in batch] for batch in self.batches],
            [[asdict(fact), asdict(other)] for fact, other in self.aligned],
            {language: list(texts) for language, texts in self.texts.items()},
        ]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def plans_of(config: CompareConfig, name: str) -> dict[str, Plan]:
    """Name -> protocol of the streams of a data set: one, or with `monolingual` one a language."""
    entry = config.datasets[name]
    plan = Plan(
        schedule=entry.schedule or config.schedule,
        languages=entry.languages or config.languages,
        batches=entry.batches or config.batches,
        size=entry.edits_per_batch or config.edits_per_batch,
    )
    if plan.schedule != "monolingual":
        return {name: plan}
    return {f"{name}/{code}": replace(plan, languages=(code,)) for code in plan.languages}


class Streams:
    """Makes the streams of a comparison, and keeps them for its cells."""

    def __init__(self, config: CompareConfig, part: Part = "evaluation") -> None:
        self._config = config
        self._part = part
        self._atlas: Atlas | None = None
        self._made: dict[tuple[str, Plan, int], Stream] = {}

    def stream(self, dataset: str, plan: Plan, seed: int) -> Stream:
        """The stream of a data set under a protocol and a seed.

        Raises:
            LangEditError: the data set cannot be read, or has too few facts.
        """
        if (dataset, plan, seed) not in self._made:
            pool = self._pool(dataset, plan, seed)
            sample = self._config.transfer_sample
            try:
                self._made[dataset, plan, seed] = make_stream(pool, plan, sample)
            except FactError as error:
                raise FactError(f"data set {dataset}, {self._part} facts: {error}") from None
        return self._made[dataset, plan, seed]

    def _pool(self, dataset: str, plan: Plan, seed: int) -> Pool:
        if dataset_source(dataset, self._config.datasets[dataset]) == ATLAS:
            self._atlas = self._atlas or Atlas.from_cldr()
            # An edit that two languages happen to draw is used once: a few more are needed.
            count = plan.facts_each + (0 if len(plan.languages) == 1 else 10)
            return atlas_pool(
                self._config, self._atlas, plan.languages, count, seed=seed, part=self._part
            )
        return file_pool(self._config, dataset, plan.languages, seed=seed, part=self._part)


def make_stream(pool: Pool, plan: Plan, transfer_sample: int) -> Stream:
    """Put facts of a pool in order.

    Args:
        pool: the facts.
        plan: the protocol.
        transfer_sample: facts of each language, at most, whose aligned facts are asked.

    Raises:
        ConfigError: the languages do not share out evenly.
        FactError: the pool has too few facts.
    """
    each = plan.facts_each
    if plan.schedule == "parallel":
        common = [key for key, sides in pool.facts.items() if set(plan.languages) <= set(sides)]
        chosen: dict[str, Sequence[str]] = dict.fromkeys(plan.languages, common)
    else:
        chosen = {language: pool.drawn[language] for language in plan.languages}
    for language, keys in chosen.items():
        if len(keys) < each:
            raise FactError(
                f"expected {each} facts in {language} for the schedule {plan.schedule}, got "
                f"{len(keys)}: lower batches or edits_per_batch, or give more files"
            )
    order = _order({language: keys[:each] for language, keys in chosen.items()}, plan)
    facts = [pool.facts[key][language] for language, key in order]
    return Stream(
        batches=tuple(tuple(facts[at : at + plan.size]) for at in range(0, len(facts), plan.size)),
        aligned=tuple(_aligned(pool, facts, transfer_sample)),
        texts={language: tuple(texts) for language, texts in pool.texts.items()},
        rejected=pool.rejected,
        subjects=pool.subjects,
    )


def _order(chosen: Mapping[str, Sequence[str]], plan: Plan) -> list[tuple[str, str]]:
    """(language, key) of every edit: the languages take turns by fact, or by batch."""
    run = 1 if plan.schedule == "per-fact" else plan.size
    return [
        (language, key)
        for at in range(0, plan.facts_each, run)
        for language, keys in chosen.items()
        for key in keys[at : at + run]
    ]


def _aligned(pool: Pool, edited: Sequence[Fact], sample: int) -> Iterable[tuple[Fact, Fact]]:
    """Facts of each language, drawn at random, in all languages where nobody edits the question."""
    others = [fact for sides in pool.facts.values() for fact in sides.values()]
    asked: dict[Fact, list[Fact]] = {}
    for fact, other in aligned_pairs(edited, others, may_be_none=True):
        if other is not fact:
            asked.setdefault(fact, []).append(other)
    for language in dict.fromkeys(fact.language for fact in edited):
        own = [fact for fact in asked if fact.language == language]
        rng = random.Random(f"transfer-{language}")
        for index in sorted(rng.sample(range(len(own)), min(sample, len(own)))):
            for other in asked[own[index]]:
                yield own[index], replace(other, paraphrases=(), neighbourhood=())
