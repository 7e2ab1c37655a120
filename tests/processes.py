"""Start a script of tests/jobs in several processes, as a launcher does."""

from __future__ import annotations

import json
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
    return _launched(*launcher, *command, **more)


def accelerate_launch(*command: str | Path, logs: Path, count: int = 2, **more: str) -> Ended:
    """The same under accelerate's launcher, which asks for cards and starts without them, too.

    What each process writes is also in the folder of logs.
    """
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count))
    options = ("--main_process_port", _free_port(), "--tee", "3", "--log_dir", logs)
    return _launched(*launcher, *options, *command, **more)


def _launched(*arguments: str | Path, **more: str) -> Ended:
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        (ended,) = _wait([process])
    return ended


def run_together(commands: list[list[str]], folder: Path) -> list[list[tuple[int, str, str]]]:
    """Code, output and errors of each command in two processes, the first one in the folder.

    The second one is in a folder with nothing in it, and leaves nothing there.
    """
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    places = (folder / "commands.json", folder / "said", folder, elsewhere)
    ended = torchrun(JOBS / "commands.py", *places)
    assert ended.code == 0, ended.err
    assert list(elsewhere.iterdir()) == []
    return [json.loads((folder / f"said-{n}.json").read_text()) for n in (0, 1)]


def side_by_side(*command: str | Path, count: int = 2, **more: str) -> list[Ended]:
    """Run a command as processes that nobody watches, as on several machines."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "WORLD_SIZE": str(count)}
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


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


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
