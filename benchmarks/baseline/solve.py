"""One layer's linear algebra with dense (d_in, d_in) matrices, made anew for every batch.

The published code keeps three stacks of such matrices: the second moments, the projectors and the
sums of outer products of past keys. It finds the projector with a full singular value decomposition
per layer and batch, and solves a system with d_in unknowns and d_model right-hand sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from langedit.linalg import SecondMoment


@dataclass(kw_only=True, eq=False)
class DenseLayer:
    """What the straightforward implementation holds of one layer, and how it solves.

    Attributes:
        moment: C0 (d_in, d_in).
        threshold: eigenvalue from which on a direction is forbidden.
        ridge: weight of the identity.
        corpus_weight: weight of C0 inside the solve.
        dtype: of the decomposition and the solve; the published code has float32.
        past: sum over past edits of the outer products of unit keys (d_in, d_in).
        projector: P (d_in, d_in) of the last solve.
    """

    moment: SecondMoment
    threshold: float
    ridge: float
    corpus_weight: float = 0.0
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-10
    past: Tensor = field(init=False)
    projector: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.past = torch.zeros_like(self.moment.mean, dtype=self.dtype)
        self.projector = torch.zeros_like(self.past)

    @property
    def held_bytes(self) -> int:
        """Bytes held between two batches."""
        mean = self.moment.mean.numel() * self.past.element_size()
        return mean + sum(t.numel() * t.element_size() for t in (self.past, self.projector))

    def refresh(self) -> None:
        """P from a full decomposition: null in the corpus, and no part of a past key."""
        corpus = self.moment.mean.to(self.dtype)
        directions, sizes, _ = torch.linalg.svd(corpus)
        strong = directions[:, sizes >= self.threshold]
        forbidden = strong @ strong.T
        if bool(self.past.any()):
            outside = torch.eye(len(corpus), dtype=self.dtype) - forbidden
            rest = outside @ self.past @ outside
            directions, sizes, _ = torch.linalg.svd(rest)
            added = directions[:, sizes > self.tolerance]
            forbidden = forbidden + added @ added.T
        self.projector = torch.eye(len(corpus), dtype=self.dtype) - forbidden

    def solve(self, keys: Tensor, residuals: Tensor) -> Tensor:
        """Delta W (d_out, d_in) of keys (n, d_in) and residuals (n, d_out)."""
        rows, wanted = keys.to(self.dtype), residuals.to(self.dtype)
        inside = rows.T @ rows
        if self.corpus_weight:
            inside = inside + self.corpus_weight * self.moment.mean.to(self.dtype)
        # The projector on both sides of C0: what the released form without it leaves open is the
        # part of the solution outside the null space, which P on the left removes anyway.
        system = self.projector @ inside @ self.projector
        system.diagonal().add_(self.ridge)
        return torch.linalg.solve(system, self.projector @ rows.T @ wanted).T

    def remember(self, keys: Tensor) -> None:
        """Past keys count with unit length: only their directions are forbidden."""
        unit = torch.nn.functional.normalize(keys.to(self.dtype), dim=1)
        self.past = self.past + unit.T @ unit
