"""Seconds of the target optimisation by number of facts optimised together."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.streams import exponent
from benchmarks.world import World
from langedit.demo.bundled import load_bundled
from langedit.editing import optimise_targets


def run(folder: Path) -> dict[str, Any]:
    """The bundled model's facts, in groups of one language; 10 evaluations, none stops early."""
    world, model = World.load(folder), load_bundled()
    config = world.config.replace(value_steps=10, stop_loss=0.0)
    requests = world.requests(model, [fact for batch in world.batches for fact in batch])
    optimise_targets(model, requests[:2], config)
    sizes, seconds = (1, 5, 10, 25, 50, 100), []
    for size in sizes:
        begun = perf_counter()
        optimise_targets(model, requests[:size], config)
        seconds.append(perf_counter() - begun)
        print(f"  {size} facts: {seconds[-1]:.2f} s", flush=True)
    return {"facts": sizes, "seconds": seconds, "exponent": exponent(sizes, seconds)}
