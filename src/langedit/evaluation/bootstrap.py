"""Percentile bootstrap intervals of means: over facts, of paired differences, over seeds.

The facts are what is drawn again (Efron, 1979). Where a run was repeated with other seeds, seeds
are drawn first and facts within each drawn seed (cluster bootstrap), since facts of one run share
a model. With three seeds such an interval is rough: there are only ten sets of three to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.errors import FactError

_CHUNK = 2**22
"""Values drawn at once: 32 MiB of float64."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where it would lie if other facts had been drawn.

    Attributes:
        mean: mean of the values themselves.
        low: lower end.
        high: upper end.
        level: share of the bootstrap means between the ends.
        facts: number of values.
        clusters: number of seeds that were drawn from; 1 where only facts were.
    """

    mean: float
    low: float
    high: float
    level: float
    facts: int
    clusters: int = 1

    def parts_from(self, other: Interval) -> bool:
        """Whether the two do not overlap."""
        return self.low > other.high or self.high < other.low

    def excludes(self, value: float) -> bool:
        """Whether a value, such as a difference of 0, lies outside."""
        return not self.low <= value <= self.high


def bootstrap(
    values: Sequence[float | None],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over facts.

    Args:
        values: one a fact; `None` where it has no such score.
        resamples: how often facts are drawn.
        level: share of the bootstrap means between the ends.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        FactError: there is no value.
    """
    return bootstrap_seeds([values], resamples=resamples, level=level, seed=seed)


def bootstrap_difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of first - second over the same facts in the same order.

    Facts that lack either score do not count.

    Raises:
        FactError: no fact has both.
        ValueError: the two differ in length.
    """
    return bootstrap(paired(first, second), resamples=resamples, level=level, seed=seed)


def paired(first: Sequence[float | None], second: Sequence[float | None]) -> list[float | None]:
    """First - second, fact by fact; `None` where either is missing.

    Raises:
        ValueError: the two differ in length.
    """
    return [None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)]


def bootstrap_seeds(
    seeds: Sequence[Sequence[float | None]],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over the facts of several runs.

    In each resample as many runs are drawn as there are, with replacement, and within each drawn
    run as many of its facts as it has. With one run this is the bootstrap over facts.

    Args:
        seeds: for each run one value a fact; runs without values do not count.
        resamples: how often runs and facts are drawn.
        level: share of the bootstrap means between the ends.
        seed: of the draws.

    Raises:
        FactError: there is no value.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected 0 < level < 1 and resamples > 0, got {level}, {resamples}")
    runs = [torch.tensor([v for v in run if v is not None], dtype=torch.float64) for run in seeds]
    runs = [run for run in runs if len(run)]
    if not runs:
        raise FactError("bootstrap: expected at least one fact with a score, got none")
    generator = torch.Generator().manual_seed(seed)
    means = _resampled_means(runs, resamples, generator)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tails).tolist()
    every = torch.cat(runs)
    return Interval(
        mean=math.fsum(every.tolist()) / len(every),
        low=low,
        high=high,
        level=level,
        facts=len(every),
        clusters=len(runs),
    )


def _resampled_means(runs: Sequence[Tensor], resamples: int, generator: torch.Generator) -> Tensor:
    """(resamples,) means over the facts of drawn runs."""
    count = len(runs)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    totals = torch.zeros(resamples, dtype=torch.float64)
    sizes = torch.zeros(resamples, dtype=torch.float64)
    for number, run in enumerate(runs):
        resample = (drawn == number).nonzero()[:, 0]
        sizes.index_add_(0, resample, torch.full((len(resample),), float(len(run))).double())
        totals.index_add_(0, resample, _resampled_sums(run, len(resample), generator))
    return totals / sizes


def _resampled_sums(run: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """(times,) sums of as many values as the run has, drawn from it."""
    size = len(run)
    rows = max(1, _CHUNK // size)
    sums = [
        run[torch.randint(size, (min(rows, times - start), size), generator=generator)].sum(dim=1)
        for start in range(0, times, rows)
    ]
    return torch.cat(sums) if sums else torch.zeros(0, dtype=torch.float64)
