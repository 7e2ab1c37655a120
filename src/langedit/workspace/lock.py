"""One writer at a time: a lock with its owner, which ends with the process that holds it."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from langedit.errors import WorkspaceError

LOCK = "writer.lock"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who writes.

    Attributes:
        user: login name.
        host: name of the machine.
        pid: process id there.
        since: UTC, ISO 8601.
    """

    user: str
    host: str
    pid: int
    since: str

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(
            user=_user(),
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def age(self) -> str:
        """How long ago it began, in words."""
        try:
            seconds = (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return "for an unknown time"
        minutes = int(seconds // 60)
        if minutes < 1:
            return f"for {int(seconds)} s"
        return f"for {minutes} min" if minutes < 120 else f"for {minutes // 60} h"

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, {self.age}"


@contextmanager
def writer_lock(folder: Path, *, take_over: bool = False) -> Iterator[Owner | None]:
    """Be the one writer of a workspace while the body runs.

    On one machine the operating system ends the lock with the process, however that ends. What a
    dead process wrote into it remains, and is yielded. Machines that share a disk may not see each
    other's locks: there what is written in it counts, until someone says that it is stale.

    Args:
        folder: of the workspace.
        take_over: believe that the owner on another machine is gone.

    Yields:
        The owner of a stale lock that was taken over; `None` if there was none.

    Raises:
        WorkspaceError: another process writes, or the lock cannot be made.
    """
    path = folder / LOCK
    descriptor = _open(path)
    try:
        locked = _lock(descriptor)
        earlier = _read(descriptor)
        elsewhere = earlier is not None and earlier.host != socket.gethostname()
        if not locked or (elsewhere and not take_over):
            raise WorkspaceError(
                f"{folder}: expected to be the only writer, but {earlier or 'another process'} "
                "writes; wait until it is done"
                + ("" if not locked else ", or use --take-over if that process is gone")
            )
        _write(path, descriptor, json.dumps(asdict(Owner.me())))
        try:
            yield earlier
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def read_owner(folder: Path) -> Owner | None:
    """Who writes, or wrote and died; `None` if nobody does. Takes no lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WorkspaceError(
            f"{path}: expected to write the lock file, got: {error.strerror}; make the folder "
            "writable, or work on a copy that is"
        ) from error


def _lock(descriptor: int) -> bool:
    import fcntl  # not on every system; only writing needs it

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(descriptor: int) -> Owner | None:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        owner = Owner(**said)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    good = isinstance(owner.pid, int) and all(
        isinstance(own, str) and own.isprintable() for own in (owner.user, owner.host, owner.since)
    )
    return owner if good else None


def _write(path: Path, descriptor: int, text: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        raise WorkspaceError(
            f"{path}: expected to write the lock file, got: {error.strerror}; free room on that "
            "disk, or make the folder writable"
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())
