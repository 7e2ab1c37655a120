"""Whether a batch left earlier edits alone: how far it moved the outputs of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.linalg import Update


@dataclass(frozen=True, kw_only=True)
class Change:
    """`|dW k| / |W k|` over some keys: 0 where an update is not felt, 1 where it is as large as W.

    Attributes:
        keys: how many keys.
        largest: the largest ratio.
        median: the median ratio.
    """

    keys: int
    largest: float
    median: float


def output_change(weight: Tensor, update: Update, keys: Tensor) -> Tensor:
    """`|dW k| / |W k|` of every key, (m,) float64.

    Args:
        weight: (d_out, d_in) as it was before the batch.
        update: what the batch adds to it.
        keys: (m, d_in).

    A key that W maps to zero counts as 0 if the update does too, else as infinite.
    """
    # The update as it is kept, and in float64: the ratio is its own, not that of this measurement.
    moved = torch.linalg.vector_norm(
        update.to(dtype=torch.float64).apply_to_keys(keys.to(update.device)), dim=1
    )
    before = torch.linalg.vector_norm(keys.to(weight) @ weight.T, dim=1).to(moved)
    return torch.where(moved > 0, moved / before, 0.0)


def summarise(ratios: Tensor) -> Change | None:
    """Number, largest and median of ratios (m,); `None` if there are none."""
    if len(ratios) == 0:
        return None
    return Change(keys=len(ratios), largest=float(ratios.max()), median=float(ratios.median()))


def change_by_language(ratios: Tensor, languages: Sequence[str]) -> dict[str, Change]:
    """Summaries by the language of each key, languages in order of first appearance."""
    found: dict[str, Change] = {}
    for language in dict.fromkeys(languages):
        own = torch.tensor([other == language for other in languages], device=ratios.device)
        summary = summarise(ratios[own])
        assert summary is not None
        found[language] = summary
    return found
