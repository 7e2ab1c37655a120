"""What every solve shares: operands, and the ridge-regularised least squares of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.checks import check_rows, require_rows
from langedit.linalg.projector import NullSpaceProjector

SQUARABLE = 1e7
"""Condition number up to which normal equations are solved: they lose as many digits as it has, of
16 this leaves 9, two more than float32 keys and residuals have."""


def ridge_directions(rows: Tensor, count: int, ridge: float) -> Tensor:
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
    if condition <= SQUARABLE:
        upper = torch.linalg.cholesky(torch.addmm(ridge * identity, tall.T, tall)).T
    else:
        upper = torch.linalg.qr(torch.cat([tall, identity * ridge**0.5]), mode="r").R
    wanted = identity[:, m - count :] if m <= d else rows[m - count :].T
    solution = solve_upper(upper, solve_lower(upper.T, wanted))
    return solution.T @ rows if m <= d else solution.T


def solve_lower(lower: Tensor, values: Tensor) -> Tensor:
    """Return `L⁻¹ values` for a lower triangular `L`."""
    solution: Tensor = torch.linalg.solve_triangular(lower, values, upper=False)
    return solution


def solve_upper(upper: Tensor, values: Tensor) -> Tensor:
    """Return `U⁻¹ values` for an upper triangular `U`."""
    solution: Tensor = torch.linalg.solve_triangular(upper, values, upper=True)
    return solution


def check_operands(keys: Tensor, residuals: Tensor, d_in: int, device: torch.device) -> Tensor:
    """Check a batch's keys `(n, d_in)` and residuals; return `left (d_out, n)` in float64."""
    check_rows("keys", keys, d_in)
    wanted = require_rows("residuals", residuals.to(device))
    if len(keys) == 0 or len(keys) != len(wanted):
        raise NumericalError(
            f"solve: expected one residual for each of at least one key, got {len(keys)} keys "
            f"and {len(wanted)} residuals"
        )
    return wanted.T.contiguous()


def require_space_left(projector: NullSpaceProjector) -> None:
    """Raise a `NumericalError` where everything is forbidden."""
    if projector.left == 0:
        raise NumericalError(
            f"projector: all {projector.d_in} directions are forbidden, none is left for an "
            "update; raise the null threshold, edit more layers, or start from a wider layer"
        )
