"""All benchmarks, or some: `python -m benchmarks --only end-to-end,linalg`.

Every part writes `benchmarks/results/<part>.json` when it is done, and a part whose file is there
is not run again unless it is named with `--again`. From the files that are there the page
docs/performance.md and its figures are written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import end_to_end, methods, streams, targets
from benchmarks.page import write_page
from langedit.errors import LangEditError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the benchmarks.

    Attributes:
        minutes: that it takes on two idle cores.
        run: measures, given a folder for what it makes only once.
        quick: the same on small sizes, to see that it works.
    """

    minutes: float
    run: Callable[[Path], dict[str, Any]]
    quick: Callable[[Path], dict[str, Any]] | None = None


def _on_one_thread(run: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """The same with one thread, whatever `--threads` says."""

    def single(folder: Path) -> dict[str, Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(folder)
        finally:
            torch.set_num_threads(threads)

    return single


_QUICK = partial(end_to_end.run, batches=2, facts=2, texts=12)

PARTS: dict[str, Part] = {
    "end-to-end": Part(
        minutes=4.5,
        run=end_to_end.run,
        quick=_QUICK,
    ),
    "one-thread": Part(
        minutes=7,
        run=_on_one_thread(end_to_end.run),
        quick=_on_one_thread(_QUICK),
    ),
    "linalg": Part(
        minutes=5.5,
        run=streams.run_stream,
        quick=partial(streams.run_stream, d_in=256, d_out=64, facts=10, batches=4),
    ),
    "methods": Part(
        minutes=2,
        run=methods.run,
        quick=partial(methods.run, d_in=256, d_out=64, facts=10, batches=4),
    ),
    "edits": Part(
        minutes=3,
        run=streams.run_edits,
        quick=partial(streams.run_edits, d_in=512, facts=10, counts=(0, 100, 200)),
    ),
    "widths": Part(
        minutes=4,
        run=streams.run_widths,
        quick=partial(streams.run_widths, facts=10, widths=(128, 256)),
    ),
    "sizes": Part(
        minutes=2.5,
        run=streams.run_sizes,
        quick=partial(streams.run_sizes, d_in=256, sizes=(1, 50, 100)),
    ),
    "targets": Part(minutes=1, run=targets.run, quick=partial(targets.run, sizes=(1, 2))),
}


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, part by part; a part that fails does not stop the others."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    results: Path = options.results / "quick" if options.quick else options.results
    docs: Path = results if options.quick else options.docs
    results.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise SystemExit(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    failed, load = [], warn_if_busy(options.threads)
    for name in [] if options.page else wanted:
        part = PARTS[name]
        file = results / f"{name}.json"
        if file.is_file() and not options.again:
            print(f"{name}: done before, see {file}")
            continue
        print(f"{name}: about {part.minutes:g} minutes on two idle cores", flush=True)
        torch.manual_seed(0)
        begun = perf_counter()
        try:
            found = ((options.quick and part.quick) or part.run)(options.results / "world")
        except LangEditError as error:
            failed.append(f"{name}: {error}")
            print(failed[-1], file=sys.stderr, flush=True)
            continue
        threads = found.get("threads", options.threads)
        found |= {"machine": machine(load, threads), "minutes": (perf_counter() - begun) / 60}
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_page(results, docs)
    print(f"{docs / 'performance.md'}")
    if failed:
        raise SystemExit("\n".join(failed))


def warn_if_busy(threads: int) -> float | None:
    """The load average before anything runs, where it is known; warns where cores are missing."""
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load + threads > cores + 0.5:
        print(
            f"warning: load average {load:.1f}, {cores} cores: expected {threads} idle ones; "
            "waiting threads can make times several times longer. Stop other programs, or use "
            "fewer --threads",
            file=sys.stderr,
        )
    return load


def machine(load: float | None, threads: int) -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": load,
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ", ".join(f"{name} ({part.minutes:g} min)" for name, part in PARTS.items())
    parser.add_argument("--only", help=f"parts, separated by commas: {parts}")
    parser.add_argument("--again", action="store_true", help="run parts that are done again")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, to see that all works; kept in a folder of its own",
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    return parser


if __name__ == "__main__":
    main()
