"""How long stages take, from their arithmetic and from how fast this machine does such work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from langedit.editing.planning.stage import Stage

_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Floating-point operations a second.

    Attributes:
        matmul: matrix products in the model's precision.
        double: matrix products in float64.
        eigen: decompositions in float64, of symmetric matrices counted as 9 d³.
    """

    matmul: float
    double: float
    eigen: float

    def seconds(self, stage: Stage) -> float:
        """Time of a stage, were it arithmetic alone: a lower bound for small models."""
        return stage.matmul / self.matmul + stage.double / self.double + stage.eigen / self.eigen

    @classmethod
    def of_accelerator(cls, matmul: float) -> Rates:
        """Rates of a data-centre GPU that multiplies at `matmul` in half precision.

        Float64 runs at a 16th of that on an A100 or H100, and decompositions, which are bound by
        memory, at about a 40th of float64.
        """
        return cls(matmul=matmul, double=matmul / 16, eigen=matmul / 640)


def measure_rates(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = perf_counter
) -> Rates:
    """Measure on a device, within a second or two; the best of three tries each.

    Args:
        device: where the model will compute.
        dtype: the model's precision, in which its matrix products are made.
        clock: of seconds; processor time where other programs keep the machine busy.
    """
    size = 1024 if device.type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(size, size, generator=generator).to(device, dtype)
    half = size // 2
    double = torch.randn(half, half, generator=generator).to(device, torch.float64)
    symmetric = double @ double.T

    def rate(flops: float, run: Callable[[], object]) -> float:
        return flops / _least_seconds(run, device, clock)

    return Rates(
        matmul=rate(2.0 * size**3, lambda: square @ square),
        double=rate(2.0 * half**3, lambda: double @ double),
        eigen=rate(9.0 * half**3, lambda: torch.linalg.eigh(symmetric)),
    )


def _least_seconds(
    run: Callable[[], object], device: torch.device, clock: Callable[[], float]
) -> float:
    """Shortest of some runs, after one that does not count, in seconds."""
    times = []
    for _ in range(_TRIES + 1):
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times[1:])
