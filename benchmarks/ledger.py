"""How long `log`, `status` and `find` take on a ledger of many batches.

    python benchmarks/ledger.py --batches 10000 --facts 10

Makes a ledger with made-up batches (rows only, no tensors) in a temporary folder, and runs the
commands as a user would, each in a process of its own, and as functions in this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from langedit.facts import Fact
from langedit.workspace.ledger import Draft, Ledger
from langedit.workspace.operations import FileOperations
from langedit.workspace.queries import status_of
from langedit.workspace.rows import FactRow, Summary

LANGUAGES = ("en", "de", "nl", "es", "fr", "zh")
META = {
    "model": {
        "source": "made-up", "revision": None, "dtype": "auto", "device_map": None,
        "base": "0" * 64, "weights": "0" * 64, "state": "0" * 64,
    },
    "config": {"method": "langedit", "layers": [4, 5, 6, 7, 8]},
    "moments": {},
    "guards": {"settings": {}, "texts": [], "perplexity": None},
}  # fmt: skip


def make(folder: Path, batches: int, facts: int) -> None:
    """A ledger of batches of one language each; one in a thousand is taken back."""
    drafts = [draft(number, facts) for number in range(batches)]
    with Ledger.create(folder, META, [], FileOperations()) as ledger:
        for start in range(0, batches, 1000):
            ledger.append(drafts[start : start + 1000])
            ledger.append([undo(start + start // 1000 + 1)])


def draft(number: int, facts: int) -> Draft:
    language = LANGUAGES[number % len(LANGUAGES)]
    rows = tuple(
        FactRow(
            event=0,
            position=i,
            fact=Fact(
                language, "The capital of {} is", f"Subject {number}-{i}", f"Target {i}",
                paraphrases=("In {}, the capital is",), id=f"{number}/{i}",
            ),
            efficacy=0.9,
        )
        for i in range(facts)
    )  # fmt: skip
    summary = Summary(
        facts=facts, languages={language: facts}, efficacy=0.9, retention=0.99,
        independence_max=1e-8, update_ratio=1e-3, seconds=1.0,
        rank_left={str(layer): 14336 - number for layer in range(4, 9)},
    )  # fmt: skip
    return Draft(
        kind="batch", weights_before="0" * 64, weights_after=f"{number:064x}",
        state_after=f"{number:064x}", summary=summary, facts=rows,
        figures={"report": {"facts": [{"name": f"{number}/{i}"} for i in range(facts)]}},
    )  # fmt: skip


def undo(batch: int) -> Draft:
    summary = Summary(facts=1, languages={}, rank_left={}, how="removal")
    return Draft(
        kind="undo", weights_before="0" * 64, weights_after="1" * 64, state_after="1" * 64,
        summary=summary, removed=(batch,), figures={},
    )  # fmt: skip


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds, the best of three."""
    found = []
    for _ in range(3):
        before = time.perf_counter(), sum(os.times()[:4])
        run()
        found.append((time.perf_counter() - before[0], sum(os.times()[:4]) - before[1]))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--facts", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, asked.batches, asked.facts)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{asked.batches} batches of {asked.facts} facts, {size:.0f} MB")
        subject = f"ject {asked.batches // 2}-1"
        for command in (["log"], ["log", "--last", "0", "--json"], ["status"], ["find", subject]):
            code = "from langedit.cli.main import main; main()"
            words = [sys.executable, "-c", code, command[0], str(folder), *command[1:]]
            wall, cpu = timed(lambda words=words: subprocess.run(words, check=True, stdout=-3))
            print(f"langedit {' '.join(command)}: {wall:.2f} s, processor {cpu:.2f} s")
        with Ledger.open(folder) as ledger:
            for label, run in (
                ("log", lambda: ledger.events(last=30)),
                ("history", ledger.history),
                ("status", lambda: status_of(ledger)),
                ("find", lambda: ledger.find(subject)),
            ):
                print(f"{label}: {timed(run)[0]:.3f} s")


if __name__ == "__main__":
    main()
