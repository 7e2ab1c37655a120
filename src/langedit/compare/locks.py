"""Locks between processes, also of several machines that share a folder.

A lock is a file that was made by exactly one process (`O_EXCL`, which shared file systems keep).
Its holder touches it every few seconds. A lock is stale when its holder ran on this machine and is
gone, or when it was not touched for long; then the next process removes it. Clocks of machines
differ, so a lock's age is counted by the clock of the file system.

Nothing is lost if two processes should ever hold one lock, after a machine slept for instance: both
do the same work, and results are whole files that take each other's place.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from langedit.errors import OutputError

BEAT = 10.0
"""Seconds between two touches."""

STALE = 180.0
"""Seconds without a touch after which a holder counts as gone."""

WAIT = 1.0
"""Seconds between two tries to get a lock."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock while the body runs, if nobody else does.

    Yields:
        Whether the lock is held.

    Raises:
        OutputError: the file cannot be made.
    """
    token = _take(path)
    if token is None and _remove_stale(path):
        token = _take(path)
    if token is None:
        yield False
        return
    done = Event()
    beat = Thread(target=_keep_fresh, args=(path, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        if _holder(path).get("token") == token:
            path.unlink(missing_ok=True)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock while the body runs, after waiting for whoever holds it."""
    while True:
        with try_lock(path) as held:
            if held:
                yield
                return
        time.sleep(WAIT)


def is_locked(path: Path) -> bool:
    """Whether someone holds the lock, and is not known to be gone."""
    return path.exists() and not _is_stale(path, _holder(path))


def _take(path: Path) -> str | None:
    """Make the file; `None` if it is there."""
    token = secrets.token_hex(8)
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "token": token,
    }
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            return None
        raise OutputError(f"{path}: cannot be made ({error}); choose another folder") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(holder, file)
    return token


def _remove_stale(path: Path) -> bool:
    """Remove the lock of a holder that is gone; whether the way is free."""
    holder = _holder(path)
    if not _is_stale(path, holder):
        return not path.exists()
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stale")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _holder(aside).get("token") != holder.get("token"):  # another process was faster
            with suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
            return False
        aside.unlink()
    return True


def _is_stale(path: Path, holder: dict[str, Any]) -> bool:
    try:
        age = _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        return _process_start(holder["pid"]) != holder.get("started") or age > STALE
    return age > STALE


def _holder(path: Path) -> dict[str, Any]:
    """Who holds a lock; nothing is known of one that is just being written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _process_start(pid: int) -> str | None:
    """When a process of this machine began, so that a number used again is not mistaken.

    `None` if there is no such process. Where the system does not tell, every living process has
    the same answer.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _now(folder: Path) -> float:
    """The time by the clock of the file system, in its seconds."""
    probe = folder / f".clock.{os.getpid()}.{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _keep_fresh(path: Path, done: Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
