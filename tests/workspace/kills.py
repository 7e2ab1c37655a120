"""Helper of `test_kill`: edits into a workspace in child processes, and kills them at random.

Run as a script with a workspace, the finished workspace's weights hash and a number of kills.
Everything is imported once; each child is a fork of this process and opens the workspace afresh.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)
from workspaces import FACTS, apply, model, weights  # noqa: E402

from langedit.workspace import Ledger  # noqa: E402
from langedit.workspace.verify import verify  # noqa: E402


def run(folder: Path) -> None:
    apply(folder, FACTS, batch_size=1)


def child(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        run(folder)
        os._exit(0)
    return pid


def main(folder: Path, kills: int) -> None:
    random.seed(0)
    finished = Path(shutil.copytree(folder, folder.with_name("finished")))
    begun = time.perf_counter()
    assert os.waitpid(child(finished), 0)[1] == 0
    whole = time.perf_counter() - begun
    wanted = weights(finished)
    killed = 0
    for attempt in range(4 * kills):
        work = Path(shutil.copytree(folder, folder.with_name(f"work-{attempt}")))
        rounds = 0
        while killed < kills:
            pid = child(work)
            time.sleep(random.uniform(0, whole))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status):
                break  # it was done before the signal came
            killed += 1
            rounds += 1
            found = verify(work)
            assert found.problems == (), found
        os.waitpid(child(work), 0)
        assert weights(work) == wanted, f"after {rounds} kills"
        assert verify(work, model()).problems == ()
        with Ledger.open(work) as ledger:
            assert ledger.count() == len(FACTS)
        if killed >= kills:
            break
    print(f"{killed} kills, {attempt + 1} runs, same weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
