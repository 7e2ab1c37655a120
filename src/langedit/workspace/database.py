"""The connection to a ledger: settings that make it durable, and checks that make it trusted."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from langedit.errors import WorkspaceError
from langedit.workspace.schema import VERSION, expected_schema, migrate, schema_of, user_version

LONGEST_VALUE = 256 << 20
"""Bytes of the largest value a row may hold; SQLite refuses more."""

_DAMAGE = (
    sqlite3.Error,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
_WAIT = 30.0  # seconds a connection waits for another's commit


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open a ledger that is there, and see that it is one.

    Args:
        path: the file.
        write: whether rows will be added. Readers never wait for the writer, nor it for them.

    Raises:
        WorkspaceError: no such file, no ledger, of another version, or with tables, views or
            triggers that a ledger does not have.
    """
    if path.is_symlink() or not path.is_file():
        raise WorkspaceError(
            f"{path}: expected the ledger of a workspace, found none; name a folder made by "
            "langedit init"
        )
    with reading(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{_mode(path, write)}",
            uri=True,
            isolation_level=None,
            timeout=_WAIT,
            check_same_thread=False,
        )
        try:
            _configure(connection, write)
            if write and 0 < user_version(connection) < VERSION:
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection)
                connection.execute("COMMIT")
            _require_ledger(path, connection)
        except BaseException:
            connection.close()
            raise
        return connection


def create(path: Path) -> sqlite3.Connection:
    """Open a new ledger for writing; its tables are not there yet."""
    with reading(path):
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=_WAIT, check_same_thread=False
        )
        _configure(connection, write=True)
        return connection


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of whatever a damaged ledger does to its reader that it is damaged.

    Rows are checked while they are read, and what is wrong with one shows as one of these errors.

    Raises:
        WorkspaceError: instead of them.
    """
    try:
        yield
    except _DAMAGE as error:
        raise WorkspaceError(
            f"{path}: expected a sound ledger, got: {type(error).__name__}: {error}; restore the "
            "workspace from an archive or a copy"
        ) from error


def _mode(path: Path, write: bool) -> str:
    """Readers of a folder that nobody can write into need no lock files."""
    if write:
        return "mode=rw"
    log = path.with_name(path.name + "-wal")
    fixed = not os.access(path.parent, os.W_OK) and not log.exists()
    return "mode=ro&immutable=1" if fixed else "mode=ro"


def _configure(connection: sqlite3.Connection, write: bool) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    if write:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")


def _require_ledger(path: Path, connection: sqlite3.Connection) -> None:
    version = user_version(connection)
    if version > VERSION:
        raise WorkspaceError(
            f"{path}: expected a ledger of version {VERSION} or older, got version {version}: "
            "install a newer langedit"
        )
    if version < VERSION:
        raise WorkspaceError(
            f"{path}: expected a ledger of version {VERSION}, got version {version}: "
            + ("run langedit init again" if version == 0 else "langedit apply or undo updates it")
        )
    if schema_of(connection) != expected_schema():
        raise WorkspaceError(
            f"{path}: expected the tables of a ledger and nothing else, got others: the file was "
            "tampered with, or is no ledger; restore the workspace from an archive"
        )
