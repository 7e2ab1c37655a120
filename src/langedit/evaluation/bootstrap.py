"""Percentile bootstrap intervals of means: over facts, of paired differences, over seeds.

The facts are what is drawn again (Efron, 1979). Where a run was repeated with other seeds, seeds
are drawn first and facts within each drawn seed (cluster bootstrap), since facts of one run share
a model. With three seeds such an interval is rough: there are only ten sets of three to draw.

Several scores of the same facts are resampled together (`resample`), so that a mean of scores has
an interval, too. The same seed and the same facts give the same draws: differences of methods are
paired, fact by fact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langedit.errors import FactError

Columns = Mapping[str, Sequence[float | None]]
"""Score -> its value of each fact, in order; `None` where the fact has no such score."""

_CHUNK = 2**22
"""Facts drawn at once: 32 MiB of int64."""


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
    runs = [{"value": run} for run in seeds]
    found = resample(runs, resamples=resamples, level=level, seed=seed).interval("value")
    if found is None:
        raise FactError("bootstrap: expected at least one fact with a score, got none")
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """Means of scores over resamples of the same facts.

    Attributes:
        names: of the scores.
        point: (m,) float64 means over all facts as they are.
        draws: (resamples, m) float64; NaN in a resample in which no fact has the score.
        counts: of each score, the number of values.
        sizes: of each run, the numbers of facts that are drawn apart; equal for the same facts.
        level: of the intervals.
    """

    names: tuple[str, ...]
    point: Tensor
    draws: Tensor
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    level: float

    def interval(self, name: str) -> Interval | None:
        """Interval of a score; `None` if no fact has it."""
        at = self.names.index(name)
        return self._interval(self.point[at], self.draws[:, at], self.counts[at])

    def difference(self, other: Resampled, name: str) -> Interval | None:
        """Interval of this minus another, paired by equal draws; `None` if either has no value.

        Raises:
            ValueError: the two are not about equally many facts, or drawn equally often.
        """
        if self.sizes != other.sizes or len(self.draws) != len(other.draws):
            raise ValueError(
                f"expected resamples of the same facts, got {self.sizes} and {other.sizes} facts"
            )
        a, b = self.names.index(name), other.names.index(name)
        draws = self.draws[:, a] - other.draws[:, b]
        return self._interval(self.point[a] - other.point[b], draws, self.counts[a])

    def with_mean(self, name: str, of: Sequence[str]) -> Resampled:
        """One more score: the mean of others; without a value where one of them is missing."""
        if set(of) <= set(self.names):
            at = [self.names.index(one) for one in of]
            point, draws = self.point[at].mean(dim=0), self.draws[:, at].mean(dim=1)
            count = max(self.counts[i] for i in at)
        else:
            point, count = torch.full_like(self.point[:1], math.nan)[0], 0
            draws = torch.full_like(self.draws[:, 0], math.nan)
        return replace(
            self,
            names=(*self.names, name),
            point=torch.cat([self.point, point[None]]),
            draws=torch.cat([self.draws, draws[:, None]], dim=1),
            counts=(*self.counts, count),
        )

    def _interval(self, point: Tensor, draws: Tensor, count: int) -> Interval | None:
        known = draws[~draws.isnan()]
        if bool(point.isnan()) or not len(known):
            return None
        tails = torch.tensor([(1 - self.level) / 2, (1 + self.level) / 2]).to(known)
        low, high = torch.quantile(known, tails).tolist()
        return Interval(
            mean=float(point),
            low=low,
            high=high,
            level=self.level,
            facts=count,
            clusters=len(self.sizes),
        )


def resample(
    runs: Sequence[Columns],
    *,
    apart: str | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Resampled:
    """Draw runs, and within each drawn run its facts, and average all scores over each draw.

    Args:
        runs: for each run, score -> values of its facts; facts without any score do not count.
        apart: a score that only some facts have, such as those of the first batch: they are drawn
            apart from the others, so that every resample has as many of them.
        resamples: how often runs and facts are drawn.
        level: of the intervals.
        seed: of the draws.

    Raises:
        ValueError: there is no run, or `level` or `resamples` is out of range.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected 0 < level < 1 and resamples > 0, got {level}, {resamples}")
    if not runs:
        raise ValueError("expected the facts of at least one seed, got none")
    names = tuple(runs[0])
    tables = [_table(columns, names) for columns in runs]
    strata = [_strata(table, names, apart) for table in tables if len(table)]
    every = torch.cat(tables)
    known = [column[~column.isnan()].tolist() for column in every.T]
    means = [math.fsum(values) / len(values) if values else math.nan for values in known]
    return Resampled(
        names=names,
        point=torch.tensor(means, dtype=torch.float64),
        draws=_resampled_means(strata, len(names), resamples, seed),
        counts=tuple(map(len, known)),
        sizes=tuple(tuple(map(len, parts)) for parts in strata),
        level=level,
    )


def _table(columns: Columns, names: Sequence[str]) -> Tensor:
    """(facts, scores) float64, NaN where a fact has no such score; facts with none left out."""
    values = [[math.nan if value is None else value for value in columns[name]] for name in names]
    table = torch.tensor(values, dtype=torch.float64).T
    return table[~table.isnan().all(dim=1)]


def _strata(table: Tensor, names: Sequence[str], apart: str | None) -> tuple[Tensor, ...]:
    """Parts of a run's facts that are drawn apart."""
    if apart is None:
        return (table,)
    first = ~table[:, list(names).index(apart)].isnan()
    return tuple(part for part in (table[first], table[~first]) if len(part))


def _resampled_means(
    runs: Sequence[Sequence[Tensor]], scores: int, resamples: int, seed: int
) -> Tensor:
    """(resamples, scores) means over the facts of drawn runs."""
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(resamples, scores, dtype=torch.float64)
    counts = torch.zeros_like(totals)
    if runs:
        drawn = torch.randint(len(runs), (resamples, len(runs)), generator=generator)
        for number, parts in enumerate(runs):
            of_run = (drawn == number).nonzero()[:, 0]
            for part in parts:
                _add_draws(totals, counts, of_run, part, generator)
    return totals / counts


def _add_draws(
    totals: Tensor, counts: Tensor, rows: Tensor, part: Tensor, generator: torch.Generator
) -> None:
    """Add, for each of some resamples, sums over as many facts as the part has, and their counts.

    Args:
        totals: (resamples, scores), added to.
        counts: the same, of values.
        rows: (k,) int64 resamples; one that drew the run twice is there twice.
        part: (facts, scores).
        generator: of the draws.
    """
    values, there = part.nan_to_num(), (~part.isnan()).double()
    for some in torch.split(rows, max(1, _CHUNK // len(part))):
        drawn = torch.randint(len(part), (len(some), len(part)), generator=generator)
        times = torch.zeros(drawn.shape, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        totals.index_add_(0, some, times @ values)
        counts.index_add_(0, some, times @ there)
