"""The ledger: what happened, in rows that are added and never changed. Needs no torch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from langedit.errors import WorkspaceError
from langedit.facts.batches import comparable
from langedit.facts.jsonl import fact_to_json
from langedit.workspace import database
from langedit.workspace.database import reading
from langedit.workspace.history import Kind
from langedit.workspace.ledger_reader import LedgerReader
from langedit.workspace.operations import FileOperations, refuse_writing
from langedit.workspace.rows import EVENT_COLUMNS, FactRow, Job, Run, Summary, text_hash
from langedit.workspace.schema import migrate, user_version

LEDGER = "ledger.sqlite"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An event that is not in the ledger yet; its fields are those of `Event`.

    Attributes:
        facts: the batch's facts with their scores; `event` is not used.
        artefact: SHA-256 and size of the file with its tensors.
        figures: everything else that is known about it, JSON-able.
    """

    kind: Kind
    weights_before: str
    weights_after: str
    state_after: str
    summary: Summary
    facts: tuple[FactRow, ...] = ()
    job: int | None = None
    place: str | None = None
    artefact: tuple[str, int] | None = None
    removed: tuple[int, ...] = ()
    superseded: tuple[tuple[int, int], ...] = ()
    replays: int | None = None
    figures: Mapping[str, Any]


class Ledger(LedgerReader):
    """Reads the rows, and adds some."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, operations: FileOperations
    ) -> None:
        """Take a connection; `open` and `create` make one."""
        super().__init__(path, connection)
        self._operations = operations

    @classmethod
    def open(
        cls, folder: Path, *, write: bool = False, operations: FileOperations | None = None
    ) -> Self:
        """Open the ledger of a workspace.

        Raises:
            WorkspaceError: there is none, or it cannot be trusted.
        """
        path = folder / LEDGER
        connection = database.connect(path, write=write)
        return cls(path, connection, operations or FileOperations())

    @classmethod
    def create(
        cls, folder: Path, meta: Mapping[str, Any], artefacts: Iterable[tuple[str, int]],
        operations: FileOperations,
    ) -> Self:  # fmt: skip
        """Make a ledger; until this has succeeded, the folder is no workspace.

        Args:
            folder: of the workspace.
            meta: name -> JSON-able value.
            artefacts: SHA-256 and size of files that belong to the workspace as such.
            operations: the steps of writing.

        Raises:
            WorkspaceError: there is a ledger already, or it cannot be written.
        """
        path = folder / LEDGER
        ledger = cls(path, database.create(path), operations)
        try:
            with reading(path):
                version = user_version(ledger._connection)
            if version:
                raise WorkspaceError(f"{path}: expected no ledger, got one: choose a new folder")
            ledger._write(lambda: ledger._begin(meta, artefacts))
        except BaseException:
            ledger.close()
            raise
        return ledger

    def append(self, drafts: Sequence[Draft]) -> list[int]:
        """Add events with their facts and artefacts, all or none; gives their numbers.

        Raises:
            WorkspaceError: they cannot be written.
        """
        return self._write(lambda: [self._insert(draft) for draft in drafts])

    def append_job(self, run: Run) -> Job:
        """Add a run over a file of facts.

        Raises:
            WorkspaceError: it cannot be written.
        """
        values = (_now(), run.facts_sha256, run.batch_size, json.dumps(run.taken))
        sql = "INSERT INTO job (created, facts_sha256, batch_size, taken) VALUES (?, ?, ?, ?)"
        number = self._write(lambda: self._connection.execute(sql, values).lastrowid)
        assert number is not None
        return Job(number=number, **vars(run))

    def _begin(self, meta: Mapping[str, Any], artefacts: Iterable[tuple[str, int]]) -> None:
        migrate(self._connection)
        for name, value in meta.items():
            said = json.dumps(value, ensure_ascii=False)
            self._connection.execute("INSERT INTO meta VALUES (?, ?)", (name, said))
        for artefact in artefacts:
            self._insert_artefact(artefact)

    def _insert(self, draft: Draft) -> int:
        if draft.artefact is not None:
            self._insert_artefact(draft.artefact)
        values = (
            draft.kind, _now(), draft.weights_before, draft.weights_after, draft.state_after,
            draft.job, draft.place, draft.artefact[0] if draft.artefact else None,
            json.dumps(draft.removed), json.dumps(draft.superseded), draft.replays,
            draft.summary.to_json(),
        )  # fmt: skip
        columns = EVENT_COLUMNS.partition(", ")[2]
        marks = ", ".join("?" * len(values))
        sql = f"INSERT INTO event ({columns}) VALUES ({marks})"
        number = self._connection.execute(sql, values).lastrowid
        assert number is not None
        figures = json.dumps(draft.figures, ensure_ascii=False)
        self._connection.execute("INSERT INTO detail VALUES (?, ?)", (number, figures))
        self._connection.executemany(
            "INSERT INTO fact VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(number, *_fact_values(row)) for row in draft.facts],
        )
        return number

    def _insert_artefact(self, artefact: tuple[str, int]) -> None:
        self._connection.execute("INSERT OR IGNORE INTO artefact VALUES (?, ?)", artefact)

    def _write(self, change: Callable[[], _T]) -> _T:
        """Run a change in a transaction."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = change()
            self._operations.commit(self._connection)
        except BaseException as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                refuse_writing(self.path, error)
            raise
        return result


def _fact_values(row: FactRow) -> tuple[object, ...]:
    fact = row.fact
    scores = (row.efficacy, row.generalization, row.specificity)
    said = fact_to_json(fact)
    return (row.position, fact.language, text_hash(fact), comparable(fact.subject), *scores, said)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
