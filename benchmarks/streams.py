"""Linear algebra alone, with simulated keys: a stream of batches, and how its cost grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import DenseLayer
from benchmarks.world import SimulatedKeys
from langedit.linalg import (
    LowRankUpdate,
    NullSpaceProjector,
    Spectrum,
    null_fraction,
    projected_update,
)

RIDGE, TOLERANCE = 0.1, 1e-6


def run_stream(
    _folder: Path, *, d_in: int = 4096, d_out: int = 1024, facts: int = 100, batches: int = 20
) -> dict[str, Any]:
    """The whole stream both ways on the same keys, one layer."""
    keys = SimulatedKeys(d_in)
    moment = keys.moment()
    begun = perf_counter()
    moment = moment.with_spectrum(Spectrum.of(moment.mean))
    decomposed = perf_counter() - begun
    projector = NullSpaceProjector.from_moment(moment, null_share=0.6)
    stream = [(keys.draw(facts), torch.randn(facts, d_out)) for _ in range(batches)]
    dense = DenseLayer(
        moment=moment, threshold=float(projector.threshold or 0), ridge=RIDGE, tolerance=1e-5
    )
    ours, theirs, distances, held = [], [], [], []
    for number, (rows, residuals) in enumerate(stream):
        begun = perf_counter()
        update = _step(projector, rows, residuals)
        null_fraction(projector, rows)
        projector = projector.extend(rows, TOLERANCE)
        ours.append(perf_counter() - begun)
        begun = perf_counter()
        dense.refresh()
        other = dense.solve(rows, residuals)
        dense.remember(rows)
        theirs.append(perf_counter() - begun)
        distances.append(float((update.dense() - other).norm() / other.norm()))
        history = (number + 1) * rows.numel() * rows.element_size()
        own = projector.basis.untyped_storage().nbytes() + history  # with the room to grow
        held.append({"edits": (number + 1) * facts, "langedit": own, "dense": dense.held_bytes})
        print(f"  batch {number + 1}: {ours[-1]:.2f} s against {theirs[-1]:.1f} s", flush=True)
    return {
        "d_in": d_in,
        "facts": facts,
        "batches": batches,
        "threads": torch.get_num_threads(),
        "decomposition_seconds": decomposed,
        "langedit_seconds": ours,
        "baseline_seconds": theirs,
        "ratio": sum(theirs) / sum(ours),
        "ratio_with_decomposition": sum(theirs) / (sum(ours) + decomposed),
        "last_to_second": ours[-1] / ours[1],
        "largest_difference": max(distances),
        "held_bytes": held,
    }


def run_edits(_folder: Path, *, d_in: int = 12288, facts: int = 100) -> dict[str, Any]:
    """Seconds of one batch after 0 to 10,000 edits."""
    keys, residuals = SimulatedKeys(d_in), torch.randn(facts, d_in // 4)
    start = d_in // 8
    counts, seconds = (0, 1000, 2000, 4000, 6000, 8000, 10000), []
    for count in counts:
        projector, rows = keys.projector(start + count), keys.draw(facts)
        seconds.append(_least(lambda p=projector, r=rows: _batch(p, r, residuals)))
        print(f"  {count} edits: {seconds[-1]:.2f} s", flush=True)
    ranks = [start + count for count in counts]
    return {
        "d_in": d_in,
        "facts": facts,
        "corpus_rank": start,
        "edits": counts,
        "seconds": seconds,
        "exponent": exponent(ranks, seconds),
    }


def run_widths(_folder: Path, *, facts: int = 100) -> dict[str, Any]:
    """Seconds of one batch at widths of 1k to 16k, half of the directions forbidden."""
    widths, seconds = (1024, 2048, 4096, 8192, 16384), []
    for d_in in widths:
        keys = SimulatedKeys(d_in)
        projector, rows = keys.projector(d_in // 2), keys.draw(facts)
        residuals = torch.randn(facts, 1024)
        seconds.append(_least(lambda p=projector, r=rows, t=residuals: _batch(p, r, t)))
        print(f"  width {d_in}: {seconds[-1]:.3f} s", flush=True)
    decompositions, dense = {}, {}
    for d_in in (1024, 2048, 4096):
        keys = SimulatedKeys(d_in)
        moment = keys.moment(1)
        decompositions[d_in] = _least(lambda m=moment: Spectrum.of(m.mean), times=1)
        layer = DenseLayer(moment=moment, threshold=1e-3, ridge=RIDGE)
        layer.remember(keys.draw(facts))
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)

        def step(own: DenseLayer = layer, r: Tensor = rows, t: Tensor = residuals) -> None:
            own.refresh()
            own.solve(r, t)

        dense[d_in] = _least(step, times=1)
    return {
        "facts": facts,
        "d_in": widths,
        "seconds": seconds,
        "exponent": exponent(widths, seconds),
        "decomposition_seconds": decompositions,
        "decomposition_exponent": exponent(list(decompositions), list(decompositions.values())),
        "baseline_seconds": dense,
        "baseline_exponent": exponent(list(dense), list(dense.values())),
    }


def run_sizes(_folder: Path, *, d_in: int = 4096) -> dict[str, Any]:
    """Seconds of one batch of 1 to 800 facts, half of the directions forbidden."""
    keys = SimulatedKeys(d_in)
    projector = keys.projector(d_in // 2)
    sizes, seconds = (1, 10, 25, 50, 100, 200, 400, 800), []
    for facts in sizes:
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)
        seconds.append(_least(lambda r=rows, t=residuals: _batch(projector, r, t)))
    large = [(n, s) for n, s in zip(sizes, seconds, strict=True) if n >= 50]
    return {
        "d_in": d_in,
        "facts": sizes,
        "seconds": seconds,
        "exponent": exponent(*zip(*large, strict=True)),
    }


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the line through the logarithms, by least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _step(projector: NullSpaceProjector, rows: Tensor, residuals: Tensor) -> LowRankUpdate:
    update = projected_update(projector, rows, residuals, ridge=RIDGE)
    return update.to(dtype=torch.float32)


def _batch(projector: NullSpaceProjector, rows: Tensor, residuals: Tensor) -> None:
    """All that a batch asks of one layer."""
    _step(projector, rows, residuals)
    null_fraction(projector, rows)
    projector.extend(rows, TOLERANCE)


def _least(step: Callable[[], object], times: int = 3) -> float:
    """Least time of some runs: others are waits for other programs."""
    found = []
    for _ in range(times):
        begun = perf_counter()
        step()
        found.append(perf_counter() - begun)
    return min(found)
