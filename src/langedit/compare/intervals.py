"""Bootstrap intervals over facts and seeds, of single scores and of their mean.

Facts are drawn with replacement within a seed, those of the first batch and the others apart, so
that every resample has some of both; with several seeds these are drawn with replacement first. The
same draws are used for every method, whose facts are the same: differences are paired, fact by
fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.compare.figures_of import FIRST_BATCH, MEAN, OBJECTIVE

Columns = Mapping[str, Sequence[float | None]]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def parts_from(self, other: Interval) -> bool:
        """Whether the two intervals have no value in common."""
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means of scores over resamples of facts.

    Attributes:
        names: of the scores.
        point: (m,) over all facts as they are.
        draws: (resamples, m).
    """

    names: tuple[str, ...]
    point: Tensor
    draws: Tensor

    def interval(self, name: str) -> Interval | None:
        """Interval of a score; `None` if no fact has it."""
        column = self.names.index(name)
        return _interval(self.point[column], self.draws[:, column])

    def difference(self, other: Resampled, name: str) -> Interval | None:
        """Interval of this minus another, whose facts are the same."""
        a, b = self.names.index(name), other.names.index(name)
        return _interval(self.point[a] - other.point[b], self.draws[:, a] - other.draws[:, b])


def resample(seeds: Sequence[Columns], *, resamples: int, seed: int = 0) -> Resampled:
    """Draw facts with replacement.

    Args:
        seeds: for each seed of the grid, score -> values of the facts in order.
        resamples: how many times.
        seed: of the draws. Equal seeds and equal numbers of facts give equal draws.

    Raises:
        ValueError: there is no seed.
    """
    if not seeds:
        raise ValueError("expected the facts of at least one seed, got none")
    names = tuple(seeds[0])
    tables = [_table(columns, names) for columns in seeds]
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([_seed_means(table, names, resamples, generator) for table in tables])
    points = torch.stack([table.nanmean(dim=0) for table in tables]).nanmean(dim=0)
    which = torch.arange(len(seeds)).expand(resamples, -1)
    if len(seeds) > 1:
        which = torch.randint(len(seeds), (resamples, len(seeds)), generator=generator)
    draws = means[which, torch.arange(resamples)[:, None]].nanmean(dim=1)
    return Resampled((*names, MEAN), _with_mean(points, names), _with_mean(draws, names))


def _table(columns: Columns, names: Sequence[str]) -> Tensor:
    """(facts, scores) float64, NaN where a fact has no such value."""
    values = [
        [float("nan") if value is None else value for value in columns[name]] for name in names
    ]
    return torch.tensor(values, dtype=torch.float64).T


def _seed_means(
    table: Tensor, names: Sequence[str], resamples: int, generator: torch.Generator
) -> Tensor:
    """(resamples, scores): means over drawn facts of one seed."""
    early = torch.zeros(len(table), dtype=torch.bool)
    if FIRST_BATCH in names:
        early = ~table[:, list(names).index(FIRST_BATCH)].isnan()
    total = torch.zeros(resamples, table.shape[1], dtype=torch.float64)
    count = torch.zeros_like(total)
    for rows in (table[early], table[~early]):
        if len(rows):
            drawn = torch.randint(len(rows), (resamples, len(rows)), generator=generator)
            for column in range(table.shape[1]):
                values = rows[:, column][drawn]
                total[:, column] += values.nansum(dim=1)
                count[:, column] += (~values.isnan()).sum(dim=1)
    return total / count


def _with_mean(values: Tensor, names: Sequence[str]) -> Tensor:
    """One more column at the end: the mean of the scores of `OBJECTIVE`."""
    if not set(OBJECTIVE) <= set(names):
        last = torch.full_like(values[..., :1], float("nan"))
    else:
        wanted = [list(names).index(name) for name in OBJECTIVE]
        last = values[..., wanted].mean(dim=-1, keepdim=True)
    return torch.cat([values, last], dim=-1)


def _interval(point: Tensor, draws: Tensor) -> Interval | None:
    known = draws[~draws.isnan()]
    if bool(point.isnan()) or not len(known):
        return None
    low, high = known.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).to(known)).tolist()
    return Interval(float(point), low, high)
