"""Linear algebra of each closed form over a stream, against dense solves of the same systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import dense_memit, dense_projected
from benchmarks.streams import NULL_SHARE, RIDGE, Asked, Stream, least_seconds, make_method
from benchmarks.world import SimulatedKeys
from langedit.editing.methods import ClosedForm
from langedit.errors import NumericalError
from langedit.linalg import NullSpaceProjector, SecondMoment, Spectrum

MOMENT_WEIGHT = 10.0

METHODS: dict[str, ClosedForm] = {
    "langedit": make_method(),
    "alphaedit": make_method("alphaedit"),
    "memit": make_method("memit", moment_weight=MOMENT_WEIGHT),
    "memit-seq": make_method("memit-seq", moment_weight=MOMENT_WEIGHT),
}

_TOLERANCE = 1e-6
"""Largest relative difference of an update; the dense solve it is compared with is in float64."""


def run(
    _folder: Path, *, d_in: int = 4096, d_out: int = 1024, facts: int = 100, batches: int = 20
) -> dict[str, Any]:
    """Seconds of every batch, and of the last one by a dense solve as in the published codes.

    Methods that weigh past keys go on at half the width, to one and a half times as many edits as
    that is.

    Raises:
        NumericalError: an update of the last batch is not that of the dense solve.
    """
    keys = SimulatedKeys(d_in)
    moment = keys.moment()
    moment = moment.with_spectrum(Spectrum.of(moment.mean))
    drawn = [(keys.draw(facts), torch.randn(facts, d_out)) for _ in range(batches)]
    found = {}
    for name, method in METHODS.items():
        stream = Stream.begin(moment, d_out, method)
        for rows, residuals in drawn:
            update = stream.edit(rows.clone(), residuals)
        own = {"seconds": stream.seconds, "held_bytes": stream.held_bytes()}
        if name != "langedit":  # whose straightforward way is a part of its own
            own |= _compare(name, moment, drawn, update)
        before = stream.earlier
        assert before is not None
        if before.memory is not None:
            forgetful = replace(before, memory=None)
            own["whole_history_seconds"] = least_seconds(
                lambda m=method, s=forgetful: m.solve(s, *(t.clone() for t in drawn[-1]))
            )
        found[name] = own
        print(
            f"  {name}: batch 2 {stream.seconds[1]:.3f} s, "
            f"batch {batches} {stream.seconds[-1]:.3f} s",
            flush=True,
        )
    return {
        "d_in": d_in,
        "d_out": d_out,
        "facts": facts,
        "batches": batches,
        "methods": found,
        "long": _long(d_in // 2, d_out, facts),
    }


def _long(d_in: int, d_out: int, facts: int) -> dict[str, Any]:
    """Seconds and bytes held after every batch, to more edits than the layer is wide."""
    keys = SimulatedKeys(d_in)
    moment = keys.moment()
    moment = moment.with_spectrum(Spectrum.of(moment.mean))
    found = {}
    for name in ("alphaedit", "memit-seq"):
        stream, held = Stream.begin(moment, d_out, METHODS[name]), []
        while len(held) * facts < 1.5 * d_in:
            stream.edit(keys.draw(facts), torch.randn(facts, d_out))
            held.append(stream.held_bytes())
        found[name] = {"seconds": stream.seconds, "held_bytes": held}
        print(f"  {name}: {len(held) * facts} edits at a width of {d_in}", flush=True)
    return {"d_in": d_in, "d_out": d_out, "methods": found}


def _compare(
    name: str, moment: SecondMoment, drawn: Sequence[Asked], update: Tensor
) -> dict[str, float]:
    """Seconds of the last batch by a dense solve in float32, and the distance from one in float64.

    Raises:
        NumericalError: it is too large.
    """
    *earlier, asked = drawn
    past = torch.zeros_like(moment.mean)
    for keys, _ in earlier if name != "memit" else ():
        past += keys.double().T @ keys.double()
    projector = None
    if name == "alphaedit":
        projector = NullSpaceProjector.from_moment(moment, null_share=NULL_SHARE).dense()
    else:
        past += MOMENT_WEIGHT * moment.mean

    def dense(dtype: torch.dtype) -> tuple[float, Tensor]:
        rows, residuals = (own.to(dtype) for own in asked)
        weighed = past.to(dtype)
        into = None if projector is None else projector.to(dtype)
        begun = perf_counter()
        if into is None:
            solved = dense_memit(weighed, rows, residuals)
        else:
            solved = dense_projected(into, weighed, rows, residuals, ridge=RIDGE)
        return perf_counter() - begun, solved

    _, exact = dense(torch.float64)
    seconds, _ = dense(torch.float32)
    distance = float((update.double() - exact).norm() / exact.norm())
    if not distance <= _TOLERANCE:
        raise NumericalError(
            f"{name}: expected updates equal to {_TOLERANCE:g}, got a relative difference of "
            f"{distance:.2g} in the last batch: the times cannot be compared"
        )
    return {"dense_seconds": seconds, "difference": distance}
