"""Sequences of like length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence


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


def share_micro_batches(
    lengths: Sequence[int], max_tokens: int, rows: Sequence[int], shares: int
) -> list[list[int]]:
    """Micro-batches, at least as many as there are shares if there are so many items.

    The limit is halved until there are; where it suffices as it is, the groups do not depend on
    `shares`.
    """
    groups = micro_batches(lengths, max_tokens, rows=rows)
    while len(groups) < min(shares, len(lengths)):
        max_tokens //= 2
        groups = micro_batches(lengths, max_tokens, rows=rows)
    return groups
