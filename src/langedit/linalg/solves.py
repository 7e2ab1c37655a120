"""The closed-form updates of one layer: MEMIT, AlphaEdit, orthogonal LangEdit, ROME.

Every update of a batch minimises a ridge-regularised least-squares objective over `ΔW`, and all are
computed by one routine: with `G` the keys (history first, batch last) in coordinates in which the
regulariser is `ridge·‖·‖²`, the update reads its edits along the last `n` rows of
`(G Gᵀ + ridge·I)⁻¹ G`. No `(d_in, d_in)` matrix is formed or solved for a projected update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_positive, require_rows
from langedit.linalg.moment_solver import MomentSolver, require_memory_of
from langedit.linalg.moments import SecondMoment
from langedit.linalg.projector import NullSpaceProjector
from langedit.linalg.recursive import RecursiveRidge
from langedit.linalg.ridge import (
    check_operands,
    require_space_left,
    ridge_directions,
)
from langedit.linalg.updates import LowRankUpdate


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
    memory: RecursiveRidge | None = None,
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
        memory: what is known of the projected keys of the history, with this ridge, so that only
            the batch is solved for; without it, where that is no way (`RecursiveRidge.directions`),
            and with a moment, the whole system is.

    Raises:
        ConfigError: When `ridge` or `moment_weight` is out of range, or only one of `moment`
            and `moment_weight` is given.
        NumericalError: When shapes differ, values are not finite, nothing is left of the null
            space, or the memory is not that of the history and ridge.
    """
    if (moment is None) != (moment_weight is None):
        raise ConfigError(
            "projected update: expected moment and moment_weight together, got one of them"
        )
    require_positive("ridge", ridge)
    require_space_left(projector)
    require_memory_of(memory, history)
    if memory is not None and memory.ridge != ridge:
        raise NumericalError(f"memory: expected one of ridge {ridge}, got {memory.ridge}")
    left = check_operands(keys, residuals, projector.d_in, projector.basis.device)
    rows = projector.project_keys(keys)
    known = None if memory is None or moment is not None else memory.directions(rows)
    if known is not None:
        return LowRankUpdate(left=left, right=projector.settle(known))
    if history is not None:
        past = require_rows("history", history.to(rows.device), projector.d_in)
        rows = torch.cat([projector.apply(past), rows])
    if moment is None or moment_weight is None:
        right = ridge_directions(rows, len(keys), ridge)
    else:
        solver = MomentSolver.from_projected(projector, moment, moment_weight, ridge=ridge)
        right = solver.directions(rows, len(keys))
    return LowRankUpdate(left=left, right=projector.settle(right))
