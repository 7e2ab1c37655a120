"""One layer's linear algebra with dense (d_in, d_in) matrices, made anew for every batch.

The published code keeps three stacks of such matrices: the second moments, the projectors and the
sums of outer products of past keys. Before every batch but the first it pools the second moment
with the past keys and finds the projector with one full singular value decomposition, and it solves
a system with d_in unknowns and d_model right-hand sides, for which it forms one product of two such
matrices. No more is done here in what is timed.

That projector kills past keys only roughly, where the editor kills them exactly. So that results
can be compared, `make_exact` puts the projector of the orthogonal method in its place. It is no
part of the published code, and whoever takes the time leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from langedit.linalg import SecondMoment

_CORPUS_COUNT = 100_000
"""Number of documents that the corpus counts for against edits, as published."""


@dataclass(kw_only=True, eq=False)
class DenseLayer:
    """What the straightforward implementation holds of one layer, and how it solves.

    Making one takes the decomposition of the corpus's moment, which is needed once for a model.

    Attributes:
        moment: C0.
        threshold: eigenvalue from which on a direction is forbidden.
        ridge: weight of the identity.
        corpus_weight: weight of C0 inside the solve.
        dtype: of decompositions and solves; the published code has float32.
        tolerance: part of a past key below which there is no new direction.
        mean: C0 (d_in, d_in) in that precision.
        past: sum over past edits of the outer products of their keys (d_in, d_in).
        projector: P (d_in, d_in).
        edits: number of past edits.
        exact: P of the orthogonal method in float64, for comparisons only.
    """

    moment: SecondMoment
    threshold: float
    ridge: float
    corpus_weight: float = 0.0
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-6
    mean: Tensor = field(init=False)
    past: Tensor = field(init=False)
    projector: Tensor = field(init=False)
    edits: int = field(init=False, default=0)
    exact: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = self.moment.mean.to(self.dtype)
        self.past = torch.zeros_like(self.mean)
        self.projector = self._null_directions(self.mean)
        self.exact = self.projector.double()

    @property
    def held(self) -> tuple[Tensor, ...]:
        """What the published code holds between two batches."""
        return self.mean, self.past, self.projector

    def refresh(self) -> None:
        """P from one full decomposition of the moment of corpus and past keys."""
        if self.edits:
            pooled = (_CORPUS_COUNT * self.mean + self.past) / (_CORPUS_COUNT + self.edits)
            self.projector = self._null_directions(pooled)

    def make_exact(self) -> None:
        """Put the projector that kills every past key in place of what `refresh` found."""
        self.projector = self.exact.to(self.dtype)

    def solve(self, keys: Tensor, residuals: Tensor) -> Tensor:
        """Delta W (d_out, d_in) of keys (n, d_in) and residuals (n, d_out)."""
        past = self.past
        if self.corpus_weight:
            past = past + self.corpus_weight * self.mean
        asked = keys.to(self.dtype), residuals.to(self.dtype)
        return dense_projected(self.projector, past, *asked, ridge=self.ridge)

    def remember(self, keys: Tensor) -> None:
        """Add the keys of a batch to the past ones."""
        rows = keys.to(self.dtype)
        self.past += rows.T @ rows
        self.edits += len(rows)

    def forbid(self, keys: Tensor) -> None:
        """Take the directions of a batch's keys out of the exact projector."""
        unit = torch.nn.functional.normalize(keys.double(), dim=1)
        _, sizes, directions = torch.linalg.svd(unit @ self.exact, full_matrices=False)
        new, _ = torch.linalg.qr(directions[sizes > self.tolerance].T)
        self.exact -= new @ new.T

    def _null_directions(self, mean: Tensor) -> Tensor:
        directions, sizes, _ = torch.linalg.svd(mean)
        null = directions[:, sizes < self.threshold]
        return null @ null.T


def dense_projected(
    projector: Tensor, past: Tensor, keys: Tensor, residuals: Tensor, *, ridge: float
) -> Tensor:
    """Delta W (d_out, d_in) as AlphaEdit's code solves for it, in the precision of what is given.

    Args:
        projector: (d_in, d_in).
        past: (d_in, d_in) what weighs beside the batch.
        keys: (n, d_in).
        residuals: (n, d_out).
        ridge: weight of the identity.
    """
    system = projector @ (keys.T @ keys + past)
    system.diagonal().add_(ridge)
    return torch.linalg.solve(system, projector @ (keys.T @ residuals)).T


def dense_memit(past: Tensor, keys: Tensor, residuals: Tensor) -> Tensor:
    """Delta W (d_out, d_in) as MEMIT's code solves for it, in the precision of what is given.

    Args:
        past: (d_in, d_in) what weighs beside the batch: the corpus, and with a memory past keys.
        keys: (n, d_in).
        residuals: (n, d_out).
    """
    return torch.linalg.solve(keys.T @ keys + past, keys.T @ residuals).T
