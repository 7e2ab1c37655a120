"""Smaller updates from updates: the mask of RECT, and the spectral conditioning of PRUNE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_positive
from langedit.linalg.updates import LowRankUpdate

_TINY = 1e-8
"""Added to a weight that is divided by, as in the code published with RECT."""


def keep_largest(update: Tensor, weight: Tensor, share: float) -> Tensor:
    """Return `update` with all but the entries of largest relative change set to zero (RECT).

    Args:
        update: `ΔW (d_out, d_in)`.
        weight: `W (d_out, d_in)`, what it will be added to.
        share: Share of the entries that is kept, of those with the largest `|ΔW / W|`. Of `N`
            entries `floor((1 - share)·N) - 1` go; entries as large as the smallest that is kept
            stay too.

    Raises:
        ConfigError: When `share` is not within (0, 1).
        NumericalError: When the shapes differ.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share of entries to keep: expected within (0, 1), got {share}")
    if update.shape != weight.shape:
        raise NumericalError(
            f"mask of the update: expected a weight of shape {tuple(update.shape)}, got "
            f"{tuple(weight.shape)}"
        )
    relative = (update / (weight.to(update) + _TINY)).abs()
    rank = max(int((1 - share) * relative.numel()), 1)
    smallest = relative.flatten().kthvalue(rank).values
    return torch.where(relative >= smallest, update, 0.0)


def spectral_excess(update: LowRankUpdate, limit: float) -> LowRankUpdate:
    """Return what PRUNE takes away from an update: `E` with `ΔW − E` conditioned.

    Singular values `σ ≤ limit` of `ΔW` stay, larger ones become `ln σ − ln limit + limit`, so that
    they grow with the logarithm only. `E` has one rank for each of the larger ones; it is zero, of
    rank 0, where there is none.

    The singular values are those of the core of two QR decompositions in float64: no
    `(d_out, d_in)` matrix is decomposed.

    Args:
        update: `ΔW`, the sum over all batches.
        limit: The largest singular value of the weight before the first batch.

    Raises:
        ConfigError: When `limit` is not a finite number above zero.
    """
    require_positive("limit of singular values", limit)
    q_left, r_left = torch.linalg.qr(update.left.to(torch.float64))
    q_right, r_right = torch.linalg.qr(update.right.T.to(torch.float64))
    u, sigma, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    above = sigma > limit
    large = sigma[above]
    excess = large - (large.log() - math.log(limit) + limit)
    return LowRankUpdate(
        left=((q_left @ u[:, above]) * excess).to(update.left),
        right=(vt[above] @ q_right.T).to(update.right),
    )
