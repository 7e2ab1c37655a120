"""Tables of the ledger. Rows are added and never changed: triggers refuse anything else."""

from __future__ import annotations

import sqlite3

_APPEND_ONLY = ("artefact", "job", "event", "detail", "fact")

_VERSION_1 = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE artefact (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE job (
    number INTEGER PRIMARY KEY,
    created TEXT NOT NULL,
    facts_sha256 TEXT NOT NULL,
    batch_size INTEGER NOT NULL,
    taken TEXT NOT NULL
) STRICT;
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('batch', 'refused', 'undo')),
    created TEXT NOT NULL,
    weights_before TEXT NOT NULL,
    weights_after TEXT NOT NULL,
    state_after TEXT NOT NULL,
    job INTEGER REFERENCES job (number),
    place TEXT,
    artefact TEXT REFERENCES artefact (sha256),
    removed TEXT NOT NULL,
    superseded TEXT NOT NULL,
    replays INTEGER REFERENCES event (number),
    summary TEXT NOT NULL
) STRICT;
CREATE TABLE detail (
    event INTEGER PRIMARY KEY REFERENCES event (number),
    figures TEXT NOT NULL
) STRICT;
CREATE TABLE fact (
    event INTEGER NOT NULL REFERENCES event (number),
    position INTEGER NOT NULL,
    language TEXT NOT NULL,
    text_hash TEXT NOT NULL,
    subject TEXT NOT NULL,
    efficacy REAL,
    generalization REAL,
    specificity REAL,
    record TEXT NOT NULL,
    PRIMARY KEY (event, position)
) STRICT;
CREATE INDEX fact_language ON fact (event, language);
CREATE INDEX fact_text ON fact (text_hash, language);
CREATE INDEX fact_subject ON fact (subject, event, position);
"""

_TRIGGERS = "".join(
    f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'history is never rewritten'); END;\n"
    for table in _APPEND_ONLY
    for verb in ("UPDATE", "DELETE")
)

MIGRATIONS = (_VERSION_1 + _TRIGGERS,)
"""Scripts that lead from an empty file to the present version, one a version."""

VERSION = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Run the scripts that a ledger lacks, inside the transaction that is open.

    Raises:
        sqlite3.Error: a script fails.
    """
    for version in range(user_version(connection), len(migrations)):
        for statement in _statements(migrations[version]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")


def user_version(connection: sqlite3.Connection) -> int:
    """Version of a ledger; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def expected_schema() -> list[tuple[str, str, str]]:
    """What `schema_of` says of a good ledger of the present version."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(connection)
        return schema_of(connection)
    finally:
        connection.close()


def schema_of(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Type, name and definition of every table, index, trigger and view."""
    return sorted(
        (str(kind), str(name), str(sql))
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master")
    )


def _statements(script: str) -> list[str]:
    """The statements of a script, each ending a line; triggers hold semicolons of their own."""
    found, part = [], ""
    for line in script.splitlines():
        part += line + "\n"
        if sqlite3.complete_statement(part):
            found.append(part)
            part = ""
    return [statement for statement in found if statement.strip()]
