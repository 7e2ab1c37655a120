"""A comparison in one validated, immutable object: models, methods, data sets, seeds, protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from langedit.compare.entries import (
    SCHEDULES,
    Count,
    DatasetEntry,
    MethodEntry,
    ModelEntry,
    NotNegative,
    Schedule,
    Table,
    TuneEntry,
    language_codes,
)
from langedit.compare.faults import Place, explain
from langedit.compare.nearest import one_of, unknown_name
from langedit.compare.ranges import Range
from langedit.editing import EditConfig, method_names
from langedit.editing.methods import settings_read
from langedit.errors import ConfigError, FactError
from langedit.evaluation import KINDS, METRICS
from langedit.facts import Language

UNEDITED = "unedited"
"""Name of the control in every grid: the model without any edit."""
OWN = "own"
"""Language of context prefixes: that of each fact."""
COMMON = "common"
"""Table of ranges that all methods are tuned over."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class CompareConfig(Table):
    """A comparison.

    Attributes:
        name: of the comparison, and of its folder of results.
        languages: order of the languages of a stream.
        schedule: `per-batch`: one language a batch, in turn, each with facts of its own.
            `parallel`: the same, but the n-th batches of all languages hold the same facts (the
            paper's protocol). `per-fact`: the languages take turns within a batch. `monolingual`:
            a stream for each language.
        batches: of a stream, all languages together.
        edits_per_batch: facts in a batch.
        seeds: of the streams of facts.
        ablation_seeds: those that the ablations run with; `None`: the same.
        metrics: scores of facts (docs/scores.md); efficacy is always one of them.
        retention: after how many batches earlier ones are scored again: a number of points,
            spread evenly, or the batches (from 1). The last is always one of them.
        interference_sample: facts of each batch that are asked again after every later batch.
        transfer_sample: facts of each language that are asked in every other language at the end.
        perplexity_texts: texts of each language whose perplexity is measured.
        resamples: of the bootstrap.
        tuning_share: share of the subjects that is kept for tuning and never evaluated.
        reference: method that the others are compared with, fact by fact.
        chosen: file of settings written by `langedit tune`, put in place of those given here.
        every_method: add all registered methods that are not named.
        common: settings of all methods.
        models, methods, ablations, datasets: what is compared, by name.
        tune: how settings are tuned.
        folder: where relative paths begin; the folder of the file.

    Raises:
        ConfigError: a name is unknown or a value is out of range.
    """

    name: str
    languages: tuple[str, ...]
    schedule: Schedule = "per-batch"
    batches: Count
    edits_per_batch: Count
    seeds: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0,)
    ablation_seeds: tuple[NotNegative, ...] | None = None
    metrics: tuple[str, ...] = KINDS
    retention: Count | tuple[Count, ...] = 6
    interference_sample: NotNegative = 4
    transfer_sample: NotNegative = 40
    perplexity_texts: NotNegative = 60
    resamples: Count = 1000
    tuning_share: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    reference: str | None = None
    chosen: str | None = None
    every_method: bool = False
    common: Mapping[str, Any] = Field(default_factory=dict)
    models: Annotated[Mapping[str, ModelEntry], Field(min_length=1)]
    methods: Mapping[str, MethodEntry] = Field(default_factory=dict)
    ablations: Mapping[str, MethodEntry] = Field(default_factory=dict)
    datasets: Annotated[Mapping[str, DatasetEntry], Field(min_length=1)]
    tune: TuneEntry | None = None
    folder: Path = Path()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, _fields_at)) from None

    @field_validator("schedule", mode="before")
    @classmethod
    def _known_schedule(cls, name: object) -> object:
        return one_of("schedule", name, SCHEDULES)

    @field_validator("retention", mode="before")
    @classmethod
    def _points(cls, wanted: Any) -> Any:
        points = wanted if isinstance(wanted, list | tuple) else [wanted]
        if not all(type(point) is int and point >= 1 for point in points):
            raise ValueError(
                "expected a number of points from 1, or a list of batches counted from 1, got "
                f"{wanted!r}: for example retention = 6, or retention = [1, 12, 24]"
            )
        return wanted

    @field_validator("metrics", mode="after")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            one_of("metrics", name, METRICS)
        return tuple(dict.fromkeys(("efficacy", *names)))

    @field_validator("languages", mode="after")
    @classmethod
    def _codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        return language_codes(codes)

    @model_validator(mode="after")
    def _names(self) -> Self:
        labels = [*self.all_methods(), *self.ablations]
        for name in (self.name, *self.models, *labels, *self.datasets):
            if not _NAME.fullmatch(name):
                raise ValueError(f"expected names of letters, digits and - _ . +, got {name!r}")
        twice = sorted(
            {name for name in labels if labels.count(name) > 1} | {UNEDITED} & set(labels)
        )
        if twice:
            raise ValueError(f"{', '.join(twice)}: expected a name that is not taken; rename it")
        if not labels:
            raise ValueError("methods: expected at least one, got none: add a table [methods.NAME]")
        if self.reference is not None:
            one_of("reference", self.reference, labels)
        for label in labels:
            self.chain(label)
        return self

    @model_validator(mode="after")
    def _known_tables(self) -> Self:
        labels = [*self.all_methods(), *self.ablations]
        if extra := sorted(set(self.ablation_seeds or ()) - set(self.seeds)):
            raise ValueError(f"ablation_seeds: expected some of seeds, got {extra}")
        longest = max(entry.batches or self.batches for entry in self.datasets.values())
        listed = () if isinstance(self.retention, int) else self.retention
        if beyond := [point for point in listed if point > longest]:
            raise ValueError(
                f"retention: expected batches from 1 to {longest}, which the longest stream has, "
                f"got {', '.join(map(str, beyond))}: name others, or a number of points"
            )
        for label, entry in {**self.methods, **self.ablations}.items():
            for model in entry.on:
                one_of(f"{label}.on", model, self.models)
            _known_prefix_language(label, entry.prefix_language)
        for label, ranges in self.tune.ranges.items() if self.tune else ():
            one_of("tune.ranges", label, (COMMON, *labels))
            self._known_ranges(label, ranges)
        return self

    def _known_ranges(self, label: str, ranges: Mapping[str, Range]) -> None:
        """Ranges are of settings, and those of one method of settings that it reads."""
        known = tuple(name for name in EditConfig.model_fields if name != "method")
        reads = None if label == COMMON else settings_read(self.method_of(label))
        for name in ranges:
            one_of(f"tune.ranges.{label}", name, known)
            if reads is not None:
                one_of(f"tune.ranges.{label}", name, sorted(reads))

    def all_methods(self) -> Mapping[str, MethodEntry]:
        """The methods named, and if so wanted those that are only registered."""
        more = method_names() if self.every_method else ()
        return {**self.methods, **{n: MethodEntry() for n in more if n not in self.methods}}

    def entry(self, label: str) -> MethodEntry:
        """A method or ablation.

        Raises:
            ConfigError: there is none of this name.
        """
        entries = {**self.all_methods(), **self.ablations}
        if label not in entries:
            raise ConfigError(unknown_name("method", label, entries))
        return entries[label]

    def chain(self, label: str) -> tuple[str, ...]:
        """An entry after the entries that it begins with.

        Raises:
            ValueError: an entry's base is unknown, or comes back to itself, or the method is.
        """
        entries = {**self.all_methods(), **self.ablations}
        found = [label]
        while (base := entries[found[0]].base) is not None:
            one_of(f"{found[0]}.base", base, entries)
            if base in found:
                raise ValueError(f"{label}.base: expected an end, got a circle through {base!r}")
            found.insert(0, base)
        self._method_of(found, entries)
        return tuple(found)

    def method_of(self, label: str) -> str:
        """Registered name of the method of an entry."""
        return self._method_of(self.chain(label), {**self.all_methods(), **self.ablations})

    @staticmethod
    def _method_of(chain: Any, entries: Mapping[str, MethodEntry]) -> str:
        named = [entries[label].method for label in chain if entries[label].method is not None]
        return str(one_of(f"methods.{chain[-1]}", named[-1] if named else chain[0], method_names()))

    def replace(self, **changes: Any) -> CompareConfig:
        """A validated copy with some values changed."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return CompareConfig(**{**fields, **changes})


def _known_prefix_language(label: str, language: str | None) -> None:
    if language in (None, OWN):
        return
    try:
        Language.parse(str(language))
    except FactError as error:
        raise ValueError(f"{label}.prefix_language: {error}; or {OWN!r}") from None


def _fields_at(place: Place) -> tuple[str, ...]:
    """Names of the settings in the table at a place."""
    tables: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "datasets": DatasetEntry,
        "tune": TuneEntry,
    }
    table = tables.get(str(place[0]), CompareConfig) if place else CompareConfig
    return tuple(name for name in table.model_fields if name != "folder")
