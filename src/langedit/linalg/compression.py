"""Make an update of lower rank, with the least harm to what it does to keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_rows
from langedit.linalg.moments import SecondMoment, gram
from langedit.linalg.updates import LowRankUpdate


@dataclass(frozen=True, kw_only=True, eq=False)
class Compression:
    """An update of lower rank, and what it lacks.

    Attributes:
        update: The new update.
        lost: `‖(ΔW' − ΔW) C^½‖ / ‖ΔW C^½‖`: the root mean square of the error at the keys,
            relative to what the update does to them.
    """

    update: LowRankUpdate
    lost: float


def key_metric(moment: SecondMoment, keys: Tensor) -> Tensor:
    """Return `C (d_in, d_in)`, half the corpus and half the edited keys: the mean of both means.

    Args:
        moment: Of the corpus.
        keys: `(m, d_in)`, of the facts that the update writes.

    Raises:
        NumericalError: When the widths differ, or there is no key.
    """
    rows = require_rows("keys", keys, moment.width)
    if len(rows) == 0:
        raise NumericalError("keys: expected at least one, got none")
    return (moment.mean.to(rows) + gram(rows) / len(rows)) / 2


def compress_update(update: LowRankUpdate, metric: Tensor, rank: int) -> Compression:
    """Return the update of a rank that changes keys most nearly as `update` does.

    It minimises `‖(ΔW' − ΔW) C^½‖`, so `tr((ΔW' − ΔW) C (ΔW' − ΔW)ᵀ)`: for `C = mean(k kᵀ)` the
    mean of `‖ΔW' k − ΔW k‖²`. With `M = ΔW C^½`, no `ΔW'` of that rank comes closer than the first
    singular triples of M (Eckart and Young), and with U the first left singular vectors,
    `U Uᵀ ΔW` is there: `U Uᵀ ΔW C^½ = U Uᵀ M`. So C need not be inverted, and may be singular;
    and a key that ΔW does not change is not changed by `U Uᵀ ΔW` either.

    Args:
        update: `ΔW`.
        metric: `C (d_in, d_in)`, symmetric and positive semidefinite.
        rank: Of the result, above 0.

    Raises:
        ConfigError: When the rank is below 1.
        NumericalError: When the metric has another width or is not finite.
    """
    if rank < 1:
        raise ConfigError(f"rank: expected a number above 0, got {rank}")
    width = update.right.shape[1]
    inner = require_rows("metric of the keys", metric, width)
    if len(inner) != width:
        raise NumericalError(f"metric of the keys: expected {width} rows, got {len(inner)}")
    left, right = (part.to(inner) for part in (update.left, update.right))
    values, vectors = torch.linalg.eigh(right @ inner @ right.T)
    at_keys = left @ (vectors * values.clamp_min(0).sqrt())  # M Mᵀ = at_keys at_keysᵀ
    directions, sizes, _ = torch.linalg.svd(at_keys, full_matrices=False)
    kept = directions[:, :rank]
    total = float(sizes.square().sum())
    lost = (float(sizes[rank:].square().sum()) / total) ** 0.5 if total > 0 else 0.0
    compressed = LowRankUpdate(left=kept, right=(kept.T @ left) @ right)
    return Compression(update=compressed.to(update.left.device, update.left.dtype), lost=lost)
