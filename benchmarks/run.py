"""All benchmarks, or some: `python -m benchmarks --only end-to-end,linalg`.

Every part writes `benchmarks/results/<part>.json` when it is done, and a part whose file is there
is not run again unless it is named with `--again`. From the files that are there the page
docs/performance.md and its figures are written.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import end_to_end, streams, targets
from benchmarks.page import write_page

ROOT = Path(__file__).resolve().parent.parent
PARTS: dict[str, tuple[float, Callable[[Path], dict[str, Any]]]] = {
    "end-to-end": (6, end_to_end.run),
    "linalg": (8, streams.run_stream),
    "edits": (3, streams.run_edits),
    "widths": (4, streams.run_widths),
    "sizes": (1, streams.run_sizes),
    "targets": (1, targets.run),
}
"""Part -> minutes that it takes on two idle cores, and what runs it."""


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, part by part."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results: Path = options.results
    results.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise SystemExit(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    for name in [] if options.page else wanted:
        minutes, measure = PARTS[name]
        file = results / f"{name}.json"
        if file.is_file() and not options.again:
            print(f"{name}: done before, see {file}")
            continue
        if options.quick and name == "linalg":
            measure = partial(streams.run_stream, batches=4)
        print(f"{name}: about {minutes:g} minutes on two idle cores", flush=True)
        begun = perf_counter()
        found = measure(results / "world")
        found |= {"machine": machine(), "minutes": (perf_counter() - begun) / 60}
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_page(results, options.docs)
    print(f"{options.docs / 'performance.md'}")


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
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
    parts = ", ".join(f"{name} ({minutes:g} min)" for name, (minutes, _) in PARTS.items())
    parser.add_argument("--only", help=f"parts, separated by commas: {parts}")
    parser.add_argument("--again", action="store_true", help="run parts that are done again")
    parser.add_argument("--quick", action="store_true", help="linalg with 4 batches, not 20")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    return parser


if __name__ == "__main__":
    main()
