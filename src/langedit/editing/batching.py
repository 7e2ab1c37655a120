"""Sequences of like length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from langedit.errors import LangEditError

Item = TypeVar("Item")
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
    group: list[Item], run: Callable[[list[Item]], Result], *, one: str = "fact"
) -> list[tuple[list[Item], Result]]:
    """Run a group of items, in halves where the device's memory does not hold it.

    Args:
        group: the items.
        run: runs some of them.
        one: what an item is, for the message.

    Returns:
        The groups that were run, in order, each with its result.

    Raises:
        LangEditError: one item alone does not fit.
    """
    try:
        return [(group, run(group))]
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        if len(group) == 1:
            raise out_of_memory(f"one {one}") from error
    # Outside of the handler: the traceback would keep alive what the attempt had allocated.
    release_memory()
    middle = len(group) // 2
    return [
        *halve_on_oom(group[:middle], run, one=one),
        *halve_on_oom(group[middle:], run, one=one),
    ]


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says so: cards have a class of their own for it, processors have words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(what: str, setting: str = "micro_batch_tokens") -> LangEditError:
    """The error where memory ran out although no less can be run at once.

    Args:
        what: the least that is run.
        setting: that bounds how much is.
    """
    return LangEditError(
        f"memory: expected room for {what}, but the device has too little for it alone, which no "
        f"{setting} can change: load the model in bfloat16 (dtype) or with a device_map that "
        "offloads layers, end other programs on the device, or shorten the texts (fewer words, a "
        "lower prefix_length); `langedit plan` works out what a run needs"
    )


def release_memory() -> None:
    """Give the memory that torch holds in reserve on a GPU back, after an attempt that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
