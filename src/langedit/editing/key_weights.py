"""What each prompt counts for in each edit's key: half the bare one, half the prefixed ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langedit.editing.finite import not_finite


def key_weights(sizes: Sequence[int]) -> Tensor:
    """(edits, prompts): what each prompt counts for in each edit's key."""
    weights = torch.zeros(len(sizes), sum(sizes))
    start = 0
    for edit, size in enumerate(sizes):
        if size == 1:
            weights[edit, start] = 1.0
        else:
            weights[edit, start] = 0.5
            weights[edit, start + 1 : start + size] = 0.5 / (size - 1)
        start += size
    return weights


def keys_of_edits(sizes: Sequence[int], rows: Tensor) -> Tensor:
    """(edits, d_in) keys of edits, from the keys (prompts, d_in) of their prompts, bare ones first.

    Args:
        sizes: how many prompts each edit has.
        rows: the prompts' keys, edit by edit.
    """
    return weighted_sums(key_weights(sizes).to(rows.device), rows)


def bare_first(sizes: Sequence[int]) -> Tensor:
    """Numbers of the prompts of all edits, the bare ones before the prefixed ones."""
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    bare = torch.zeros(sum(sizes), dtype=torch.bool)
    bare[starts] = True
    return torch.cat([bare.nonzero().squeeze(1), (~bare).nonzero().squeeze(1)])


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """`weights (m, n) @ rows (n, width)`; rows of weight 0 do not count, finite or not."""
    bad = not_finite(rows)
    if not bad:
        return weights @ rows
    sums = weights @ rows.index_fill(0, torch.tensor(bad, device=rows.device), 0.0)
    for i in (weights[:, bad] != 0).any(dim=1).nonzero().flatten().tolist():
        own = weights[i] != 0
        sums[i] = weights[i, own] @ rows[own]
    return sums
