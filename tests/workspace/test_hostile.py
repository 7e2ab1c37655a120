"""Workspaces and files of facts made to do harm, or made at random: refused, no traceback."""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import FACTS, apply, model, new_workspace, without_triggers

from langedit.cli.plain_text import shown
from langedit.cli.show_ledger import show_event, show_log
from langedit.cli.show_workspace import show_status
from langedit.errors import LangEditError, WorkspaceError
from langedit.facts import read_facts
from langedit.workspace import Ledger, Workspace
from langedit.workspace.queries import difference, status_of
from langedit.workspace.verify import verify


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    folder = new_workspace(tmp_path_factory.mktemp("hostile"))
    apply(folder, FACTS[:3])
    return folder


@pytest.fixture
def folder(origin, tmp_path):
    return Path(shutil.copytree(origin, tmp_path / "ws"))


def tamper(folder: Path, *statements: str) -> None:
    """Run statements on a ledger."""
    with without_triggers(folder / "ledger.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)


def read_everything(folder: Path) -> None:
    """What log, status, show, diff, find and verify read."""
    with Ledger.open(folder) as ledger:
        events, history = ledger.events(), ledger.history()
        standing = history.standing()
        with redirect_stdout(io.StringIO()):
            show_status(status_of(ledger), None, ledger.creation_profile(), as_json=False)
            show_log(events, len(events), history, ledger.profile, as_json=False)
            for event in events:
                facts, figures = ledger.facts(event.number), ledger.figures(event.number)
                show_event(event, facts, figures, standing, as_json=False)
        ledger.find("a")
        difference(ledger, 0, len(events))
        ledger.jobs("a")
    with Workspace.open(folder) as workspace:
        workspace.moment_files()
        workspace.reports(workspace.ledger.history().standing())
    verify(folder)


def test_a_row_that_names_a_file_elsewhere_reads_nothing(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    away = "../../secret" + 52 * "0"
    tamper(
        folder,
        f"UPDATE artefact SET sha256 = '{away}' WHERE sha256 = "
        "(SELECT artefact FROM event WHERE number = 1)",
        f"UPDATE event SET artefact = '{away}' WHERE number = 1",
    )
    (problem,) = verify(folder).problems
    assert "expected 64 hexadecimal digits as its name, got '../../secret0" in problem
    with Workspace.open(folder) as workspace, pytest.raises(WorkspaceError):
        workspace.load_editor(model())


def test_a_link_out_of_the_workspace_is_not_followed(folder, tmp_path):
    with Ledger.open(folder) as ledger:
        (path,) = folder.rglob(f"{ledger.event(1).artefact}.safetensors")
    away = tmp_path / "away"
    path.rename(away)
    path.symlink_to(away)
    (problem,) = [p for p in verify(folder).problems if path.name in p]
    assert "a link" in problem
    path.unlink()
    away.rename(path)
    assert verify(folder).problems == ()
    shutil.move(folder / "artefacts", tmp_path / "elsewhere")
    (folder / "artefacts").symlink_to(tmp_path / "elsewhere")
    assert "a link" in verify(folder).problems[0]
    assert (tmp_path / "elsewhere").is_dir()


def test_a_ledger_that_is_a_link_is_not_followed(folder, tmp_path):
    shutil.move(folder / "ledger.sqlite", tmp_path / "other.sqlite")
    (folder / "ledger.sqlite").symlink_to(tmp_path / "other.sqlite")
    with pytest.raises(WorkspaceError, match="expected the ledger"):
        Ledger.open(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON event BEGIN DELETE FROM fact; END",
        "CREATE VIEW evil AS SELECT * FROM fact",
        "CREATE TABLE evil (a)",
        "DROP INDEX fact_text",
        "PRAGMA user_version = 99",
    ],
)
def test_tables_and_triggers_that_a_ledger_does_not_have(folder, statement):
    tamper(folder, statement)
    with pytest.raises(WorkspaceError, match="ledger"):
        Ledger.open(folder)


@pytest.mark.parametrize("table", ["event", "fact", "detail", "artefact", "job"])
def test_history_is_never_rewritten(folder, table):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    column = {"artefact": "bytes", "detail": "figures", "fact": "record"}.get(table, "created")
    with pytest.raises(sqlite3.IntegrityError, match="history is never rewritten"):
        connection.execute(f"UPDATE {table} SET {column} = {column}")
    with pytest.raises(sqlite3.IntegrityError, match="history is never rewritten"):
        connection.execute(f"DELETE FROM {table}")
    connection.close()


def test_sql_in_a_fact_is_text(folder):
    subject = "Robert'); DROP TABLE fact; --"
    apply(folder, [replace(FACTS[0], subject=subject, target="'; DELETE FROM event; --")])
    with Ledger.open(folder) as ledger:
        (row,) = ledger.find("'); DROP TABLE")
        assert row.fact.subject == subject
        assert ledger.count() == 4
        assert ledger.find("%") == []
    assert verify(folder, model()).problems == ()


def test_an_artefact_of_another_model_in_the_right_place_is_refused(folder, tmp_path):
    (tmp_path / "other").mkdir()
    other = new_workspace(tmp_path / "other", value_steps=1)
    apply(other, FACTS[:1])
    with Ledger.open(other) as ledger:
        foreign = ledger.event(1).artefact
    with Ledger.open(folder) as ledger:
        own = ledger.event(1).artefact
    paths = [
        root / "artefacts" / sha[:2] / f"{sha}.safetensors"
        for root, sha in ((other, foreign), (folder, own))
    ]
    shutil.copy(*paths)
    assert "was altered" in verify(folder).problems[0]
    with Workspace.open(folder) as workspace, pytest.raises(WorkspaceError, match="was altered"):
        workspace.load_editor(model())


def test_a_damaged_weight_hash_is_found_by_summing_again(folder):
    tamper(folder, f"UPDATE event SET weights_after = '{'0' * 64}' WHERE number = 3")
    assert verify(folder).problems == (), "files and rows agree"
    (problem,) = verify(folder, model()).problems
    assert "event 3: expected its weights to come out bit for bit" in problem


def test_events_that_do_not_follow_one_another(folder):
    tamper(folder, f"UPDATE event SET weights_after = '{'0' * 64}' WHERE number = 1")
    assert "event 2 begins with other weights" in verify(folder).problems[0]
    tamper(folder, "UPDATE event SET removed = '[7]', kind = 'undo' WHERE number = 3")
    with Ledger.open(folder) as ledger, pytest.raises(WorkspaceError, match="not there"):
        ledger.history()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
COLUMNS = [
    ("event", "removed"), ("event", "superseded"), ("event", "summary"), ("event", "artefact"),
    ("event", "replays"), ("event", "place"), ("fact", "record"), ("fact", "efficacy"),
    ("detail", "figures"), ("meta", "value"), ("job", "taken"), ("artefact", "bytes"),
]  # fmt: skip


class Damage:
    """Copies of one ledger with a value, or some bytes, put in at random."""

    def __init__(self, origin: Path, folder: Path) -> None:
        self.folder = folder
        with Ledger.open(origin) as ledger:
            ledger.copy_to(folder.with_name("clean.sqlite"))
        self.clean = folder.with_name("clean.sqlite").read_bytes()
        shutil.copytree(origin, folder)
        for path in folder.glob("ledger.sqlite-*"):
            path.unlink()

    def write(self, content: bytes) -> None:
        for path in self.folder.glob("ledger.sqlite-*"):
            path.unlink()
        (self.folder / "ledger.sqlite").write_bytes(content)

    def value(self, table: str, column: str, value: object, row: int) -> None:
        self.write(self.clean)
        sql = (
            f"UPDATE {table} SET {column} = ? WHERE rowid = "
            f"(SELECT rowid FROM {table} LIMIT 1 OFFSET ? % (SELECT count(*) FROM {table}))"
        )
        with (
            without_triggers(self.folder / "ledger.sqlite") as connection,
            suppress(sqlite3.Error, OverflowError, UnicodeEncodeError),
        ):
            connection.execute(sql, (value, row))  # but for values that the column does not take

    def bytes(self, seed: int) -> None:
        content = bytearray(self.clean)
        rng = random.Random(seed)
        for _ in range(rng.randrange(1, 6)):
            place, size = rng.randrange(len(content)), rng.randrange(1, 40)
            content[place : place + size] = rng.randbytes(size)
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        self.write(bytes(content))

    def read(self) -> None:
        with suppress(LangEditError):
            read_everything(self.folder)


@pytest.fixture(scope="module")
def damage(origin, tmp_path_factory) -> Damage:
    return Damage(origin, tmp_path_factory.mktemp("damage") / "ws")


def test_the_readers_read_the_undamaged_ledger(damage):
    damage.write(damage.clean)
    read_everything(damage.folder)


def random_values(damage: Damage, examples: int) -> None:
    @settings(max_examples=examples, database=None)
    @given(
        st.sampled_from(COLUMNS),
        JSON_VALUES | st.binary(max_size=9),
        st.booleans(),
        st.integers(0, 50),
    )
    def run(column, value, raw, row):
        if not raw and not isinstance(value, bytes):
            value = json.dumps(value)
        if isinstance(value, list | dict | bool):
            value = repr(value)
        damage.value(*column, value, row)
        damage.read()

    run()


def random_bytes(damage: Damage, examples: int) -> None:
    @settings(max_examples=examples, database=None)
    @given(st.integers(0, 2**40))
    def run(seed):
        damage.bytes(seed)
        damage.read()

    run()


def random_facts(folder: Path, examples: int) -> None:
    keys = st.sampled_from(
        ["language", "prompt", "subject", "target", "paraphrases", "neighbourhood", "id", "x"]
    )
    texts = st.sampled_from(
        ["en", "zh", "{}", "a {} b", "", " ", "\x00", "\ud7ff", "{}{}", "\x1b["]
    )
    row = st.dictionaries(keys, texts | JSON_VALUES, max_size=8).map(
        lambda value: json.dumps(value).encode()
    )
    line = row | st.binary(max_size=30)
    table = st.lists(st.lists(texts | st.text(max_size=5), max_size=5), max_size=4).map(
        lambda rows: "\n".join(",".join(cells) for cells in rows).encode("utf-8", "replace")
    )

    @settings(max_examples=examples, database=None)
    @given(
        st.lists(line, max_size=5).map(lambda lines: (".jsonl", b"\n".join(lines)))
        | (table | st.binary(max_size=60)).map(lambda content: (".csv", content)),
        st.booleans(),
    )
    def run(file, strict):
        suffix, content = file
        path = folder / f"facts{suffix}"
        path.write_bytes(content)
        with suppress(LangEditError):
            read_facts(path, strict=strict)

    run()


def test_random_values_in_a_ledger(damage):
    random_values(damage, 60)


def test_random_bytes_in_a_ledger(damage):
    random_bytes(damage, 60)


def test_random_files_of_facts(tmp_path):
    random_facts(tmp_path, 200)


@pytest.mark.parametrize("name", ["model", "config", "guards", "moments"])
def test_what_was_said_at_the_beginning(folder, name):
    for value in ("null", "[]", "7", '"a"', '{"a": null}', "{"):
        tamper(folder, f"UPDATE meta SET value = '{value}' WHERE name = '{name}'")
        with pytest.raises(LangEditError), Workspace.open(folder) as workspace:
            workspace.moment_files()
        with suppress(LangEditError):
            read_everything(folder)


@pytest.mark.slow
def test_ten_thousand_random_files_and_ledgers(damage, tmp_path):
    random_facts(tmp_path, 5000)
    random_values(damage, 2500)
    random_bytes(damage, 2500)


def test_what_no_terminal_should_get_is_escaped():
    assert shown("Zoë [bold]\x1b[31m\x07\u202e法国\n") == "Zoë [bold]\\x1b[31m\\x07\\u202e法国\\n"
