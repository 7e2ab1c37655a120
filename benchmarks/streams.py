"""Linear algebra alone, with simulated keys: a stream of batches, and how its cost grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import DenseLayer
from benchmarks.held import held_bytes
from benchmarks.world import SimulatedKeys
from langedit.editing import EditConfig
from langedit.editing.independence import KnownKeys, output_change, output_size
from langedit.editing.methods import ClosedForm, LayerState, find_method
from langedit.errors import NumericalError
from langedit.linalg import NullSpaceProjector, SecondMoment, Spectrum, null_fraction

Asked = tuple[Tensor, Tensor]
"""Keys (n, d_in) and residuals (n, d_out) of a batch."""

RIDGE, NULL_SHARE, CORPUS_WEIGHT = 0.1, 0.6, 10.0
LARGEST_DENSE = 4096
"""Widest layer that is decomposed, or edited the straightforward way, in these benchmarks."""

_TOLERANCE = 1e-2
"""Largest relative difference of an update; the baseline solves in float32, as published."""


def run_stream(
    _folder: Path, *, d_in: int = 4096, d_out: int = 1024, facts: int = 100, batches: int = 20
) -> dict[str, Any]:
    """The whole stream both ways on the same keys, one layer.

    Raises:
        NumericalError: an update differs by more than rounding.
    """
    keys = SimulatedKeys(d_in)
    moment = keys.moment()
    begun = perf_counter()
    moment = moment.with_spectrum(Spectrum.of(moment.mean))
    decomposed = perf_counter() - begun
    ours = {
        name: Stream.begin(moment, d_out, make_method(corpus_weight=weight))
        for name, weight in (("langedit", 0.0), ("corpus_weight", CORPUS_WEIGHT))
    }
    projector = ours["langedit"].state.projector
    assert projector is not None
    begun = perf_counter()
    dense = DenseLayer(moment=moment, threshold=float(projector.threshold or 0), ridge=RIDGE)
    opened = perf_counter() - begun
    weight = torch.zeros(d_out, d_in)
    theirs, distances, held = [], [], []
    for number in range(batches):
        rows, residuals = keys.draw(facts), torch.randn(facts, d_out)
        # Each on keys of its own: what is remembered of these very rows would be no work.
        updates = {name: s.edit(rows.clone(), residuals) for name, s in ours.items()}
        seconds, other = _dense_step(dense, rows, residuals, weight)
        theirs.append(seconds)
        distances.append(float((updates["langedit"] - other).norm() / other.norm()))
        edits = (number + 1) * facts
        sizes = {name: stream.held_bytes() for name, stream in ours.items()}
        held.append({"edits": edits, **sizes, "dense": held_bytes(dense.held)})
        latest = ", ".join(f"{name} {stream.seconds[-1]:.2f} s" for name, stream in ours.items())
        print(f"  batch {number + 1}: {latest}, baseline {seconds:.1f} s", flush=True)
        if not distances[-1] <= _TOLERANCE:
            raise NumericalError(
                f"linalg: expected updates equal to {_TOLERANCE:g}, got a relative difference of "
                f"{distances[-1]:.2g} in batch {number + 1}: the times cannot be compared"
            )
    own = ours["langedit"].seconds
    return {
        "d_in": d_in,
        "d_out": d_out,
        "facts": facts,
        "batches": batches,
        "threads": torch.get_num_threads(),
        "decomposition_seconds": decomposed,
        "baseline_decomposition_seconds": opened,
        "langedit_seconds": own,
        "corpus_weight_seconds": ours["corpus_weight"].seconds,
        "corpus_weight_opening_seconds": ours["corpus_weight"].opening,
        "baseline_seconds": theirs,
        "ratio": sum(theirs) / sum(own),
        "ratio_with_decomposition": (sum(theirs) + opened) / (sum(own) + decomposed),
        "last_to_second": own[-1] / own[1],
        "largest_difference": max(distances),
        "tolerance": _TOLERANCE,
        "held_bytes": held,
    }


@dataclass(kw_only=True, eq=False)
class Stream:
    """One layer edited batch after batch by the method itself, as an editor does it.

    Attributes:
        method: what edits.
        state: what it remembers.
        base: (d_out, d_in) weight before the first batch.
        weight: weight so far.
        sizes: of the outputs of the keys so far.
        opening: seconds of making the state from a decomposed moment.
        earlier: the state before the last batch, which an editor keeps for `undo`.
        seconds: of each batch.
    """

    method: ClosedForm
    state: LayerState
    base: Tensor
    weight: Tensor
    opening: float
    sizes: Tensor = field(default_factory=lambda: torch.zeros(0))
    earlier: LayerState | None = None
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, moment: SecondMoment, d_out: int, method: ClosedForm) -> Stream:
        """Before the first batch; the weight is zero."""
        begun = perf_counter()
        state = method.start(0, moment)
        opening = perf_counter() - begun
        base = torch.zeros(d_out, moment.width)
        return cls(method=method, state=state, base=base, weight=base, opening=opening)

    def edit(self, rows: Tensor, residuals: Tensor) -> Tensor:
        """Edit one batch, and return its dense update."""
        before, asked = self.weight, (rows, residuals)
        begun = perf_counter()
        weight, state, sizes = _batch(self.method, self.state, self.sizes, before, asked)
        self.seconds.append(perf_counter() - begun)
        self.earlier, self.state = self.state.sharing(state), state
        self.weight, self.sizes = weight, sizes
        return weight - before

    def held_bytes(self) -> int:
        """Bytes of what is remembered, now and before the last batch, and of both weights."""
        return held_bytes(self.state, self.earlier, self.base, self.weight)


def _dense_step(
    dense: DenseLayer, rows: Tensor, residuals: Tensor, weight: Tensor
) -> tuple[float, Tensor]:
    """Seconds of one batch the straightforward way, and its update; `weight` is added to."""
    begun = perf_counter()
    dense.refresh()
    taken = perf_counter() - begun
    dense.make_exact()
    begun = perf_counter()
    update = dense.solve(rows, residuals)
    weight += update
    dense.remember(rows)
    taken += perf_counter() - begun
    dense.forbid(rows)
    return taken, update


def run_edits(
    _folder: Path,
    *,
    d_in: int = 12288,
    facts: int = 100,
    counts: Sequence[int] = (0, 1000, 2000, 4000, 6000, 8000, 10000),
) -> dict[str, Any]:
    """Seconds of one batch after 0 to 10,000 edits."""
    keys, residuals, method = SimulatedKeys(d_in), torch.randn(facts, d_in // 4), make_method()
    start, seconds = d_in // 8, []
    for count in counts:
        rows, history = keys.draw(facts), torch.randn(count, d_in)
        state = _state(method, keys.projector(start + count), history)
        seconds.append(_seconds(method, state, (rows, residuals)))
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


def run_widths(
    _folder: Path,
    *,
    facts: int = 100,
    widths: Sequence[int] = (1024, 2048, 4096, 8192, 16384),
) -> dict[str, Any]:
    """Seconds of one batch at widths of 1k to 16k, half of the directions forbidden.

    Of these half by earlier edits, so that a quarter of the width is the number of past keys.
    """
    seconds, method = [], make_method()
    for d_in in widths:
        keys = SimulatedKeys(d_in)
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)
        state = _state(method, keys.projector(d_in // 2), torch.randn(d_in // 4, d_in))
        seconds.append(_seconds(method, state, (rows, residuals)))
        print(f"  width {d_in}: {seconds[-1]:.3f} s", flush=True)
    decompositions, dense = {}, {}
    for d_in in (width for width in widths if width <= LARGEST_DENSE):
        keys = SimulatedKeys(d_in)
        moment = keys.moment(1)
        decompositions[d_in] = least_seconds(lambda m=moment: Spectrum.of(m.mean))
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)
        dense[d_in] = _dense_batch(moment, rows, residuals)
        print(f"  width {d_in}: baseline {dense[d_in]:.2f} s", flush=True)
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


def run_sizes(
    _folder: Path, *, d_in: int = 4096, sizes: Sequence[int] = (1, 10, 25, 50, 100, 200, 400, 800)
) -> dict[str, Any]:
    """Seconds of one batch of 1 to 800 facts, half of the directions forbidden as for widths."""
    keys, method = SimulatedKeys(d_in), make_method()
    state = _state(method, keys.projector(d_in // 2), torch.randn(d_in // 4, d_in))
    seconds = []
    for facts in sizes:
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)
        seconds.append(_seconds(method, state, (rows, residuals)))
    moment, dense = keys.moment(1), {}
    for facts in (sizes[0], sizes[-1]):
        rows, residuals = keys.draw(facts), torch.randn(facts, 1024)
        dense[facts] = _dense_batch(moment, rows, residuals)
        print(f"  {facts} facts: baseline {dense[facts]:.2f} s", flush=True)
    large = [(n, s) for n, s in zip(sizes, seconds, strict=True) if n >= 50]
    return {
        "d_in": d_in,
        "facts": sizes,
        "seconds": seconds,
        "exponent": exponent(*zip(*large, strict=True)),
        "baseline_seconds": dense,
        "baseline_exponent": exponent(list(dense), list(dense.values())),
    }


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the line through the logarithms, by least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def make_method(name: str = "langedit", **settings: float) -> ClosedForm:
    """A method with the null space and the ridge of these benchmarks where it reads them."""
    kept = {"null_share": NULL_SHARE, "ridge": RIDGE, **settings}
    method = find_method(name).from_config(EditConfig(method=name, layers=(0,), **kept))
    assert isinstance(method, ClosedForm)
    return method


def _state(method: ClosedForm, projector: NullSpaceProjector, history: Tensor) -> LayerState:
    """As after some batches: bases and keys have room for those of one more."""
    state = LayerState(history=history, projector=projector, ridge=RIDGE)
    return method.advance(state, torch.randn(1, projector.d_in))


def _batch(
    method: ClosedForm, state: LayerState, sizes: Tensor, weight: Tensor, asked: Asked
) -> tuple[Tensor, LayerState, Tensor]:
    """All that an editor asks of one layer in a batch, measurements of earlier keys included.

    Args:
        method: what edits.
        state: what it remembers.
        sizes: (m,) sizes of the outputs of the keys so far.
        weight: (d_out, d_in) before the batch.
        asked: keys and residuals.

    Returns:
        The weight, the state and the sizes after the batch.
    """
    update = method.solve(state, *asked).to(dtype=torch.float32)
    after = weight + update.dense()
    advanced = method.advance(state, asked[0])
    if state.projector is not None:
        null_fraction(state.projector, asked[0])
    output_change(update, KnownKeys(keys=state.history, sizes=sizes))
    return after, advanced, torch.cat([sizes, output_size(after, asked[0])])


def _seconds(method: ClosedForm, state: LayerState, asked: Asked) -> float:
    """Least seconds of a batch after others, on keys that were not seen before."""
    rows, residuals = asked
    weight, sizes = torch.zeros(residuals.shape[1], rows.shape[1]), torch.ones(len(state.history))
    return least_seconds(
        lambda: _batch(method, state, sizes, weight, (rows.clone(), residuals))  # no memory of them
    )


def _dense_batch(moment: SecondMoment, rows: Tensor, residuals: Tensor) -> float:
    """Least seconds of a batch after another one, the straightforward way, over the same runs."""
    layer = DenseLayer(moment=moment, threshold=1e-3, ridge=RIDGE)
    layer.remember(rows)
    weight = torch.zeros(residuals.shape[1], rows.shape[1])

    def step() -> None:
        layer.refresh()
        weight.add_(layer.solve(rows, residuals))

    return least_seconds(step)


def least_seconds(step: Callable[[], object], times: int = 2) -> float:
    """Least time of some runs: others are waits for other programs."""
    found = []
    for _ in range(times):
        begun = perf_counter()
        step()
        found.append(perf_counter() - begun)
    return min(found)
