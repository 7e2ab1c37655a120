"""One writer, any number of readers; a lock ends with its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from workspaces import FACTS, apply, new_workspace

from langedit.errors import WorkspaceError
from langedit.workspace import Ledger, Workspace
from langedit.workspace.lock import LOCK, Owner, read_owner, writer_lock


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return new_workspace(tmp_path_factory.mktemp("lock"))


HOLD = """
import sys, time
from pathlib import Path
from langedit.workspace.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_and_told_who_writes_and_a_killed_one_is_stale(folder):
    with holder(folder) as process:
        with (
            pytest.raises(WorkspaceError, match=rf"process {process.pid}, for \d+ s writes; wait"),
            Workspace.open(folder, write=True),
        ):
            pytest.fail("there are two writers")
        owner = read_owner(folder)
        assert owner is not None
        assert owner.pid == process.pid
        with Ledger.open(folder) as ledger:
            assert ledger.count() == 0, "a reader is not kept out"
        process.kill()
    assert read_owner(folder) is not None, "the dead process left its name"
    with writer_lock(folder) as stale:
        assert stale is not None
        assert stale.pid == process.pid
        assert read_owner(folder).pid == os.getpid()
    assert read_owner(folder) is None


def test_two_writers_of_one_process(folder):
    with (
        writer_lock(folder),
        pytest.raises(WorkspaceError, match=f"process {os.getpid()}"),
        writer_lock(folder),
    ):
        pytest.fail("there are two writers")


def test_the_lock_of_another_machine_needs_a_word(folder):
    elsewhere = Owner(user="ann", host="far-away", pid=1, since="2026-01-01T00:00:00+00:00")
    (folder / LOCK).write_text(json.dumps(elsewhere.__dict__))
    with (
        pytest.raises(
            WorkspaceError, match=r"ann@far-away, process 1, for \d+ h writes.*take-over"
        ),
        writer_lock(folder),
    ):
        pytest.fail("took it")
    with writer_lock(folder, take_over=True) as stale:
        assert stale == elsewhere


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"user": 1}', "\x00" * 50, '{"a":' * 2000])
def test_a_lock_with_rubbish_in_it_is_nobodys(folder, text):
    (folder / LOCK).write_text(text)
    assert read_owner(folder) is None
    with writer_lock(folder) as stale:
        assert stale is None


def test_a_lock_that_is_a_link_is_not_followed(folder, tmp_path):
    (tmp_path / "victim").write_text("mine")
    (folder / LOCK).unlink(missing_ok=True)
    (folder / LOCK).symlink_to(tmp_path / "victim")
    with (
        pytest.raises(WorkspaceError, match="expected to write the lock file"),
        writer_lock(folder),
    ):
        pytest.fail("followed it")
    assert (tmp_path / "victim").read_text() == "mine"
    (folder / LOCK).unlink()


def test_readers_see_whole_batches_while_a_writer_writes(tmp_path):
    folder = new_workspace(tmp_path)
    seen, done = [], threading.Event()

    def read() -> None:
        with Ledger.open(folder) as ledger:
            while not done.is_set():
                for event in ledger.events():
                    assert len(ledger.facts(event.number)) == event.summary.facts
                    assert ledger.figures(event.number)["software"]
                seen.append(ledger.count())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        apply(folder, FACTS[:3])
    finally:
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert seen[-1] >= 2
