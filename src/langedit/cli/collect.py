"""What `langedit stats` does, as a function."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from langedit.cli.load import load_named
from langedit.console import note, progress
from langedit.editing import AngleGoal, Moments, collect_moments
from langedit.editing.corpus import read_corpus
from langedit.errors import ConfigError
from langedit.folders import check_output, whole_folder
from langedit.linalg import NullSpaceAngle
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler

PROFILE = "profile.json"
"""File beside the moments: what the stages of collecting cost."""


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """The options of `langedit stats`.

    Attributes:
        model: Folder or hub id.
        sources: Where the text is, as for `read_corpus`.
        layers: Layer numbers.
        output: New or empty folder.
        max_tokens: Stop after so many tokens; None takes all.
        batch_tokens: Tokens in one pass.
        max_length: Cut texts at so many tokens.
        seed: Of the sample of keys that is kept.
        precision: Of the products of keys, float64 or float32.
        dtype: Precision to load the model in.
        device_map: Where the model goes.
        revision: Of a hub model.
        structure: Names of modules that are not found, as in the settings.
        until_angle: Stop when the null space is known to so many degrees, as for `AngleGoal`.
        null_share: Share of null directions, for the angle.
        null_threshold: Eigenvalue below which directions are null, for the angle.
        profile: Whether to measure what each stage costs.
    """

    model: str
    sources: tuple[str, ...]
    layers: tuple[int, ...]
    output: Path
    max_tokens: int | None = None
    batch_tokens: int = 4096
    max_length: int | None = None
    seed: int = 0
    precision: str = "float64"
    dtype: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    structure: Mapping[str, str] = field(default_factory=dict)
    until_angle: float | None = None
    null_share: float | None = None
    null_threshold: float | None = None
    profile: bool = False

    def goal(self) -> AngleGoal | None:
        """What to wait for, if anything.

        Raises:
            ConfigError: The angle is out of range, or what is null is not said or said twice.
        """
        if self.until_angle is None:
            if self.null_share is not None or self.null_threshold is not None:
                raise ConfigError(
                    "--null-share and --null-threshold say what --until-angle compares: give it "
                    "too, or leave them out"
                )
            return None
        return AngleGoal(
            degrees=self.until_angle,
            null_share=self.null_share,
            null_threshold=self.null_threshold,
            on_look=_note_angles,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CollectOutcome:
    """The moments, and what the stages cost if that was asked for."""

    moments: Moments
    profiler: Profiler | None


def collect(options: CollectOptions, processes: Processes = ALONE) -> CollectOutcome:
    """Collect second moments and write them to a folder that appears when it is complete.

    Of several processes all make this call; the first one writes.

    Raises:
        LangEditError: An option cannot be used; nothing is written.
    """
    goal, corpus, model = processes.together(lambda: _prepare(options, processes))
    profiler = Profiler(model.device) if options.profile else None
    with progress("tokens", options.max_tokens, shown=processes.is_first) as done:
        moments = collect_moments(
            model,
            corpus,
            options.layers,
            max_tokens=options.max_tokens,
            batch_tokens=options.batch_tokens,
            max_length=options.max_length,
            seed=options.seed,
            progress=done,
            until=goal,
            precision=torch.float32 if options.precision == "float32" else torch.float64,
            profiler=profiler,
            processes=processes,
        )
    outcome = CollectOutcome(moments=moments, profiler=profiler)
    processes.only_first(lambda: _save(outcome, options.output))
    return outcome


def _prepare(
    options: CollectOptions, processes: Processes
) -> tuple[AngleGoal | None, Iterator[tuple[str, str]], EditableModel]:
    """Check the options, open the corpus and load the model."""
    check_output(options.output)
    goal = options.goal()
    corpus = read_corpus(options.sources)
    model = load_named(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device_map=processes.place(options.device_map),
        structure=options.structure,
    )
    return goal, corpus, model


def _save(outcome: CollectOutcome, output: Path) -> None:
    with whole_folder(output) as folder:
        outcome.moments.save(folder)
        if outcome.profiler is not None:
            text = json.dumps(outcome.profiler.to_dict(), indent=2)
            (folder / PROFILE).write_text(text + "\n", encoding="utf-8")


def _note_angles(tokens: int, angles: Mapping[int, NullSpaceAngle]) -> None:
    """Tell people how far it has come."""
    widest = max(angles.values(), key=lambda angle: angle.degrees)
    note(
        f"{tokens:,} tokens: null spaces of two halves are {widest.degrees:.1f} degrees apart "
        f"(mean angle of the layer where it is largest; {widest.largest:.0f} at most)"
    )
