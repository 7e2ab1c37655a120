"""A comparison in one validated, immutable object: models, methods, data sets, seeds, protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from langedit.compare.faults import Place, explain
from langedit.compare.nearest import unknown_name
from langedit.compare.ranges import Range, read_range
from langedit.editing import EditConfig, method_names
from langedit.editing.methods import settings_read
from langedit.errors import ConfigError, FactError
from langedit.evaluation import KINDS, METRICS
from langedit.facts import Language
from langedit.facts.datasets import MissingSubject

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Schedule = Literal["per-batch", "per-fact", "parallel", "monolingual"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)
UNEDITED = "unedited"
"""Name of the control in every grid: the model without any edit."""
OWN = "own"
"""Language of context prefixes: that of each fact."""
COMMON = "common"
"""Table of ranges that all methods are tuned over."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Table):
    """A model and what all methods share on it.

    Attributes:
        source: folder, hub id, or `bundled`.
        revision: of a hub model.
        dtype: auto (as stored), float32, bfloat16 or float16.
        device_map: where it goes, as in transformers.
        settings_file: settings to begin with: a `.toml` file or the name of shipped settings.
        settings: settings on top of these.
        moments: folder written by `langedit stats`, instead of collecting second moments.
        text: sources of text to collect them from; the bundled model has its own.
        moment_tokens: tokens to collect them from; `None` takes all of the text.
    """

    source: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device_map: str | None = None
    settings_file: str | None = None
    settings: Mapping[str, Any] = Field(default_factory=dict)
    moments: str | None = None
    text: tuple[str, ...] = ()
    moment_tokens: Count | None = None


class MethodEntry(BaseModel):
    """A method under a name of its own. Everything that is no field below is a setting.

    Attributes:
        method: registered name; if not given, that of `base`, or the entry's own name.
        base: another entry whose settings this one begins with.
        prefix_language: `own`, or a language code: in what language the context prefixes are.
        on: settings on certain models.
        chosen: how the settings were chosen, for the report.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str | None = None
    base: str | None = None
    prefix_language: str | None = None
    on: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    chosen: str | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the entry itself."""
        return dict(self.model_extra or {})


class DatasetEntry(_Table):
    """Facts to edit, and if wanted a protocol of their own.

    Attributes:
        source: `atlas`; `None` if there are files.
        files: data sets as for `langedit validate`; `$NAME` is an environment variable. The same
            fact has one key in all of them.
        format: of the files; told from their fields if not given.
        columns: field of a fact -> column, instead of a format.
        language: of the texts, where the files do not say it.
        missing_subject: what to do about a subject that is not in its question.
        shuffle: whether each seed draws facts of its own; otherwise files are read in order.
        text: sources of text, a line of each language in turn, for perplexity.
        schedule, languages, batches, edits_per_batch: instead of those of the comparison.
    """

    source: str | None = None
    files: tuple[str, ...] = ()
    format: str | None = None
    columns: Mapping[str, str] | None = None
    language: str | None = None
    missing_subject: MissingSubject = "reject"
    shuffle: bool = True
    text: tuple[str, ...] = ()
    schedule: Schedule | None = None
    languages: tuple[str, ...] | None = None
    batches: Count | None = None
    edits_per_batch: Count | None = None

    @field_validator("schedule", mode="before")
    @classmethod
    def _known_schedule(cls, name: object) -> object:
        return None if name is None else _one_of("schedule", name, SCHEDULES)

    @field_validator("languages", mode="after")
    @classmethod
    def _codes(cls, codes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if codes is None else _language_codes(codes)


class FinalEntry(_Table):
    """A second round of tuning: the best of the first on longer streams.

    Attributes:
        trials: of each method that take part.
        batches, edits_per_batch: of a stream.
    """

    trials: Count = 3
    batches: Count
    edits_per_batch: Count


class TuneEntry(_Table):
    """How settings are tuned: the same budget of runs for every method.

    Attributes:
        budget: runs a method; the first is with the settings as declared.
        seed: of the draws.
        stream_seeds: of the streams of tuning facts; a run is the mean over them.
        batches, edits_per_batch: of a stream.
        final: a second round, which then decides; `None` for none.
        search: `random` draws from the ranges, `grid` takes all combinations of listed values.
        ranges: method, or `common` for all -> setting -> range.
    """

    budget: Count = 12
    seed: NotNegative = 0
    stream_seeds: tuple[NotNegative, ...] = (0,)
    batches: Count
    edits_per_batch: Count
    final: FinalEntry | None = None
    search: Literal["random", "grid"] = "random"
    ranges: Mapping[str, Mapping[str, Range]] = Field(default_factory=dict)

    @field_validator("ranges", mode="before")
    @classmethod
    def _ranges(cls, tables: Any) -> Any:
        if not isinstance(tables, Mapping) or not all(
            isinstance(t, Mapping) for t in tables.values()
        ):
            raise ValueError("expected tables of ranges by method")
        return {
            method: {name: read_range(name, value) for name, value in own.items()}
            for method, own in tables.items()
        }


class CompareConfig(_Table):
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
        return _one_of("schedule", name, SCHEDULES)

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
            _one_of("metrics", name, METRICS)
        return tuple(dict.fromkeys(("efficacy", *names)))

    @field_validator("languages", mode="after")
    @classmethod
    def _codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        return _language_codes(codes)

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
            _one_of("reference", self.reference, labels)
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
                _one_of(f"{label}.on", model, self.models)
            _known_prefix_language(label, entry.prefix_language)
        for label, ranges in self.tune.ranges.items() if self.tune else ():
            _one_of("tune.ranges", label, (COMMON, *labels))
            self._known_ranges(label, ranges)
        return self

    def _known_ranges(self, label: str, ranges: Mapping[str, Range]) -> None:
        """Ranges are of settings, and those of one method of settings that it reads."""
        known = tuple(name for name in EditConfig.model_fields if name != "method")
        reads = None if label == COMMON else settings_read(self.method_of(label))
        for name in ranges:
            _one_of(f"tune.ranges.{label}", name, known)
            if reads is not None:
                _one_of(f"tune.ranges.{label}", name, sorted(reads))

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
            _one_of(f"{found[0]}.base", base, entries)
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
        return str(
            _one_of(f"methods.{chain[-1]}", named[-1] if named else chain[0], method_names())
        )

    def replace(self, **changes: Any) -> CompareConfig:
        """A validated copy with some values changed."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return CompareConfig(**{**fields, **changes})


def _one_of(kind: str, name: object, known: Any) -> object:
    if name not in known:
        raise ValueError(unknown_name(kind, str(name), known))
    return name


def _known_prefix_language(label: str, language: str | None) -> None:
    if language in (None, OWN):
        return
    try:
        Language.parse(str(language))
    except FactError as error:
        raise ValueError(f"{label}.prefix_language: {error}; or {OWN!r}") from None


def _language_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    try:
        found = tuple(Language.parse(code).code for code in codes)
    except FactError as error:
        raise ValueError(str(error)) from None
    if not found or len(set(found)) != len(found):
        raise ValueError("expected one or more language codes, each once")
    return found


def _fields_at(place: Place) -> tuple[str, ...]:
    """Names of the settings in the table at a place."""
    tables: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "datasets": DatasetEntry,
        "tune": TuneEntry,
    }
    table = tables.get(str(place[0]), CompareConfig) if place else CompareConfig
    return tuple(name for name in table.model_fields if name != "folder")
