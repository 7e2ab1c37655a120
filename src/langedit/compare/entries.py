"""Tables of a comparison's file: a model, a method, a data set, and how settings are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from langedit.compare.nearest import one_of
from langedit.compare.ranges import Range, read_range
from langedit.errors import FactError
from langedit.facts import Language
from langedit.facts.datasets import MissingSubject

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Schedule = Literal["per-batch", "per-fact", "parallel", "monolingual"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


class Table(BaseModel):
    """Settings by name; one that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(Table):
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


class DatasetEntry(Table):
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
        return None if name is None else one_of("schedule", name, SCHEDULES)

    @field_validator("languages", mode="after")
    @classmethod
    def _codes(cls, codes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if codes is None else language_codes(codes)


class FinalEntry(Table):
    """A second round of tuning: the best of the first on longer streams.

    Attributes:
        trials: of each method that take part.
        batches, edits_per_batch: of a stream.
    """

    trials: Count = 3
    batches: Count
    edits_per_batch: Count


class TuneEntry(Table):
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


def language_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Language codes in their canonical form.

    Raises:
        ValueError: one is none, or comes twice, or there are none.
    """
    try:
        found = tuple(Language.parse(code).code for code in codes)
    except FactError as error:
        raise ValueError(str(error)) from None
    if not found or len(set(found)) != len(found):
        raise ValueError("expected one or more language codes, each once")
    return found
