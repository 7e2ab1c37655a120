"""Every step by which a workspace reaches the disk, in one place.

A file is written under a temporary name, forced to disk, renamed, and its folder forced to disk;
only then a row that names it is committed. Whatever stops the process between two of these steps
leaves a temporary file or a file without a row, and both are harmless. Tests put an object with
failing steps in the place of this one.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from langedit.errors import WorkspaceError

TEMPORARY = ".partial"
"""Ending of files that are being written; what is left of an interrupted run is removed."""


class FileOperations:
    """The steps, each as the operating system and SQLite offer it."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file; one that exists is an error."""
        with path.open("xb") as file:
            file.write(data)

    def copy(self, source: Path, path: Path) -> None:
        """Copy a file to a new one; one that exists is an error."""
        with source.open("rb") as read, path.open("xb") as write:
            shutil.copyfileobj(read, write, 1 << 22)

    def sync(self, path: Path) -> None:
        """Force a file's content, or a folder's entries, to disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name, replacing one that has it."""
        source.replace(target)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Make a transaction's rows last; SQLite forces them to disk."""
        connection.execute("COMMIT")


def place_file(operations: FileOperations, path: Path, content: bytes | Path) -> None:
    """Make a file that is there whole or not at all, and stays after a power cut.

    Args:
        operations: the steps.
        path: its name; the folder is made if missing.
        content: what is in it, or a file to copy.

    Raises:
        WorkspaceError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        fresh = not path.parent.is_dir()
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            operations.copy(content, temporary)
        else:
            operations.write(temporary, content)
        operations.sync(temporary)
        operations.rename(temporary, path)
        operations.sync(path.parent)
        if fresh:
            operations.sync(path.parent.parent)
    except OSError as error:
        with suppress(OSError):  # it must not hide the error above
            temporary.unlink(missing_ok=True)
        refuse_writing(path, error)


def refuse_writing(path: Path, error: OSError | sqlite3.Error) -> NoReturn:
    """Say why a workspace cannot be written, and what to do.

    Raises:
        WorkspaceError: always.
    """
    code = error.errno if isinstance(error, OSError) else None
    reason = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    if code in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in reason:
        advice = "free room on that disk"
    elif code in (errno.EROFS, errno.EACCES, errno.EPERM) or "readonly" in reason:
        advice = "make the folder writable, or work on a copy that is"
    else:
        advice = "see what is wrong with the disk"
    raise WorkspaceError(
        f"{path}: expected to write it, got: {reason}; {advice}, then run the same command again: "
        "every batch recorded so far is safe"
    ) from error
