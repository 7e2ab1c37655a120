"""Start a script of tests/jobs in several processes, as a launcher does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import langedit

JOBS = Path(__file__).parent / "jobs"
PATHS = (str(Path(langedit.__file__).parents[1]), str(Path(__file__).parent))
LIMIT = 600
"""Seconds after which a run counts as hung."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """That of this process with the paths of tests and sources, and one thread."""
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return own | {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"} | more


def torchrun(*command: str | Path, count: int = 2, **more: str) -> Ended:
    """Run a script, or `-m` and a module, under torch's launcher on this machine."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    with subprocess.Popen(
        [sys.executable, *launcher, *map(str, command)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        (ended,) = _wait([process])
    return ended


def side_by_side(*command: str | Path, count: int = 2, **more: str) -> list[Ended]:
    """Run a command as processes that nobody watches, as on several machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return _wait(
        [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank), **more),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank in range(count)
        ]
    )


def _wait(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for all but those that were stopped; these are killed after the others have ended."""
    ended: dict[int, Ended] = {}
    try:
        for index, process in enumerate(processes):
            if not _stopped(process):
                out, err = process.communicate(timeout=LIMIT)
                ended[index] = Ended(process.returncode, out, err)
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for index, process in enumerate(processes):
        if index not in ended:
            out, err = process.communicate()
            ended[index] = Ended(process.returncode, out, err)
    return [ended[index] for index in range(len(processes))]


def _stopped(process: subprocess.Popen[str]) -> bool:
    """Whether the process stands still (state T); processes that do so are waited for last."""
    stat = Path(f"/proc/{process.pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "T"
