"""What processes tell each other, as JSON from process 0: `python together.py OUTPUT`.

Then the last process stops for good, and the others say what they make of that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from langedit.errors import FactError, ProcessError
from langedit.parallel import Processes, join_processes


def raised(work: Callable[[], object]) -> list[object]:
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "everywhere", None)]
    return ["nothing"]


def fail(processes: Processes, rank: int, error: Exception) -> object:
    if processes.rank == rank:
        raise error
    return processes.rank


def facts_of(processes: Processes) -> dict[str, object]:
    rank = processes.rank
    view = torch.arange(12.0).reshape(3, 4)[:, 1]
    told = processes.first(lambda: (rank, view, torch.zeros(0, 2), view.bfloat16()[0]))
    return {
        "rank": rank,
        "told": [told[0], told[1].tolist(), list(told[2].shape), str(told[3].dtype)],
        "spread": processes.spread(range(7), lambda own: [(item, rank) for item in own]),
        "few": processes.spread([5], lambda own: [item * 2 for item in own]),
        "only first": processes.only_first(lambda: "here"),
        "together": processes.together(lambda: rank),
        "sum": processes.sum(torch.tensor([[2.0**53, 1.0][min(rank, 1)]]).double()).tolist(),
        "place": [processes.place(name) for name in ("cuda", "auto", "cuda:7", None)],
        "error of one": raised(
            lambda: processes.together(lambda: fail(processes, 1, FactError("no fact")))
        ),
        "unexpected error": raised(
            lambda: processes.spread(
                range(3), lambda own: [fail(processes, 2, ZeroDivisionError("by 0"))]
            )
        ),
        "error of the first": raised(
            lambda: processes.first(lambda: fail(processes, 0, FactError("none")))
        ),
        "same": raised(lambda: processes.agree("thing", (1, "a"))),
        "other": raised(lambda: processes.agree("thing", rank == 2)),
        "still together": processes.together(lambda: True),
    }


if __name__ == "__main__":
    with join_processes() as everyone:
        mine = facts_of(everyone)
        found = everyone.spread(range(everyone.count), lambda _: [mine])
        if everyone.is_first:
            Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
        if everyone.rank == everyone.count - 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            everyone.together(lambda: None)
        except ProcessError as error:
            print(error, flush=True)
    assert not torch.distributed.is_initialized()
    os._exit(3)
