"""Solves against a corpus's second moment, which is factored once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.checks import require_positive, require_rows
from langedit.linalg.last import LastRows
from langedit.linalg.moments import SecondMoment
from langedit.linalg.projector import SMALLEST_TOLERANCE, NullSpaceProjector
from langedit.linalg.recursive import RecursiveRidge
from langedit.linalg.ridge import (
    check_operands,
    require_space_left,
    ridge_directions,
)
from langedit.linalg.updates import LowRankUpdate
from langedit.linalg.whitening import SpectralWhitening, TriangularWhitening, Whitening


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentSolver:
    """Solves against a regulariser `A` that a second moment gives.

    Attributes:
        whitening: Coordinates in which `A` is the identity.
        projector: The projector whose null space `A` was restricted to, or `None`. Updates stay
            within it.
        closed: In those coordinates, forbids what `within` has added to that projector.
    """

    whitening: Whitening
    projector: NullSpaceProjector | None = None
    closed: NullSpaceProjector | None = None
    _last: LastRows[Tensor] = field(default_factory=LastRows, init=False, repr=False)

    @classmethod
    def from_moment(cls, moment: SecondMoment, weight: float) -> MomentSolver:
        """Factor `A = weight·C0` (MEMIT).

        Raises:
            ConfigError: When `weight` is not a finite number above zero.
            NumericalError: When the moment is singular to working precision, or to the one that it
                was collected in.
        """
        require_positive("moment_weight", weight)
        whitening = TriangularWhitening.of(moment.mean.to(torch.float64) * weight)
        if moment.rounding:
            moment.require_resolved(whitening.smallest() / weight, "its smallest eigenvalue")
        return cls(whitening=whitening)

    @classmethod
    def from_projected(
        cls,
        projector: NullSpaceProjector,
        moment: SecondMoment,
        weight: float,
        *,
        ridge: float,
    ) -> MomentSolver:
        """Factor `A = weight·P C0 P + ridge·I`, the symmetric form of "projected and weighed".

        Range and kernel of `P` are invariant under `A`, so solving with projected keys equals
        solving within the null space alone. Serves any projector; `from_null_space` is several
        times cheaper where the projector is that of this very moment.

        Raises:
            ConfigError: When `weight` or `ridge` is not a finite number above zero.
            NumericalError: When widths differ, nothing is left of the null space, or the moment is
                not known well enough for the ridge.
        """
        require_positive("moment_weight", weight)
        require_positive("ridge", ridge)
        require_space_left(projector)
        moment.require_resolved(ridge / weight, "ridge / corpus_weight")
        weighed = projector.apply(projector.apply(moment.mean).T) * weight
        weighed = (weighed + weighed.T) / 2
        weighed.diagonal().add_(ridge)
        return cls(whitening=TriangularWhitening.of(weighed), projector=projector)

    @classmethod
    def from_null_space(
        cls,
        projector: NullSpaceProjector,
        moment: SecondMoment,
        weight: float,
        *,
        ridge: float,
    ) -> MomentSolver:
        """Return the solver of `from_projected` for the projector that the moment itself gives.

        Args:
            projector: `NullSpaceProjector.from_moment` of this moment, not extended.
            moment: `C0`; it may bring its decomposition along.
            weight: `λ`.
            ridge: `L2`.

        Raises:
            ConfigError: When `weight` or `ridge` is not a finite number above zero.
            NumericalError: When nothing is left of the null space, the projector is not that of
                the moment, or the moment is not known well enough for the ridge.
        """
        require_positive("moment_weight", weight)
        require_positive("ridge", ridge)
        require_space_left(projector)
        moment.require_resolved(ridge / weight, "ridge / corpus_weight")
        threshold = projector.threshold
        if threshold is not None:
            own = SpectralWhitening.of(moment, threshold, weight, ridge=ridge)
            alike = own.d_in == projector.d_in and own.width == projector.left
            if alike and _lies_in(projector, own.vectors):
                return cls(whitening=own, projector=projector)
        raise NumericalError(
            "projector: expected the one that this moment gives, got another; use from_projected"
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What `A` is kept as."""
        return self.whitening.tensors

    @property
    def width(self) -> int:
        """Number of coordinates in which `A` is the identity."""
        return self.whitening.width

    def update(
        self,
        keys: Tensor,
        residuals: Tensor,
        *,
        history: Tensor | None = None,
        memory: RecursiveRidge | None = None,
    ) -> LowRankUpdate:
        """Return `ΔW = Rᵀ K (A + Σ h hᵀ + Σ k kᵀ)⁻¹`, all keys projected if there is a projector.

        Args:
            keys: `(n, d_in)`.
            residuals: `(n, d_out)`.
            history: `(m, d_in)` or `None`.
            memory: what is known of the history's `coordinates`, so that only the batch is solved
                for; without it, or where that is no way (`RecursiveRidge.directions`), the whole
                system is.

        Raises:
            NumericalError: When shapes differ, values are not finite, or the memory is not that
                of the history.
        """
        device, width = self.whitening.tensors[0].device, self.whitening.d_in
        left = check_operands(keys, residuals, width, device)
        require_memory_of(memory, history)
        rows = self.coordinates(keys)
        right = None if memory is None else memory.directions(rows)
        if right is None:
            if history is not None:
                past = require_rows("history", history.to(device), width)
                rows = torch.cat([self._coordinates(past), rows])
            right = ridge_directions(rows, len(keys), 1.0)
        right = self._back(right)
        right = right if self.projector is None else self.projector.settle(right)
        return LowRankUpdate(left=left, right=right)

    def coordinates(self, keys: Tensor) -> Tensor:
        """Return keys `(n, d_in)`, projected, in the coordinates `(n, width)` where `A` is `I`.

        Worked out once for a batch: the solve asks for them, and so does who remembers the batch.
        What is returned must not be written to.

        Raises:
            NumericalError: When the width differs or a value is not finite.
        """
        found = self._last.find(keys)
        if found is None:
            given = keys.to(self.whitening.tensors[0].device)
            found = self._coordinates(require_rows("keys", given, self.whitening.d_in))
            self._last.note(keys, found)
        return found

    def within(self, projector: NullSpaceProjector) -> MomentSolver:
        """Return the solver for a projector that forbids more than this one's, `ΔW Q = 0` for it.

        The result is that of a new factor, at the cost of the directions `Q` that were added.

        Args:
            projector: This solver's, or the empty one where there is none, after `extend`.
        """
        known = 0 if self.projector is None else self.projector.rank
        added = projector.basis[:, known:]
        if added.shape[1] == 0:
            return self
        # A direction q that must not be read is Wᵀq where A is the identity.
        whitened = self.whitening.whiten(added.T.to(self.whitening.tensors[0]))
        closed = self.closed or NullSpaceProjector.empty(self.whitening.width, whitened.device)
        closed = closed.extend(whitened, SMALLEST_TOLERANCE)
        return replace(self, projector=projector, closed=closed)

    def forget(self) -> None:
        """Keep nothing of the keys asked for last."""
        self._last.clear()
        if self.closed is not None:
            self.closed.forget()

    def to(self, device: torch.device, projector: NullSpaceProjector | None) -> MomentSolver:
        """Return the same solver on another device, with its projector as it is there."""
        closed = None if self.closed is None else self.closed.to(device)
        return MomentSolver(whitening=self.whitening.to(device), projector=projector, closed=closed)

    def beside(
        self, waiting: MomentSolver, near: MomentSolver, projector: NullSpaceProjector | None
    ) -> MomentSolver:
        """Return the same solver where another one waits.

        Args:
            waiting: the other one. What was factored is its own, if this solver was made of it; of
                what is closed only the growth is brought there.
            near: the waiting one on this one's device, from which this one was made.
            projector: this solver's, as it is there.
        """
        place = waiting.tensors[0].device
        if self.whitening is not near.whitening:
            return self.to(place, projector)
        closed = self.closed
        if closed is not None:
            here = closed.basis.device
            closed = closed.beside(
                waiting.closed or NullSpaceProjector.empty(self.width, place),
                near.closed or NullSpaceProjector.empty(self.width, here),
            )
        return replace(waiting, projector=projector, closed=closed)

    def sharing(
        self, later: MomentSolver | None, projector: NullSpaceProjector | None
    ) -> MomentSolver:
        """Return the same solver, with what is closed kept as the beginning of a later one's.

        Args:
            later: made of this one by `within`.
            projector: this solver's, as it is kept.
        """
        closed = self.closed
        if closed is not None and later is not None and later.closed is not None:
            closed = closed.sharing(later.closed)
        return replace(self, projector=projector, closed=closed)

    def directions(self, rows: Tensor, count: int) -> Tensor:
        """Return the last `count` rows of `Z (A + ZᵀZ)⁻¹`, `(count, d_in)`, for `Z = rows`.

        In the coordinates where `A` is the identity this is a ridge solve, done orthogonally to
        what is closed.

        Args:
            rows: `(m, d_in)` float64, projected if there is a projector.
            count: of rows that are wanted.
        """
        return self._back(ridge_directions(self._whitened(rows), count, 1.0))

    def _coordinates(self, keys: Tensor) -> Tensor:
        if self.projector is not None and not self.whitening.projects:
            keys = self.projector.apply(keys)
        return self._whitened(keys)

    def _whitened(self, rows: Tensor) -> Tensor:
        whitened = self.whitening.whiten(rows)
        return whitened if self.closed is None else self.closed.apply(whitened)

    def _back(self, solved: Tensor) -> Tensor:
        solved = solved if self.closed is None else self.closed.settle(solved)
        return self.whitening.back(solved)


def require_memory_of(memory: RecursiveRidge | None, history: Tensor | None) -> None:
    """Raise a `NumericalError` where a memory cannot be that of a history `(m, d_in)`."""
    past = 0 if history is None else len(history)
    if memory is not None and memory.count != past:
        raise NumericalError(
            f"memory: expected that of the {past} keys of the history, got one of {memory.count}: "
            "a method that weighs past keys ends its advance with LayerState.after_weighing"
        )


def _lies_in(projector: NullSpaceProjector, vectors: Tensor) -> bool:
    """Whether the columns of `vectors (d_in, m)` lie in the null space, by one random sum."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(vectors.shape[1], dtype=torch.float64, generator=generator)
    mixed = (vectors @ x.to(vectors.device)).unsqueeze(0)
    away = torch.linalg.vector_norm(projector.settle(mixed) - mixed)
    return bool(away <= 1e-9 * torch.linalg.vector_norm(mixed))


def rome_update(solver: MomentSolver, read: Tensor, key: Tensor, residual: Tensor) -> LowRankUpdate:
    """Return the rank-one `ΔW = r uᵀ/(uᵀk)` with `u = A⁻¹ k̄` (ROME, eq. 2): exactly `ΔW k = r`.

    Where `k̄ = k`, it is the `ΔW` that meets `ΔW k = r` with the smallest `tr(ΔW A ΔWᵀ)`.

    Args:
        solver: holds `A`, the second moment times any weight, which does not matter.
        read: `k̄ (d_in,)`: the direction that the update reads before it is whitened. The
            published code takes the mean of the key over contexts.
        key: `k (d_in,)`: where the constraint holds; there it is the key of the bare prompt.
        residual: `r (d_out,)`.

    Raises:
        NumericalError: When shapes differ, values are not finite, or `uᵀk` is zero to working
            precision.
    """
    whitening = solver.whitening
    device = whitening.tensors[0].device
    rows = require_rows("keys", torch.stack([read, key]).to(device), whitening.d_in)
    wanted = require_rows("residuals", residual.to(device).unsqueeze(0))
    read_white, key_white = whitening.whiten(rows)
    along = torch.dot(read_white, key_white)
    size = torch.linalg.vector_norm(read_white) * torch.linalg.vector_norm(key_white)
    if not along.abs() > torch.finfo(along.dtype).eps * size:
        raise NumericalError(
            "ROME: expected a key with a part along the direction that the update reads, got none "
            "(uᵀk is 0): use prefixes in the language of the edit, or none (prefix_count = 0)"
        )
    direction = whitening.back(read_white.unsqueeze(0))
    return LowRankUpdate(left=wanted.T.contiguous(), right=direction / along)
