"""Facts that streams are drawn from: the same fact in several languages under one key."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from langedit.compare.config import CompareConfig
from langedit.compare.entries import DatasetEntry
from langedit.compare.nearest import unknown_name
from langedit.compare.reading import located
from langedit.editing.corpus import read_corpus
from langedit.errors import ConfigError, FactError
from langedit.facts import Fact
from langedit.facts.batches import comparable
from langedit.facts.datasets import DatasetFact, DatasetFile, ReadOptions, read_dataset

ATLAS = "atlas"
"""The data set that comes with the package."""

REJECTED = "rejected"
"""Beside the ways in which a subject is found: the record is no fact."""

Part = Literal["evaluation", "tuning"]

_LOOKED_AT = 50  # languages that a source of texts may hold, beside those wanted


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Facts by key and language.

    Attributes:
        facts: key -> language -> fact, whose group is the key; in the order of the draw.
        drawn: language -> keys that this language edits when every language has facts of its own;
            no key is in two of them.
        rejected: records of the source that are no facts.
        subjects: language -> how subjects were found in the questions of the source -> facts; with
            `rejected` those that are no facts, mostly since theirs was not found.
        texts: language -> texts whose perplexity is measured.
    """

    facts: Mapping[str, Mapping[str, Fact]]
    drawn: Mapping[str, Sequence[str]]
    rejected: int = 0
    subjects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]]


def dataset_source(name: str, entry: DatasetEntry) -> str:
    """`atlas`, or `files`.

    Raises:
        ConfigError: the data set is unknown, or stated twice.
    """
    source = entry.source or (None if entry.files else name)
    if source is None:
        return "files"
    if source != ATLAS:
        raise ConfigError(
            f"{unknown_name(f'datasets.{name}', source, (ATLAS,))}; or give files = [...]"
        )
    if entry.files:
        raise ConfigError(f"datasets.{name}: expected a source or files, got both; remove one")
    return ATLAS


def file_pool(
    config: CompareConfig, name: str, languages: Sequence[str], *, seed: int, part: Part
) -> Pool:
    """Read the files of a data set.

    Raises:
        ConfigError: a file is not there, or its format is unknown.
        FactError: a file holds no fact that can be used, or a language has none.
    """
    entry = config.datasets[name]
    by_key: dict[str, dict[str, Fact]] = {}
    rejected = 0
    subjects: dict[str, Counter[str]] = {}
    for file in entry.files:
        found = read_dataset(
            file if file.startswith("hf:") else located(config, file),
            format=entry.format,
            columns=entry.columns,
            language=entry.language,
            options=ReadOptions(missing_subject=entry.missing_subject),
        )
        rejected += len(found.rejected)
        _count(subjects, found)
        _add(by_key, found.entries)
    _require_languages(name, by_key, languages)
    keys = [
        key
        for key, sides in by_key.items()
        if in_part(_subject(sides, languages), config.tuning_share, part)
    ]
    if entry.shuffle:
        random.Random(f"{name}-{seed}").shuffle(keys)
    facts = _told_once({key: by_key[key] for key in keys}, languages)
    sources = [located(config, text) for text in entry.text]
    texts = _texts(sources, languages, config.perplexity_texts)
    return Pool(
        facts=facts,
        drawn=_shared_out(facts, languages),
        rejected=rejected,
        subjects=subjects,
        texts=texts,
    )


def in_part(subject: str, tuning_share: float, part: Part) -> bool:
    """Whether a subject belongs to the facts for tuning, or to those for evaluation.

    It follows from the name alone, so that no seed moves a subject from one to the other.
    """
    digest = hashlib.sha256(comparable(subject).encode()).digest()
    tuning = int.from_bytes(digest[:8], "big") / 2**64 < tuning_share
    return tuning == (part == "tuning")


def _count(subjects: dict[str, Counter[str]], found: DatasetFile) -> None:
    """Add up how the subjects of a file were found."""
    for entry in found.entries:
        subjects.setdefault(entry.fact.language, Counter())[entry.found] += 1
    for row in found.rejected:
        if row.language is not None:
            subjects.setdefault(row.language, Counter())[REJECTED] += 1


def _add(by_key: dict[str, dict[str, Fact]], entries: Iterable[DatasetFact]) -> None:
    """The first file that has a fact in a language counts; pair files repeat their English."""
    for entry in entries:
        sides = by_key.setdefault(entry.key, {})
        sides.setdefault(entry.fact.language, replace(entry.fact, group=entry.key))


def _require_languages(
    name: str, by_key: Mapping[str, Mapping[str, Fact]], languages: Sequence[str]
) -> None:
    there = {language for sides in by_key.values() for language in sides}
    missing = [language for language in languages if language not in there]
    if missing:
        raise FactError(
            f"data set {name}: expected facts in {', '.join(languages)}, got none in "
            f"{', '.join(missing)}; it has {', '.join(sorted(there))}: change languages or files"
        )


def _subject(sides: Mapping[str, Fact], languages: Sequence[str]) -> str:
    """The subject in English if there is one, else in the first language that has the fact."""
    order = ("en", *languages, *sides)
    return next(sides[language].subject for language in order if language in sides)


def _told_once(
    by_key: Mapping[str, Mapping[str, Fact]], languages: Sequence[str]
) -> dict[str, dict[str, Fact]]:
    """Only the wanted languages, and no text twice in a language, whatever its target."""
    told: set[tuple[str, str]] = set()
    kept: dict[str, dict[str, Fact]] = {}
    for key, sides in by_key.items():
        for language in languages:
            text = (language, comparable(sides[language].text)) if language in sides else None
            if text is not None and text not in told:
                told.add(text)
                kept.setdefault(key, {})[language] = sides[language]
    return kept


def _shared_out(
    facts: Mapping[str, Mapping[str, Fact]], languages: Sequence[str]
) -> dict[str, list[str]]:
    """Give every key to one language: the one with the fewest so far of those that have it."""
    drawn: dict[str, list[str]] = {language: [] for language in languages}
    for key, sides in facts.items():
        drawn[min(sides, key=lambda language: len(drawn[language]))].append(key)
    return drawn


def _texts(sources: Sequence[str], languages: Sequence[str], count: int) -> dict[str, list[str]]:
    if not sources or not count:
        return {}
    found: dict[str, list[str]] = {language: [] for language in languages}
    for language, text in islice(read_corpus(sources), _LOOKED_AT * count):
        if language in found and len(found[language]) < count:
            found[language].append(text)
    if empty := [language for language, texts in found.items() if not texts]:
        raise ConfigError(f"text: expected text in {', '.join(empty)}, got none; add some")
    return found
