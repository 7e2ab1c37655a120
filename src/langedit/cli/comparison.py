"""What `langedit compare` and `langedit tune` do, as functions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langedit.compare.cells import Cell, make_cells
from langedit.compare.chosen import write_chosen
from langedit.compare.config import CompareConfig
from langedit.compare.files import write_json
from langedit.compare.grid import Outcome, run_grid
from langedit.compare.measure import measure
from langedit.compare.reading import read_comparison, read_toml
from langedit.compare.report import write_report
from langedit.compare.tidy import write_csv
from langedit.compare.tuning import Trial, TrialResult, make_finals, make_trials, results_of
from langedit.console import note, progress
from langedit.errors import OutputError


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of both commands.

    Attributes:
        config: a file, or the name of a shipped comparison.
        output: folder of results; `out/compare/NAME` if `None`.
        only: methods to run; all if empty.
        report: Markdown file to write (compare).
        write: TOML file to write (tune); `chosen.toml` in the folder of results if `None`.
        wait: whether to stay until other processes are done.
        profile: whether to count what the stages of each run compute.
    """

    config: str
    output: Path | None = None
    only: tuple[str, ...] = ()
    report: Path | None = None
    write: Path | None = None
    wait: bool = True
    profile: bool = False

    def folder(self, config: CompareConfig) -> Path:
        """The folder of results.

        Raises:
            OutputError: it is a file.
        """
        folder = self.output or Path("out/compare") / config.name
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: expected a folder, got a file; choose another name")
        return folder

    def command(self, name: str) -> str:
        """The command that these options are of."""
        words = ["langedit", name, self.config]
        words += [word for label in self.only for word in ("--only", label)]
        options = {"--output": self.output, "--report": self.report, "--write": self.write}
        for option, value in options.items():
            words += [] if value is None else [option, str(value)]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A comparison as far as it is done.

    Attributes:
        config: what was asked for.
        outcomes: of all cells.
        csv: file of all figures.
        report: the report, if one was asked for and something is finished.
        profiled: whether profiles were asked for.
    """

    config: CompareConfig
    outcomes: tuple[Outcome, ...]
    csv: Path
    report: Path | None
    profiled: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning:
    """Trials, the file of the chosen settings, and the runs if profiles were asked for."""

    results: tuple[TrialResult, ...]
    file: Path
    profiled: tuple[Outcome, ...] = ()


def compare(options: CompareOptions) -> Comparison:
    """Run the cells that are not finished, and write table and report.

    Raises:
        LangEditError: the comparison cannot be read or is wrong; nothing was run.
    """
    config = read_comparison(options.config)
    folder = options.folder(config)
    cells = make_cells(config, folder, only=options.only, say=note)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    outcomes = _run(cells, folder, options)
    write_csv(outcomes, folder / "results.csv")
    report = options.report
    if report is not None and any(outcome.record for outcome in outcomes):
        write_report(config, outcomes, report, options.command("compare"))
    else:
        report = None
    return Comparison(
        config=config,
        outcomes=outcomes,
        csv=folder / "results.csv",
        report=report,
        profiled=options.profile,
    )


def tune(options: CompareOptions) -> Tuning:
    """Run the trials that are not finished, and write the best settings of each method.

    If only some methods are tuned, a file that is there keeps what it says of the others.

    Raises:
        LangEditError: the comparison cannot be read or is wrong; nothing was run.
    """
    config = read_comparison(options.config, chosen=None)
    folder = options.folder(config)
    file = options.write or folder / "chosen.toml"
    kept = read_toml(file) if options.only and file.exists() else None
    trials = make_trials(config, folder, only=options.only, say=note)
    outcomes = _run(_cells(trials), folder, options)
    results = results_of(trials, outcomes)
    finals = make_finals(config, folder, results, say=note)
    last = _run(_cells(finals), folder, options)
    results += results_of(finals, last)
    write_chosen(results, file, options.command("tune"), kept)
    profiled = (*outcomes, *last) if options.profile else ()
    return Tuning(results=results, file=file, profiled=profiled)


def _cells(trials: Sequence[Trial]) -> list[Cell]:
    return [cell for trial in trials for cell in trial.cells]


def _run(cells: Sequence[Cell], folder: Path, options: CompareOptions) -> tuple[Outcome, ...]:
    with progress("runs", len(cells)) as done:
        return run_grid(
            cells,
            folder,
            say=note,
            on_done=done,
            wait=options.wait,
            measure_cell=partial(measure, profile=options.profile),
        )
