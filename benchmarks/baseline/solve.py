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
        moment: C0.
        threshold: eigenvalue from which on a direction is forbidden.
        ridge: weight of the identity.
        corpus_weight: weight of C0 inside the solve.
        dtype: of decompositions and solves; the published code has float32.
        tolerance: singular value of the past keys' part below which there is no new direction.
        mean: C0 (d_in, d_in) in that precision.
        past: sum over past edits of the outer products of unit keys (d_in, d_in).
        projector: P (d_in, d_in).
    """

    moment: SecondMoment
    threshold: float
    ridge: float
    corpus_weight: float = 0.0
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-5
    mean: Tensor = field(init=False)
    past: Tensor = field(init=False)
    projector: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = self.moment.mean.to(self.dtype)
        self.past = torch.zeros_like(self.mean)
        self.projector = torch.eye(len(self.mean), dtype=self.dtype)

    @property
    def held_bytes(self) -> int:
        """Bytes held between two batches."""
        return sum(t.numel() * t.element_size() for t in (self.mean, self.past, self.projector))

    def refresh(self) -> None:
        """P from one full decomposition: null in the corpus at first, and then outside past keys.

        What is forbidden already stays so: the decomposition is of `(I - P) + P S P`.
        """
        identity = torch.eye(len(self.mean), dtype=self.dtype)
        if not bool(self.past.any()):
            directions, sizes, _ = torch.linalg.svd(self.mean)
            forbidden = directions[:, sizes >= self.threshold]
        else:
            spread = identity - self.projector + self.projector @ self.past @ self.projector
            directions, sizes, _ = torch.linalg.svd(spread)
            forbidden = directions[:, sizes > self.tolerance]
        self.projector = identity - forbidden @ forbidden.T

    def solve(self, keys: Tensor, residuals: Tensor) -> Tensor:
        """Delta W (d_out, d_in) of keys (n, d_in) and residuals (n, d_out)."""
        rows, wanted = keys.to(self.dtype), residuals.to(self.dtype)
        inside = rows.T @ rows
        if self.corpus_weight:
            inside = inside + self.corpus_weight * self.mean
        system = self.projector @ inside @ self.projector
        system.diagonal().add_(self.ridge)
        return torch.linalg.solve(system, self.projector @ rows.T @ wanted).T

    def remember(self, keys: Tensor) -> None:
        """Past keys count with unit length: only their directions are forbidden."""
        unit = torch.nn.functional.normalize(keys.to(self.dtype), dim=1)
        self.past = self.past + unit.T @ unit
