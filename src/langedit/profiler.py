"""Where a run spends time, arithmetic and memory, stage by stage."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# Dense bfloat16 products with float32 sums, operations a second, from the makers' data sheets, by
# the words of a card's name; the first that has all of its words counts. `None`: a variant
# whose own figure is not known here, or a slice of a card, which must not get that of the whole.
_PEAKS: Mapping[str, float | None] = {
    "MIG": None,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": None,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


Profile = dict[str, dict[str, Any]]
"""Stage -> its figures by name, as results hold them: those of `StageCost`, and `share_of_peak`."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage took, over all times that it ran.

    Attributes:
        seconds: wall-clock time.
        flops: floating point operations of matrix products, attention and decompositions; the
            textbook counts, two for a multiplication with an addition.
        peak_bytes: most memory in use during the stage: of the GPU where there is one, else
            resident memory of the process; `None` where it cannot be told.
        calls: how often the stage ran.
    """

    seconds: float
    flops: int
    peak_bytes: int | None
    calls: int

    def plus(self, other: StageCost) -> StageCost:
        """Return both together: sums, and the larger of the peaks."""
        peaks = [peak for peak in (self.peak_bytes, other.peak_bytes) if peak is not None]
        return StageCost(
            seconds=self.seconds + other.seconds,
            flops=self.flops + other.flops,
            peak_bytes=max(peaks, default=None),
            calls=self.calls + other.calls,
        )


class Profiler:
    """Measures stages; a stage within a stage counts in both.

    Counting goes past every operation, so a profiled run is somewhat slower than one that is not.

    Attributes:
        device: whose memory and peak rate count.
        costs: stage -> what it took so far, in order of first appearance.
        before_reset: called before a peak is looked for anew, by who watches the same counter.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.costs: dict[str, StageCost] = {}
        self.before_reset: Callable[[], None] = lambda: None
        self._peaks: list[int] = []
        self._lap: dict[str, StageCost] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside to a stage, also when it fails."""
        self._settle()
        self._note_peak()
        self._peaks.append(0)
        counter = _FlopCounter()
        start = perf_counter()
        try:
            with counter:
                yield
        finally:
            self._settle()
            found = StageCost(
                seconds=perf_counter() - start,
                flops=counter.flops,
                peak_bytes=self._note_peak(),
                calls=1,
            )
            self._peaks.pop()
            self.costs = join_costs(self.costs, {name: found})
            self._lap = join_costs(self._lap, {name: found})

    def lap(self) -> dict[str, StageCost]:
        """What stages have taken since the last call of this, or ever."""
        found, self._lap = self._lap, {}
        return found

    @property
    def peak_rate(self) -> float | None:
        """Operations a second that the device can do in bfloat16, where that is known."""
        if self.device.type != "cuda":
            return None
        return peak_of(torch.cuda.get_device_name(self.device))

    def share_of_peak(self, cost: StageCost) -> float | None:
        """The part of the device's peak rate that a stage reached, where it is known."""
        rate = self.peak_rate
        return None if rate is None or not cost.seconds else cost.flops / cost.seconds / rate

    def to_dict(self, costs: Mapping[str, StageCost] | None = None) -> Profile:
        """Stage -> figures as JSON-able values, of these costs or of all so far."""
        return {
            name: {**asdict(cost), "share_of_peak": self.share_of_peak(cost)}
            for name, cost in (self.costs if costs is None else costs).items()
        }

    def _note_peak(self) -> int | None:
        """Count the peak so far to every stage that runs, look for it anew, and give this one's."""
        seen = _peak(self.device)
        self._peaks = [max(peak, seen or 0) for peak in self._peaks]
        self.before_reset()
        _reset_peak(self.device)
        return self._peaks[-1] if self._peaks and seen is not None else None

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def join_costs(
    some: Mapping[str, StageCost], others: Mapping[str, StageCost]
) -> dict[str, StageCost]:
    """Stage -> cost in both together."""
    joined = dict(some)
    for name, cost in others.items():
        joined[name] = joined[name].plus(cost) if name in joined else cost
    return joined


def join_profiles(profiles: Iterable[Profile]) -> Profile:
    """Figures of several runs together: sums, the largest peak, and the share of all the time.

    The share is `None` where that of one of them is.
    """
    joined: Profile = {}
    for name, own in ((name, own) for profile in profiles for name, own in profile.items()):
        if name not in joined:
            joined[name] = dict(own)
            continue
        known = joined[name]
        both = [part["peak_bytes"] for part in (known, own) if part["peak_bytes"] is not None]
        share, seconds = None, known["seconds"] + own["seconds"]
        if None not in (known["share_of_peak"], own["share_of_peak"]):
            reached = sum(part["share_of_peak"] * part["seconds"] for part in (known, own))
            share = reached / seconds
        joined[name] = {
            "seconds": seconds,
            "flops": known["flops"] + own["flops"],
            "peak_bytes": max(both, default=None),
            "calls": known["calls"] + own["calls"],
            "share_of_peak": share,
        }
    return joined


def peak_of(card: str) -> float | None:
    """Operations a second in bfloat16 of a card by its name, where they are known."""
    words = set(card.replace("-", " ").split())
    return next((rate for name, rate in _PEAKS.items() if words.issuperset(name.split())), None)


@contextmanager
def timed(seconds: dict[str, float], stage: str, profiler: Profiler | None) -> Iterator[None]:
    """Add the wall-clock time inside to a stage, and its cost to a profiler if there is one.

    GPUs work on after the calls return; where they are in use, what was asked of them before
    is awaited at both ends, so that it counts to the stage that asked for it.
    """
    _settle_gpus()
    start = perf_counter()
    if profiler is None:
        yield
    else:
        with profiler.stage(stage):
            yield
    _settle_gpus()
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - start


def _settle_gpus() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(number):  # others are not in use, and stay so
                torch.cuda.synchronize(number)


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of everything that is computed while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        packet = _out_of_place(func._overloadpacket)
        if packet in flop_registry:
            self.flops += int(flop_registry[packet](*args, **given, out_val=out))
        else:
            count = _OWN.get(str(packet))
            self.flops += 0 if count is None else int(count(*args))
        return out


def _out_of_place(packet: Any) -> Any:
    """Of an operation that writes into a tensor, the one that makes another: as much work."""
    name = str(packet).removeprefix("aten.")
    return getattr(torch.ops.aten, name.removesuffix("_"), packet) if name.endswith("_") else packet


# Golub and Van Loan, Matrix Computations, 4th edition: 3.1, 3.2, 4.2, 5.2, 8.3, 8.6.


def _eigh(matrix: Tensor, *_: Any) -> float:
    return 9 * matrix.shape[-1] ** 3


def _svd(matrix: Tensor, *_: Any) -> float:
    small, large = sorted(matrix.shape[-2:])
    return 6 * large * small**2 + 20 * small**3


def _qr(matrix: Tensor, mode: str = "reduced", *_: Any) -> float:
    small, large = sorted(matrix.shape[-2:])
    triangle = 2 * large * small**2 - 2 * small**3 / 3
    return triangle if mode == "r" else 2 * triangle


def _cholesky(matrix: Tensor, *_: Any) -> float:
    return matrix.shape[-1] ** 3 / 3


def _triangular(matrix: Tensor, values: Tensor, *_: Any) -> float:
    return matrix.shape[-1] * values.numel()


def _solve(matrix: Tensor, values: Tensor, *_: Any) -> float:
    return 2 * matrix.shape[-1] ** 3 / 3 + 2 * matrix.shape[-1] * values.numel()


def _cholesky_solve(values: Tensor, matrix: Tensor, *_: Any) -> float:
    return 2 * matrix.shape[-1] * values.numel()


def _product(matrix: Tensor, *_: Any) -> float:
    return 2 * matrix.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> float:
    shapes = [tensor.shape for tensor in (query, key, value)]
    return float(sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]


def _attention_back(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> float:
    shapes = [tensor.shape for tensor in (grad, query, key, value)]
    return float(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


_OWN: Mapping[str, Callable[..., float]] = {
    "aten._linalg_eigh": _eigh,
    "aten._linalg_svd": _svd,
    "aten.linalg_qr": _qr,
    "aten.linalg_cholesky_ex": _cholesky,
    "aten.linalg_solve_triangular": _triangular,
    "aten._linalg_solve_ex": _solve,
    "aten.cholesky_solve": _cholesky_solve,
    "aten.mv": _product,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_back,
}

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _reset_peak(device: torch.device) -> None:
    """Begin to look for the peak anew; Linux can do that for the process, others cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        if sys.platform == "win32":
            return None
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else 1024 * size
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
