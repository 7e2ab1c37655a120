"""Sequences of like length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def micro_batches(
    lengths: Sequence[int], max_tokens: int, *, rows: int | Sequence[int] = 1
) -> list[list[int]]:
    """Group items, longest first, so that a group pads to at most `max_tokens` tokens.

    Args:
        lengths: tokens of each item's longest row.
        max_tokens: limit of rows times longest row in a group; one item alone may exceed it.
        rows: rows of each item, or of every item.

    Returns:
        Lists of item indices, which together hold every index once.
    """
    counts = [rows] * len(lengths) if isinstance(rows, int) else list(rows)
    groups: list[list[int]] = []
    width = used = 0
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (used + counts[item]) * width <= max_tokens:
            groups[-1].append(item)
            used += counts[item]
        else:
            groups.append([item])
            width, used = lengths[item], counts[item]
    return groups


def halve_on_oom(
    group: list[int], run: Callable[[list[int]], Result]
) -> list[tuple[list[int], Result]]:
    """Run a group of items, in halves where the device's memory does not hold it.

    Returns:
        The groups that were run, in order, each with its result.

    Raises:
        torch.OutOfMemoryError: one item alone does not fit.
    """
    try:
        return [(group, run(group))]
    except torch.OutOfMemoryError:
        if len(group) == 1:
            raise
    # Outside of the handler: the traceback would keep alive what the attempt had allocated.
    release_memory()
    middle = len(group) // 2
    return [*halve_on_oom(group[:middle], run), *halve_on_oom(group[middle:], run)]


def release_memory() -> None:
    """Give the memory that torch holds in reserve on a GPU back, after an attempt that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
