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

    W is the weight that the key's own batch left, for a corpus key the unedited one: what was
    there then is what must not move.

    Attributes:
        keys: how many keys.
        largest: the largest ratio.
        median: the median ratio.
    """

    keys: int
    largest: float
    median: float


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownKeys:
    """Keys whose outputs a batch should leave alone.

    Attributes:
        keys: (m, d_in).
        sizes: (m,) their `|W k|`, in the W that a change is relative to.
    """

    keys: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, weight: Tensor, keys: Tensor) -> KnownKeys:
        """Relative to a weight (d_out, d_in)."""
        return cls(keys=keys, sizes=output_size(weight, keys))


def output_size(weight: Tensor, keys: Tensor) -> Tensor:
    """`|W k|` of every key (m, d_in): (m,), on the CPU."""
    sizes: Tensor = torch.linalg.vector_norm(keys.to(weight) @ weight.T, dim=1)
    return sizes.cpu()


def output_change(update: Update, known: KnownKeys) -> Tensor:
    """`|dW k| / |W k|` of every key, (m,) float64.

    A key that W maps to zero counts as 0 if the update does too, else as infinite.
    """
    # The update as it is kept, and in float64: the ratio is its own, not that of this measurement.
    moved = torch.linalg.vector_norm(
        update.to(dtype=torch.float64).apply_to_keys(known.keys.to(update.device)), dim=1
    )
    return torch.where(moved > 0, moved / known.sizes.to(moved), 0.0)


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
