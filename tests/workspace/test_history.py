"""Which batches are in the model, against a naive reading of the events; versions of the ledger."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langedit.errors import WorkspaceError
from langedit.workspace import Ledger
from langedit.workspace.history import Change, History, Standing
from langedit.workspace.operations import FileOperations
from langedit.workspace.schema import MIGRATIONS, expected_schema, migrate, schema_of, user_version


def naive(changes: list[Change]) -> list[Standing]:
    """Undo events applied to a list of batches, then all drops of what is left."""
    batches = [c for c in changes if c.kind == "batch"]
    gone = {number for c in changes if c.kind == "undo" for number in c.removed}
    left = [c for c in batches if c.number not in gone]
    drops = {fact for c in left for fact in c.superseded}
    return [Standing(c.number, tuple(sorted(p for b, p in drops if b == c.number))) for c in left]


@st.composite
def streams(draw):
    changes: list[Change] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        there = [item.batch for item in naive(changes)]
        kind = draw(st.sampled_from(["batch", "batch", "refused", "undo"] if there else ["batch"]))
        facts: tuple[tuple[int, int], ...] = ()
        removed: tuple[int, ...] = ()
        if kind == "batch" and there and draw(st.booleans()):
            facts = ((draw(st.sampled_from(there)), draw(st.integers(0, 3))),)
        if kind == "undo":
            removed = tuple(draw(st.lists(st.sampled_from(there), min_size=1, unique=True)))
        changes.append(
            Change(
                number=number,
                kind=kind,
                removed=removed,
                superseded=facts,
                weights_after=f"w{number}",
            )
        )
    return changes


@given(streams())
def test_the_fold_is_the_naive_reading(changes):
    history = History.of("base", changes)
    assert list(history.standing()) == naive(changes)
    assert history.weights_of([]) == "base"
    for number in history.batches:
        undone = Change(number=99, kind="undo", removed=(number,))
        assert list(history.without([number])) == naive([*changes, undone])
    assert list(history.standing()) == naive(changes), "asking changes nothing"


def test_the_same_batches_are_known_by_their_weights():
    changes = [Change(number=i, kind="batch", weights_after=f"w{i}") for i in (1, 2)]
    history = History.of("base", changes)
    history.add(Change(number=3, kind="undo", removed=(2,), weights_after="w1"))
    assert history.weights_of([Standing(1)]) == "w1"
    assert history.weights_of([Standing(1), Standing(2)]) == "w2"
    assert history.weights_of([Standing(2)]) is None
    assert history.weights_of([Standing(1, (0,))]) is None


@pytest.mark.parametrize(
    "change",
    [
        Change(number=2, kind="undo", removed=(7,)),
        Change(number=2, kind="undo", removed=()),
        Change(number=2, kind="batch", superseded=((7, 0),)),
    ],
)
def test_events_that_cannot_be(change):
    with pytest.raises(ValueError, match="event 2"):
        History.of("base", [Change(number=1, kind="batch"), change])


def test_migrations_lead_from_any_version_to_the_present_one():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    assert user_version(connection) == len(MIGRATIONS)
    assert schema_of(connection) == expected_schema()
    later = (*MIGRATIONS, "CREATE TABLE more (a);\nINSERT INTO more VALUES (1);\n")
    migrate(connection, later)
    migrate(connection, later)
    assert user_version(connection) == len(MIGRATIONS) + 1
    assert connection.execute("SELECT * FROM more").fetchall() == [(1,)]


def test_a_ledger_of_an_older_version_is_updated_by_the_next_writer(tmp_path, monkeypatch):
    Ledger.create(tmp_path, {"model": {}}, [], FileOperations()).close()
    later = (*MIGRATIONS, "CREATE TABLE more (a);\n")
    for module in ("schema", "database"):
        monkeypatch.setattr(f"langedit.workspace.{module}.VERSION", len(later))
    monkeypatch.setattr("langedit.workspace.schema.migrate.__defaults__", (later,))
    with pytest.raises(WorkspaceError, match="langedit apply or undo updates it"):
        Ledger.open(tmp_path)
    Ledger.open(tmp_path, write=True).close()
    Ledger.open(tmp_path).close()


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    Ledger.create(tmp_path, {"model": {}}, [], FileOperations()).close()
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    for write in (False, True):
        with pytest.raises(WorkspaceError, match="install a newer langedit"):
            Ledger.open(tmp_path, write=write)


def test_commits_are_durable(tmp_path):
    with Ledger.create(tmp_path, {}, [], FileOperations()) as ledger:
        ask = ledger._connection.execute
        assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ask("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert ask("PRAGMA foreign_keys").fetchone() == (1,)
