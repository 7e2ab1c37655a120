"""Work through a grid: cells that are finished stay, one that fails does not stop the others."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langedit.compare import locks
from langedit.compare.cells import FORMAT, Cell
from langedit.compare.files import read_json, write_json
from langedit.compare.ground import Say
from langedit.compare.locks import try_lock
from langedit.compare.measure import measure
from langedit.errors import LangEditError, OutputError

Measure = Callable[[Cell, Say], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: the cell.
        record: the content of its file; `None` if it failed, or another process is at it.
        error: why it failed.
    """

    cell: Cell
    record: dict[str, Any] | None = None
    error: str | None = None


def run_grid(
    cells: Sequence[Cell],
    folder: Path,
    *,
    say: Say = lambda _: None,
    on_done: Callable[[int], None] = lambda _: None,
    wait: bool = True,
    measure_cell: Measure = measure,
) -> tuple[Outcome, ...]:
    """Run the cells that are not finished, beside any other process that does the same.

    Args:
        cells: what to run.
        folder: of results.
        say: told what happens.
        on_done: told how many cells are done.
        wait: whether to stay until cells that other processes work on are done, too; if such a
            process dies, its cell is taken over.
        measure_cell: runs one cell.

    Returns:
        What became of each cell, in order.

    Raises:
        OutputError: the folder cannot be written.
    """
    begun = time.time()
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(cells):
        before = len(outcomes)
        for number, cell in enumerate(cells):
            if number not in outcomes:
                found = _settle(cell, folder, begun, say, measure_cell)
                if found is not None:
                    outcomes[number] = found
                    on_done(len(outcomes))
        if len(outcomes) == before:
            if not wait:
                break
            time.sleep(locks.WAIT)
    return tuple(outcomes.get(number, Outcome(cell=cell)) for number, cell in enumerate(cells))


def finished(cells: Sequence[Cell], folder: Path) -> tuple[Outcome, ...]:
    """What became of the cells so far; nothing is run.

    A cell whose file is damaged counts as failed.
    """
    outcomes = []
    for cell in cells:
        try:
            record = read_record(folder, cell.key)
            message = None if record else _failure(cell, folder)
        except LangEditError as error:
            record, message = None, str(error)
        outcomes.append(Outcome(cell=cell, record=record, error=message))
    return tuple(outcomes)


def read_record(folder: Path, key: str) -> dict[str, Any] | None:
    """The content of a finished cell's file, `None` if it is not finished.

    Raises:
        OutputError: the file is damaged, or not of this cell.
    """
    path = _record_path(folder, key)
    record: dict[str, Any] | None = read_json(path)
    if record is not None and (record.get("key"), record.get("format")) != (key, FORMAT):
        raise OutputError(f"{path}: expected the result of cell {key}, got another; remove it")
    return record


def _settle(cell: Cell, folder: Path, begun: float, say: Say, run: Measure) -> Outcome | None:
    """Read or run a cell; `None` if another process works on it.

    Raises:
        OutputError: the folder cannot be written; a damaged file of the cell fails it alone.
    """
    try:
        key = cell.key
        record = read_record(folder, key)
    except Exception as error:
        return _failed(cell, folder, error, say)
    if record is not None:
        return Outcome(cell=cell, record=record)
    failure = _failure_path(cell, folder)
    if failure.exists() and failure.stat().st_mtime >= begun:  # another process, just now
        message = _failure(cell, folder)
        if message is not None:
            return Outcome(cell=cell, error=message)
    try:
        with try_lock(folder / "cells" / f"{key}.lock") as held:
            if not held:
                return None
            record = read_record(folder, key)  # finished between the look and the lock
            return Outcome(cell=cell, record=record or _run(cell, folder, say, run))
    except Exception as error:  # whatever it is, it is this cell's, and is reported
        if isinstance(error, OutputError):
            raise
        return _failed(cell, folder, error, say)


def _run(cell: Cell, folder: Path, say: Say, run: Measure) -> dict[str, Any]:
    say(f"{cell.name}: begins")
    record = run(cell, say)
    write_json(_record_path(folder, cell.key), record)
    _failure_path(cell, folder).unlink(missing_ok=True)
    say(f"{cell.name}: done in {sum(record['seconds'].values()):.0f} s")
    written: dict[str, Any] = read_json(_record_path(folder, cell.key))
    return written


def _failed(cell: Cell, folder: Path, error: Exception, say: Say) -> Outcome:
    kind = "" if isinstance(error, LangEditError) else f"{type(error).__name__}: "
    message = f"{kind}{error}"
    say(f"{cell.name}: FAILED: {message}")
    trace = "".join(traceback.format_exception(error))
    content = {"cell": cell.name, "key": _key(cell), "error": message, "traceback": trace}
    write_json(_failure_path(cell, folder), content)
    return Outcome(cell=cell, error=message)


def _failure(cell: Cell, folder: Path) -> str | None:
    """Why a cell failed; `None` if it did not, or with other settings under the same name.

    Raises:
        OutputError: the file is damaged.
    """
    failure = read_json(_failure_path(cell, folder))
    if failure is None or failure.get("key") != _key(cell):
        return None
    return str(failure["error"])


def _key(cell: Cell) -> str | None:
    """The cell's key; `None` where its model cannot be loaded, so that it has none."""
    try:
        return cell.key
    except Exception:
        return None


def _record_path(folder: Path, key: str) -> Path:
    return folder / "cells" / f"{key}.json"


def _failure_path(cell: Cell, folder: Path) -> Path:
    """By the cell's name: a cell whose model cannot be loaded has no key."""
    name = hashlib.sha256(cell.name.encode()).hexdigest()[:32]
    return folder / "failed" / f"{name}.json"
