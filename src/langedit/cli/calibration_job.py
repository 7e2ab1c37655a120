"""What `langedit calibrate` does, as a function: read, load, calibrate, write."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from langedit.calibration.budget import Budget
from langedit.calibration.parts import split_facts
from langedit.calibration.plan import Plan
from langedit.calibration.report import write_calibration
from langedit.calibration.run import Calibration, calibrate
from langedit.calibration.search import require_searchable
from langedit.calibration.start import Shape, Start, nearest_start
from langedit.cli.fitting import require_fitting
from langedit.cli.load import BUNDLED, load_named
from langedit.cli.moments import read_moments
from langedit.cli.settings import read_settings
from langedit.console import note, progress
from langedit.demo.atlas import Atlas
from langedit.demo.bundled import bundled_moments
from langedit.editing import Moments
from langedit.editing.moment_files import find_layers
from langedit.editing.opening import require_identity
from langedit.editing.prefixes import seed_words_of
from langedit.facts import Fact, read_facts
from langedit.folders import check_output, whole_folder
from langedit.models import EditableModel
from langedit.profiler import Profiler

_AROUND = 2
"""Layers beside the published ones whose moments are asked for where there are none."""

DEFAULT_METHOD = "langedit"


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """The options of `langedit calibrate`.

    Attributes:
        model: Folder, hub id, or `bundled`.
        facts: File of facts.
        output: New or empty folder.
        budget: Minutes.
        trials: Settings to try instead of as many as the minutes allow.
        moments: Folder written by `langedit stats`.
        config: Settings to begin with: a file, or the name of a shipped one.
        method: Instead of the method in the settings.
        against: Settings to score beside, as `config`.
        batch_size: Facts in a batch.
        strict: Whether a rejected row is an error.
        seed: Of noise and search.
        dtype: Precision to load the model in.
        device_map: Where the model goes.
        revision: Of a hub model.
        profile: Whether to count what each stage costs.
    """

    model: str
    facts: Path
    output: Path
    budget: float = 20.0
    trials: int | None = None
    moments: Path | None = None
    config: str | None = None
    method: str | None = None
    against: tuple[str, ...] = ()
    batch_size: int = 25
    strict: bool = False
    seed: int = 0
    dtype: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    profile: bool = False

    @property
    def command(self) -> str:
        """The command that these options are of, but for the output."""
        given = {
            "--model": self.model,
            "--facts": self.facts,
            "--budget": None if self.trials is not None else f"{self.budget:g}",
            "--trials": self.trials,
            "--moments": self.moments,
            "--config": self.config,
            "--method": self.method,
            "--seed": self.seed or None,
            "--batch-size": None if self.batch_size == 25 else self.batch_size,
            "--dtype": None if self.dtype == "auto" else self.dtype,
            "--device-map": self.device_map,
            "--revision": self.revision,
        }
        words = ["langedit", "calibrate"]
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        words += [word for own in self.against for word in ("--against", own)]
        words += ["--strict"] if self.strict else []
        return shlex.join(words)


def calibrate_model(options: CalibrateOptions) -> Calibration:
    """Calibrate a model and write what was found to a folder that appears when it is complete.

    Raises:
        LangEditError: Something cannot be used or fails; nothing is written.
    """
    check_output(options.output)
    budget = Budget(minutes=None if options.trials is not None else options.budget)
    file = read_facts(options.facts, strict=options.strict)
    for row in file.rejected:
        note(f"rejected {row}")
    split_facts(file.facts)
    against = {name: read_settings(name, None, None, None) for name in options.against}
    start = _given_start(options)
    model = load_named(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device_map=options.device_map,
        structure=None if start is None else start.config.structure,
    )
    if start is None:
        start = nearest_start(Shape.of(model), options.method or DEFAULT_METHOD)
    for code in dict.fromkeys(fact.language for fact in file.facts):
        seed_words_of(code, start.config.seed_words)
    asked = model.with_chat(start.config.chat_settings)
    require_fitting(asked, file, file.facts, start.config, {})
    plan = Plan(
        start=start,
        budget=budget,
        trials=options.trials,
        batch_size=options.batch_size,
        against=against,
        seed=options.seed,
    )
    profiler = Profiler(model.device) if options.profile else None
    moments = _moments(options, model, plan, profiler)
    with whole_folder(options.output) as folder:
        found = _calibrated(model, file.facts, moments, plan, profiler)
        write_calibration(found, folder, options.command)
    return found


def _given_start(options: CalibrateOptions) -> Start | None:
    """The settings of `--config`, with which a search begins as they are."""
    if options.config is None:
        require_searchable(options.method or DEFAULT_METHOD)
        return None
    config = read_settings(options.config, None, options.method, None)
    require_searchable(config.method)
    return Start(config=config, origin=f"the settings {options.config}", rate_known=True)


def _moments(
    options: CalibrateOptions, model: EditableModel, plan: Plan, profiler: Profiler | None
) -> Moments:
    """Moments of the layers that may be edited.

    Raises:
        MomentsError: There are none; the message has the command that collects them.
    """
    depth = model.structure.n_layers
    needed = [*plan.start.config.layers] if options.config is not None else []
    needed += [layer for own in plan.against.values() for layer in own.edited_layers]
    for own in (plan.start.config, *plan.against.values()):
        own.check_depth(depth)
    if options.moments is None and options.model == BUNDLED:
        return bundled_moments(model, Atlas.from_cldr(), layers=range(depth), profiler=profiler)
    folder = options.moments
    there = find_layers(folder) if folder is not None and folder.is_dir() else []
    if folder is None or not there:
        ends = plan.start.config.layers
        wide = range(max(0, ends[0] - _AROUND), min(depth, ends[-1] + _AROUND + 1))
        needed = sorted({*needed, *wide})
    layers = sorted({*there, *needed})
    moments = read_moments(folder, layers, model=options.model, revision=options.revision)
    require_identity(model, moments)
    return moments


def _calibrated(
    model: EditableModel,
    facts: tuple[Fact, ...],
    moments: Moments,
    plan: Plan,
    profiler: Profiler | None,
) -> Calibration:
    """Calibrate with a bar for what is done at the moment."""
    with progress("calibrating") as done:

        def report(what: str, number: int) -> None:
            done(number, what)

        return calibrate(model, facts, moments, plan, report, profiler)
