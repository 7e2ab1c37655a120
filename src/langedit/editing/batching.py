"""Sequences of like length together, so that little is padded, and no more than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from langedit.errors import LangEditError
from langedit.models.memory import MemoryLimits, PassKind, ran_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def micro_batches(
    lengths: Sequence[int], max_tokens: int, *, rows: int | Sequence[int] = 1, alike: float = 0.0
) -> list[list[int]]:
    """Group items, longest first, so that a group pads to at most `max_tokens` tokens.

    Args:
        lengths: tokens of each item's longest row.
        max_tokens: limit of rows times longest row in a group; one item alone may exceed it.
        rows: rows of each item, or of every item.
        alike: how long an item must be for its group, as a share of the longest in it.

    Returns:
        Lists of item indices, which together hold every index once.
    """
    counts = [rows] * len(lengths) if isinstance(rows, int) else list(rows)
    groups: list[list[int]] = []
    width = used = 0
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (used + counts[item]) * width <= max_tokens and lengths[item] >= alike * width
        if groups and fits:
            groups[-1].append(item)
            used += counts[item]
        else:
            groups.append([item])
            width, used = lengths[item], counts[item]
    return groups


def halve_on_oom(
    group: list[Item],
    run: Callable[[list[Item]], Result],
    *,
    limits: MemoryLimits,
    kind: PassKind,
    size: Callable[[list[Item]], int],
    one: str = "fact",
) -> list[tuple[list[Item], Result]]:
    """Run a group of items, in halves where the device's memory does not hold it.

    What is more than memory was found to hold is halved beforehand.

    Args:
        group: the items.
        run: runs some of them.
        limits: of the model; lowered where memory ran out and the halves fitted.
        kind: of the passes.
        size: tokens of some of the items run together; fewer of fewer items.
        one: what an item is, for the message.

    Returns:
        The groups that were run, in order, each with its result.

    Raises:
        LangEditError: one item alone does not fit.
    """
    limit = limits.within(kind, size(group))
    waiting, done, halved = [group], [], False
    while waiting:
        part = waiting.pop(0)
        middle = len(part) // 2
        halves = [part[:middle], part[middle:]]
        if middle and size(part) > limit:
            waiting[:0] = halves
            continue
        try:
            done.append((part, run(part)))
            continue
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if not middle:
                raise out_of_memory(f"one {one}") from error
        # Outside of the handler: the traceback would keep alive what the attempt had allocated.
        release_memory()
        limit, halved = max(map(size, halves)), True
        waiting[:0] = halves
    if halved:
        limits.lower(kind, limit)
    return done


def with_less_memory(
    run: Callable[[int], Result],
    tokens: int,
    *,
    most: int,
    least: int,
    limits: MemoryLimits,
    kind: PassKind,
    what: str,
) -> Result:
    """Run with a limit of tokens at once that is halved until memory suffices.

    Args:
        run: runs everything, in passes of so many tokens.
        tokens: the limit to begin with, unless less is known to fit.
        most: tokens of a pass over everything; more are never run, whatever the limit.
        least: a limit up to which passes are the smallest that there are.
        limits: of the model; lowered where memory ran out and less fitted.
        kind: of the passes.
        what: the smallest pass, for the message.

    Raises:
        LangEditError: not even that fits.
    """
    limit, halved = limits.within(kind, tokens), False
    while True:
        try:
            found = run(limit)
            break
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if limit <= least:
                raise out_of_memory(what) from error
        release_memory()
        limit, halved = max(1, min(limit, most) // 2), True
    if halved:
        limits.lower(kind, limit)
    return found


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
