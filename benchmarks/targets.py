"""Seconds of the target optimisation by number of facts optimised together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.baseline import baseline_target
from benchmarks.streams import exponent
from benchmarks.world import World
from langedit.demo.bundled import load_bundled
from langedit.editing import optimise_targets


def run(folder: Path, *, sizes: Sequence[int] = (1, 5, 10, 25, 50, 100)) -> dict[str, Any]:
    """The bundled model's facts, in groups of one language; 10 evaluations, none stops early."""
    world, model = World.load(folder), load_bundled()
    config = world.config.replace(value_steps=10, stop_loss=0.0)
    requests = world.requests(model, [fact for batch in world.batches for fact in batch])
    optimise_targets(model, requests[:2], config)
    seconds, dense = [], {}
    for size in sizes:
        begun = perf_counter()
        optimise_targets(model, requests[:size], config)
        seconds.append(perf_counter() - begun)
        print(f"  {size} facts: {seconds[-1]:.2f} s", flush=True)
    model.model.requires_grad_(False)
    for size in sizes[:2]:  # one after the other: more of them take as much each
        begun = perf_counter()
        for request in requests[:size]:
            baseline_target(model, request, config)
        dense[size] = perf_counter() - begun
        print(f"  {size} facts: baseline {dense[size]:.2f} s", flush=True)
    return {
        "facts": sizes,
        "seconds": seconds,
        "exponent": exponent(sizes, seconds),
        "baseline_seconds": dense,
        "baseline_exponent": exponent(list(dense), list(dense.values())),
    }
