"""The closed-form updates of one layer: MEMIT, AlphaEdit, orthogonal LangEdit, ROME.

Every update of a batch minimises a ridge-regularised least-squares objective over `ΔW`, and all are
computed by one routine: with `G` the keys (history first, batch last) in coordinates in which the
regulariser is `ridge·‖·‖²`, the update reads its edits along the last `n` rows of
`(G Gᵀ + ridge·I)⁻¹ G`. No `(d_in, d_in)` matrix is formed or solved for a projected update.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_positive, require_rows
from langedit.linalg.moments import SecondMoment
from langedit.linalg.projector import SMALLEST_TOLERANCE, NullSpaceProjector
from langedit.linalg.updates import LowRankUpdate

# Normal equations lose as many digits as their condition number has: of 16 this leaves 9, two more
# than float32 keys and residuals have.
_CHOLESKY_CONDITION = 1e7


def memit_update(
    keys: Tensor,
    residuals: Tensor,
    moment: SecondMoment,
    *,
    moment_weight: float,
    history: Tensor | None = None,
) -> LowRankUpdate:
    """Return `ΔW = Rᵀ K (λ·C0 + Σ h hᵀ + Σ k kᵀ)⁻¹` (MEMIT, eq. 14; MEMIT-seq with a history).

    It minimises `Σ ‖ΔW k − r‖² + Σ ‖ΔW h‖² + λ·tr(ΔW C0 ΔWᵀ)`. To edit several batches against
    one moment, keep a `MomentSolver`, which factors it once.

    Args:
        keys: `(n, d_in)`, one row an edit.
        residuals: `(n, d_out)`: what the edited weight shall add at each key.
        moment: `C0`, a mean.
        moment_weight: `λ`, how many corpus keys the moment counts for.
        history: `(m, d_in)`, keys of earlier batches whose output shall stay; `None` for MEMIT.

    Raises:
        ConfigError: When `moment_weight` is not a finite number above zero.
        NumericalError: When shapes differ, values are not finite, or the moment is singular.
    """
    solver = MomentSolver.from_moment(moment, moment_weight)
    return solver.update(keys, residuals, history=history)


def projected_update(
    projector: NullSpaceProjector,
    keys: Tensor,
    residuals: Tensor,
    *,
    ridge: float,
    history: Tensor | None = None,
    moment: SecondMoment | None = None,
    moment_weight: float | None = None,
) -> LowRankUpdate:
    """Return the update that reads its keys within the null space only.

    `ΔWᵀ = (P (Σ k kᵀ + Σ h hᵀ + λ·C0) + ridge·I)⁻¹ P K Rᵀ`, the minimiser of
    `Σ ‖ΔW k − r‖² + Σ ‖ΔW h‖² + λ·tr(ΔW C0 ΔWᵀ) + ridge·‖ΔW‖²` over all `ΔW = ΔW P`.
    Without a moment this is AlphaEdit (eq. 14); without a history too, and with a projector that
    forbids every past key, it is orthogonal LangEdit, where `ΔW h = 0` for those keys.

    A key that has (almost) nothing left in the null space gives an update of about zero; see
    `null_fraction`. To solve several batches with one projector and moment, keep the
    `MomentSolver.from_projected`.

    Args:
        projector: `P`.
        keys: `(n, d_in)`, one row an edit.
        residuals: `(n, d_out)`.
        ridge: `L2`, above zero.
        history: `(m, d_in)`, keys of earlier batches, or `None`.
        moment: `C0`, to weigh the directions that the projector leaves; needs `moment_weight`.
        moment_weight: `λ`.

    Raises:
        ConfigError: When `ridge` or `moment_weight` is out of range, or only one of `moment`
            and `moment_weight` is given.
        NumericalError: When shapes differ, values are not finite, or nothing is left of the
            null space.
    """
    if (moment is None) != (moment_weight is None):
        raise ConfigError(
            "projected update: expected moment and moment_weight together, got one of them"
        )
    require_positive("ridge", ridge)
    _require_space_left(projector)
    device = projector.basis.device
    rows, count, left = _stack(keys, residuals, history, projector.d_in, device)
    rows = projector.apply(rows)
    if moment is None or moment_weight is None:
        right = _ridge_directions(rows, count, ridge)
    else:
        solver = MomentSolver.from_projected(projector, moment, moment_weight, ridge=ridge)
        right = solver.directions(rows, count)
    return LowRankUpdate(left=left, right=projector.settle(right))


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
    width, device = len(solver.factor), solver.factor.device
    rows = require_rows("keys", torch.stack([read, key]).to(device), width)
    wanted = require_rows("residuals", residual.to(device).unsqueeze(0))
    read_white, key_white = _solve_lower(solver.factor, rows.T).T
    along = torch.dot(read_white, key_white)
    size = torch.linalg.vector_norm(read_white) * torch.linalg.vector_norm(key_white)
    if not along.abs() > torch.finfo(along.dtype).eps * size:
        raise NumericalError(
            "ROME: expected a key with a part along the direction that the update reads, got none "
            "(uᵀk is 0): use prefixes in the language of the edit, or none (prefix_count = 0)"
        )
    direction = _solve_upper(solver.factor.T, read_white.unsqueeze(1)).T
    return LowRankUpdate(left=wanted.T.contiguous(), right=direction / along)


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentSolver:
    """Solves against `A = L Lᵀ`, the regulariser that a second moment gives, factored once.

    Attributes:
        factor: `L (d_in, d_in)`, lower triangular, float64.
        projector: The projector whose null space `A` was restricted to, or `None`. Keys are
            projected with it and updates stay within it.
        closed: In the coordinates `x -> L⁻¹ x`, forbids what `within` has added to that projector.
    """

    factor: Tensor
    projector: NullSpaceProjector | None = None
    closed: NullSpaceProjector | None = None

    @classmethod
    def from_moment(cls, moment: SecondMoment, weight: float) -> MomentSolver:
        """Factor `A = weight·C0` (MEMIT).

        Raises:
            ConfigError: When `weight` is not a finite number above zero.
            NumericalError: When the moment is singular to working precision.
        """
        require_positive("moment_weight", weight)
        return cls(factor=_cholesky(moment.mean.to(torch.float64) * weight))

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
        solving within the null space alone.

        Raises:
            ConfigError: When `weight` or `ridge` is not a finite number above zero.
            NumericalError: When widths differ or nothing is left of the null space.
        """
        require_positive("moment_weight", weight)
        require_positive("ridge", ridge)
        _require_space_left(projector)
        weighed = projector.apply(projector.apply(moment.mean).T) * weight
        weighed = (weighed + weighed.T) / 2
        weighed.diagonal().add_(ridge)
        return cls(factor=_cholesky(weighed), projector=projector)

    def update(
        self,
        keys: Tensor,
        residuals: Tensor,
        *,
        history: Tensor | None = None,
    ) -> LowRankUpdate:
        """Return `ΔW = Rᵀ K (A + Σ h hᵀ + Σ k kᵀ)⁻¹`, all keys projected if there is a projector.

        Args:
            keys: `(n, d_in)`.
            residuals: `(n, d_out)`.
            history: `(m, d_in)` or `None`.

        Raises:
            NumericalError: When shapes differ or values are not finite.
        """
        factor = self.factor
        rows, count, left = _stack(keys, residuals, history, len(factor), factor.device)
        rows = rows if self.projector is None else self.projector.apply(rows)
        right = self.directions(rows, count)
        right = right if self.projector is None else self.projector.settle(right)
        return LowRankUpdate(left=left, right=right)

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
        # A direction q that must not be read is L⁻¹ q where A is the identity.
        whitened = _solve_lower(self.factor, added.to(self.factor)).T
        closed = self.closed or NullSpaceProjector.empty(len(self.factor), self.factor.device)
        closed = closed.extend(whitened, SMALLEST_TOLERANCE)
        return MomentSolver(factor=self.factor, projector=projector, closed=closed)

    def to(self, device: torch.device, projector: NullSpaceProjector | None) -> MomentSolver:
        """Return the same solver on another device, with its projector as it is there."""
        return MomentSolver(
            factor=self.factor.to(device),
            projector=projector,
            closed=None if self.closed is None else self.closed.to(device),
        )

    def directions(self, rows: Tensor, count: int) -> Tensor:
        """Return the last `count` rows of `Z (A + ZᵀZ)⁻¹`, `(count, d_in)`, for `Z = rows`.

        In the coordinates `F = Z L⁻ᵀ`, where `A` is the identity, this is a ridge solve, done
        orthogonally to what is closed.
        """
        whitened = _solve_lower(self.factor, rows.T).T
        if self.closed is not None:
            whitened = self.closed.apply(whitened)
        solved = _ridge_directions(whitened, count, 1.0)
        if self.closed is not None:
            solved = self.closed.settle(solved)
        return _solve_upper(self.factor.T, solved.T).T


def _ridge_directions(rows: Tensor, count: int, ridge: float) -> Tensor:
    """Return the last `count` rows of `(G Gᵀ + ridge·I)⁻¹ G` for `G = rows (m, d)`.

    Equals the last rows of `G (GᵀG + ridge·I)⁻¹`; the smaller of the two systems is solved. Its
    triangular factor is that of Cholesky where a bound of the condition number allows it, which is
    several times faster; else it comes from a QR decomposition of `[Gᵀ; √ridge·I]`, never from the
    product, so that the condition number is not squared.
    """
    m, d = rows.shape
    tall = rows.T if m <= d else rows
    size = tall.shape[1]
    identity = torch.eye(size, dtype=rows.dtype, device=rows.device)
    # ‖G‖² is at most the sum of squares, so this bounds the condition number of the system.
    condition = float(torch.linalg.vector_norm(rows)) ** 2 / ridge + 1.0
    if condition <= _CHOLESKY_CONDITION:
        upper = torch.linalg.cholesky(torch.addmm(ridge * identity, tall.T, tall)).T
    else:
        upper = torch.linalg.qr(torch.cat([tall, identity * ridge**0.5]), mode="r").R
    wanted = identity[:, m - count :] if m <= d else rows[m - count :].T
    solution = _solve_upper(upper, _solve_lower(upper.T, wanted))
    return solution.T @ rows if m <= d else solution.T


def _solve_lower(lower: Tensor, values: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(lower, values, upper=False)
    return solution


def _solve_upper(upper: Tensor, values: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(upper, values, upper=True)
    return solution


def _stack(
    keys: Tensor, residuals: Tensor, history: Tensor | None, d_in: int, device: torch.device
) -> tuple[Tensor, int, Tensor]:
    """Check the operands; return the rows (history, then keys), `n`, and `left (d_out, n)`."""
    batch = require_rows("keys", keys.to(device), d_in)
    wanted = require_rows("residuals", residuals.to(device))
    if len(batch) == 0 or len(batch) != len(wanted):
        raise NumericalError(
            f"solve: expected one residual for each of at least one key, got {len(batch)} keys "
            f"and {len(wanted)} residuals"
        )
    rows = batch
    if history is not None:
        rows = torch.cat([require_rows("history", history.to(device), d_in), batch])
    return rows, len(batch), wanted.T.contiguous()


def _require_space_left(projector: NullSpaceProjector) -> None:
    if projector.left == 0:
        raise NumericalError(
            f"projector: all {projector.d_in} directions are forbidden, none is left for an "
            "update; raise the null threshold, edit more layers, or start from a wider layer"
        )


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower factor of `matrix`, refusing one that is singular to working precision."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    limit = 10 * torch.finfo(matrix.dtype).eps * float(matrix.diagonal().amax())
    smallest = float(factor.diagonal().amin()) ** 2
    if int(info) != 0 or not smallest > limit:
        raise NumericalError(
            f"second moment: expected a positive definite {len(matrix)}x{len(matrix)} matrix, got "
            "one that is singular to working precision; collect it from more tokens than the "
            "layer is wide, and keep it in float64"
        )
    lower: Tensor = factor
    return lower
