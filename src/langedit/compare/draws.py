"""What a tuning tries: settings drawn from ranges, or all combinations of listed values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Mapping
from typing import Any

from langedit.compare.config import COMMON
from langedit.compare.entries import TuneEntry
from langedit.compare.ranges import Range
from langedit.errors import ConfigError


def draw_trials(
    tune: TuneEntry, label: str, reads: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """What is tried of a method: first nothing, that is its settings as declared.

    Args:
        tune: how it is tuned.
        label: the entry of the method.
        reads: settings that it reads; common ranges of others are left out. `None` for all.

    Raises:
        ConfigError: a grid needs values that are not listed, or has more points than the budget.
    """
    common = tune.ranges.get(COMMON, {})
    ranges: dict[str, Range] = {
        **{name: own for name, own in common.items() if reads is None or name in reads},
        **tune.ranges.get(label, {}),
    }
    if not ranges:
        return [{}]
    if tune.search == "grid":
        return [{}, *_grid(tune, label, ranges)]
    rng = random.Random(f"{tune.seed}-{label}")
    more = [{name: own.draw(rng) for name, own in ranges.items()} for _ in range(tune.budget - 1)]
    return [{}, *more]


def _grid(tune: TuneEntry, label: str, ranges: Mapping[str, Range]) -> list[dict[str, Any]]:
    endless = [name for name, own in ranges.items() if not own.values]
    if endless:
        raise ConfigError(
            f"tune.ranges, {label}: a grid needs listed values, {', '.join(endless)} has an "
            'interval: list values, or use search = "random"'
        )
    points = itertools.product(*(own.values for own in ranges.values()))
    found = [dict(zip(ranges, point, strict=True)) for point in points]
    if len(found) > tune.budget - 1:
        raise ConfigError(
            f"tune.ranges, {label}: expected at most {tune.budget - 1} combinations (budget, less "
            f"one for the settings as declared), got {len(found)}: list fewer, or raise the budget"
        )
    return found
