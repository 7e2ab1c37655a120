"""Everything about an edit that can be checked before the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from langedit.cli.moments import read_moments
from langedit.cli.settings import read_settings
from langedit.console import note
from langedit.editing import EditConfig, Moments, Prefixes
from langedit.editing.prefixes import seed_words_of
from langedit.facts import Fact, FactFile, check_batch, make_batches, read_facts
from langedit.folders import check_output


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """The options of `langedit edit`.

    Attributes:
        model: Folder or hub id.
        facts: File of facts.
        output: New or empty folder.
        config: Settings: a file, or the name of a shipped one.
        method: Instead of the method in the settings.
        moments: Folder written by `langedit stats`.
        prefixes: JSON file of context prefixes; None lets the model write them.
        batch_size: Facts in a batch.
        strict: Whether a rejected row is an error.
        seed: Instead of the seed in the settings.
        dtype: Precision to load the model in.
        device_map: Where the model goes.
        revision: Of a hub model.
        profile: Whether to measure what each stage costs.
    """

    model: str
    facts: Path
    output: Path
    config: str | None = None
    method: str | None = None
    moments: Path | None = None
    prefixes: Path | None = None
    batch_size: int = 100
    strict: bool = False
    seed: int | None = None
    dtype: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    profile: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class EditPlan:
    """What will be edited, and how.

    Attributes:
        options: As given.
        config: The settings.
        file: The facts, and the rows that are none.
        facts_sha256: Of the file as it was read.
        batches: The facts in the order in which they are edited.
        moments: Of the edited layers; whether they are of this model shows when it is loaded. None
            in processes other than the first, which alone needs them.
        prefixes: Those given, if any.
    """

    options: EditOptions
    config: EditConfig
    file: FactFile
    facts_sha256: str
    batches: tuple[tuple[Fact, ...], ...]
    moments: Moments | None
    prefixes: Prefixes | None

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, in the order in which they are edited."""
        return tuple(fact for batch in self.batches for fact in batch)


def make_plan(options: EditOptions, *, first: bool = True) -> EditPlan:
    """Read and check what the options name.

    Args:
        options: As given.
        first: Whether this is the first process, which tells rejected rows on the error stream and
            reads the moments.

    Raises:
        LangEditError: Something cannot be used; nothing has been written.
    """
    check_output(options.output)
    file = read_facts(options.facts, strict=options.strict)
    for row in file.rejected if first else ():
        note(f"rejected {row}")
    batches = tuple(make_batches(file.facts, options.batch_size))
    for batch in batches:
        check_batch(batch)
    config = read_settings(options.config, options.moments, options.method, options.seed)
    return EditPlan(
        options=options,
        config=config,
        file=file,
        facts_sha256=sha256(options.facts.read_bytes()).hexdigest(),
        batches=batches,
        prefixes=require_prefixes(
            None if options.prefixes is None else Prefixes.load(options.prefixes),
            file.facts,
            config,
        ),
        moments=read_moments(
            options.moments, config.edited_layers, model=options.model, revision=options.revision
        )
        if first
        else None,
    )


def require_prefixes(
    given: Prefixes | None, facts: tuple[Fact, ...], config: EditConfig
) -> Prefixes | None:
    """See that the prefixes given, or else the model's own, cover every language of the facts.

    Raises:
        ConfigError: A language has no prefixes, or no seed words for them.
    """
    for language in dict.fromkeys(fact.language for fact in facts):
        if given is None:
            seed_words_of(language, config.seed_words)
        else:
            given.of(language)
    return given
