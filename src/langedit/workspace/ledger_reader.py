"""What the rows of a ledger say: every question that is asked of it. Needs no torch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from langedit.errors import FactError, WorkspaceError
from langedit.facts import Fact
from langedit.facts.batches import comparable
from langedit.workspace.database import reading
from langedit.workspace.history import Change, History, Kind
from langedit.workspace.rows import (
    EVENT_COLUMNS,
    FACT_COLUMNS,
    Event,
    FactRow,
    Job,
    Origin,
    text_hash,
)

_T = TypeVar("_T")


class LedgerReader:
    """Reads the rows. Any number of readers work beside one writer."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Take a connection to the file of this path."""
        self.path = path
        self._connection = connection

    def close(self) -> None:
        """Let go of the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def meta(self, name: str) -> Any:
        """A value given at the beginning."""
        return self._read(
            lambda: json.loads(self._one("SELECT value FROM meta WHERE name = ?", (name,))[0])
        )

    def creation_profile(self) -> dict[str, Any] | None:
        """What the stages of making the workspace cost, where that was asked for."""
        sql = "SELECT value FROM meta WHERE name = 'profile'"
        rows = self._rows(sql, (), lambda row: dict(json.loads(row[0])))
        return rows[0] if rows else None

    def table(self, name: str) -> dict[str, Any]:
        """A value given at the beginning that is a table."""
        said = self.meta(name)
        with reading(self.path):
            if not isinstance(said, dict):
                raise ValueError(f"{name} is no table")
        return said

    def origin(self) -> Origin:
        """The unedited model."""
        said = self.table("model")
        return self._read(lambda: Origin.from_json(said))

    def events(self, *, last: int | None = None) -> list[Event]:
        """Events, oldest first; `last` says how many of the newest, all if `None`."""
        sql = f"SELECT {EVENT_COLUMNS} FROM event ORDER BY number DESC LIMIT ?"
        rows = self._rows(sql, (-1 if last is None else last,), Event.from_row)
        return rows[::-1]

    def event(self, number: int) -> Event:
        """One event.

        Raises:
            WorkspaceError: there is none of that number.
        """
        sql = f"SELECT {EVENT_COLUMNS} FROM event WHERE number = ?"
        rows = self._rows(sql, (number,), Event.from_row)
        if not rows:
            raise WorkspaceError(
                f"expected the number of an event, from 1 to {self.count()}, got {number}; "
                "langedit log lists them"
            )
        return rows[0]

    def figures(self, number: int) -> dict[str, Any]:
        """Everything recorded about an event that its row does not say."""
        sql = "SELECT figures FROM detail WHERE event = ?"
        return self._read(lambda: dict(json.loads(self._one(sql, (number,))[0])))

    def profile(self, number: int) -> dict[str, Any] | None:
        """What the stages of an event cost, where that was asked for."""
        said = self.figures(number).get("profile")
        return self._read(lambda: None if said is None else dict(said))

    def software(self, number: int) -> dict[str, Any]:
        """What an event was made with."""
        figures = self.figures(number)
        return self._read(lambda: dict(figures["software"]))

    def count(self, kind: Kind | None = None) -> int:
        """Number of events, or of those of a kind."""
        sql = "SELECT count(*) FROM event WHERE ? IS NULL OR kind = ?"
        return self._read(lambda: int(self._one(sql, (kind, kind))[0]))

    def last_change(self) -> Event | None:
        """The newest event that changed the weights."""
        sql = (
            f"SELECT {EVENT_COLUMNS} FROM event WHERE kind != 'refused' "
            "ORDER BY number DESC LIMIT 1"
        )
        rows = self._rows(sql, (), Event.from_row)
        return rows[0] if rows else None

    def history(self) -> History:
        """Which batches are in the model."""
        sql = "SELECT number, kind, removed, superseded, weights_after FROM event ORDER BY number"
        base = self.origin().weights
        return self._read(lambda: History.of(base, map(_change, self._connection.execute(sql))))

    def head(self) -> tuple[str, str]:
        """Hashes of weights and state as they should be now."""
        sql = "SELECT weights_after, state_after FROM event ORDER BY number DESC LIMIT 1"
        rows = self._rows(sql, (), lambda row: (str(row[0]), str(row[1])))
        if rows:
            return rows[0]
        origin = self.origin()
        return origin.weights, origin.state

    def facts(self, event: int) -> list[FactRow]:
        """Facts of a batch, in order."""
        sql = f"SELECT {FACT_COLUMNS} FROM fact WHERE event = ? ORDER BY position"
        return self._rows(sql, (event,), FactRow.from_row)

    def fact(self, event: int, position: int) -> FactRow:
        """One fact of a batch.

        Raises:
            WorkspaceError: there is none there.
        """
        sql = f"SELECT {FACT_COLUMNS} FROM fact WHERE event = ? AND position = ?"
        rows = self._rows(sql, (event, position), FactRow.from_row)
        if not rows:
            raise WorkspaceError(
                f"{self.path}: expected a fact at position {position} of batch {event}, got none: "
                "the ledger is damaged; restore the workspace from an archive or a copy"
            )
        return rows[0]

    def size(self, event: int) -> int:
        """Number of facts of a batch."""
        sql = "SELECT count(*) FROM fact WHERE event = ?"
        return self._read(lambda: int(self._one(sql, (event,))[0]))

    def asking_the_same(self, fact: Fact) -> list[FactRow]:
        """Facts of any batch with the same language and text."""
        sql = f"SELECT {FACT_COLUMNS} FROM fact WHERE text_hash = ? AND language = ?"
        return self._rows(sql, (text_hash(fact), fact.language), FactRow.from_row)

    def find(self, subject: str) -> list[FactRow]:
        """Facts whose subject has these words in it, whatever their case; oldest first."""
        sql = (
            f"SELECT {FACT_COLUMNS} FROM fact JOIN (SELECT event, position FROM fact "
            "INDEXED BY fact_subject WHERE instr(subject, ?)) AS found "
            "USING (event, position) ORDER BY fact.event, fact.position"
        )
        return self._rows(sql, (comparable(subject),), FactRow.from_row)

    def languages(self) -> list[tuple[int, str, int]]:
        """(batch, language, number of facts) of every batch."""
        sql = "SELECT event, language, count(*) FROM fact GROUP BY event, language"
        return self._rows(sql, (), lambda row: (int(row[0]), str(row[1]), int(row[2])))

    def efficacies(self) -> dict[tuple[int, int], float]:
        """(batch, position) -> efficacy right after the batch, where it was scored."""
        sql = "SELECT event, position, efficacy FROM fact WHERE efficacy IS NOT NULL"
        return dict(self._rows(sql, (), lambda row: ((int(row[0]), int(row[1])), float(row[2]))))

    def jobs(self, facts_sha256: str) -> list[Job]:
        """Runs over the same facts, newest first."""
        sql = (
            "SELECT number, facts_sha256, batch_size, taken FROM job WHERE facts_sha256 = ? "
            "ORDER BY number DESC"
        )
        return self._rows(sql, (facts_sha256,), _job)

    def events_of(self, job: int) -> list[Event]:
        """Events of a run, oldest first."""
        sql = f"SELECT {EVENT_COLUMNS} FROM event WHERE job = ? ORDER BY number"
        return self._rows(sql, (job,), Event.from_row)

    def artefacts(self) -> list[tuple[str, int]]:
        """SHA-256 and size of every artefact."""
        sql = "SELECT sha256, bytes FROM artefact ORDER BY sha256"
        return self._rows(sql, (), lambda row: (str(row[0]), int(row[1])))

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        checks = ("PRAGMA integrity_check", "PRAGMA foreign_key_check")
        found = [self._rows(sql, (), lambda row: " ".join(map(str, row))) for sql in checks]
        return [text for own in found for text in own if text != "ok"]

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy, whatever a writer does meanwhile."""
        with reading(self.path):
            target = sqlite3.connect(path)
            try:
                self._connection.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            finally:
                target.close()

    def _read(self, ask: Callable[[], _T]) -> _T:
        with reading(self.path):
            return ask()

    def _one(self, sql: str, values: Sequence[object]) -> Sequence[Any]:
        row: Sequence[Any] | None = self._connection.execute(sql, values).fetchone()
        if row is None:
            raise ValueError(f"a row is missing ({', '.join(map(str, values))})")
        return row

    def _rows(
        self, sql: str, values: Sequence[object], build: Callable[[Sequence[Any]], _T]
    ) -> list[_T]:
        try:
            with reading(self.path):
                return [build(row) for row in self._connection.execute(sql, values)]
        except FactError as error:
            raise WorkspaceError(
                f"{self.path}: expected facts in its rows, got: {error}; restore the workspace "
                "from an archive or a copy"
            ) from error


def _change(row: Sequence[Any]) -> Change:
    return Change(
        number=int(row[0]),
        kind=row[1],
        removed=tuple(map(int, json.loads(row[2]))) if row[2] != "[]" else (),
        superseded=tuple((int(b), int(p)) for b, p in json.loads(row[3])) if row[3] != "[]" else (),
        weights_after=str(row[4]),
    )


def _job(row: Sequence[Any]) -> Job:
    return Job(
        number=int(row[0]),
        facts_sha256=str(row[1]),
        batch_size=int(row[2]),
        taken=tuple(map(int, json.loads(row[3]))),
    )
