"""Locks: one holder at a time, across processes, and holders that are gone do not block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from langedit.compare import locks
from langedit.compare.locks import is_locked, try_lock, wait_for_lock
from langedit.errors import OutputError


def test_a_lock_is_held_once_and_then_free(tmp_path):
    path = tmp_path / "new" / "cell.lock"
    with try_lock(path) as first:
        assert first
        assert is_locked(path)
        with try_lock(path) as second:
            assert not second
        assert path.exists()
    assert not path.exists()
    with try_lock(path) as again:
        assert again


def test_a_lock_is_freed_by_an_exception(tmp_path):
    path = tmp_path / "cell.lock"
    with pytest.raises(RuntimeError), try_lock(path):
        raise RuntimeError
    assert not path.exists()


def test_the_lock_of_another_living_process_blocks_and_that_of_a_killed_one_does_not(tmp_path):
    path = tmp_path / "cell.lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom langedit.compare.locks import try_lock\n"
        "with try_lock(Path(sys.argv[1])) as held:\n"
        "    print(held, flush=True)\n    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        with try_lock(path) as held:
            assert not held
        other.kill()
    assert path.exists()  # it had no time to tidy up
    assert not is_locked(path)
    with try_lock(path) as held:
        assert held
    assert list(tmp_path.iterdir()) == []


def stale_lock(path, **changes):
    holder = {"host": "elsewhere", "pid": 1, "started": "1", "token": "x", **changes}
    path.write_text(json.dumps(holder), encoding="utf-8")


def test_a_lock_of_another_machine_is_stale_when_it_was_not_touched_for_long(tmp_path):
    path = tmp_path / "cell.lock"
    stale_lock(path)
    with try_lock(path) as held:
        assert not held
    old = time.time() - locks.STALE - 5
    os.utime(path, (old, old))
    with try_lock(path) as held:
        assert held


def test_a_process_number_used_again_is_not_mistaken(tmp_path):
    import socket

    path = tmp_path / "cell.lock"
    stale_lock(path, host=socket.gethostname(), pid=os.getpid(), started="another time")
    with try_lock(path) as held:
        assert held


def test_a_lock_that_another_process_took_over_is_left_to_it(tmp_path):
    path = tmp_path / "cell.lock"
    with try_lock(path) as held:
        assert held
        stale_lock(path, token="of another")
    assert json.loads(path.read_text())["token"] == "of another"


def test_a_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    path = tmp_path / "cell.lock"
    with try_lock(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_one_of_many_gets_a_stale_lock(tmp_path):
    path = tmp_path / "cell.lock"
    stale_lock(path)
    os.utime(path, (1, 1))
    inside, most = [], []
    guard = threading.Lock()

    def work():
        with try_lock(path) as held:
            if held:
                with guard:
                    inside.append(1)
                    most.append(len(inside))
                time.sleep(0.02)
                with guard:
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most
    assert max(most) == 1


def test_waiting_ends_when_the_lock_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.01)
    path = tmp_path / "cell.lock"
    order = []

    def work():
        with wait_for_lock(path):
            order.append("second")

    with try_lock(path):
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"), try_lock(tmp_path / "file" / "x"):
        pass
