"""Ranges of settings: what a tuning run may draw."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Range(BaseModel):
    """Values of a setting: a list of them, or an interval.

    Attributes:
        values: one or more values; no interval then.
        low, high: ends of an interval.
        log: whether to draw evenly in the logarithm.
        whole: whether to round to whole numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: Annotated[tuple[Any, ...], Field()] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False

    def draw(self, rng: random.Random) -> Any:
        """One value; floats with four significant digits, so that they can be written down."""
        if self.values:
            return rng.choice(self.values)
        low, high = float(self.low or 0.0), float(self.high or 0.0)
        if self.log:
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        return round(value) if self.whole else float(f"{value:.4g}")


def read_range(name: str, value: Any) -> Range:
    """Read a list of values, or a table with `low` and `high`.

    Raises:
        ValueError: it is neither, or empty, or the ends are not in order.
    """
    if isinstance(value, Range):
        return value
    if isinstance(value, list | tuple) and value:
        return Range(values=tuple(value))
    if isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= Range.model_fields.keys():
        found = Range(**value)
        low, high = found.low, found.high
        if low is not None and high is not None and low < high and (low > 0 or not found.log):
            return found
    raise ValueError(
        f"{name}: expected a list of values, or {{low = ..., high = ...}} with low < high (and "
        f"low > 0 with log = true), got {value!r}"
    )
