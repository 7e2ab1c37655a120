"""Coordinates in which a regulariser `A` is the identity: `A` is factored once, then only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.checks import require_positive
from langedit.linalg.moments import SecondMoment
from langedit.linalg.ridge import solve_lower, solve_upper
from langedit.linalg.spectrum import Spectrum

# Vectors and steps of an inverse iteration: enough for a factor of two.
_ITERATED, _ITERATIONS = 4, 4


class Whitening(Protocol):
    """A map `W` with `A⁻¹ = W Wᵀ`, on the space in which `A` is inverted."""

    @property
    def d_in(self) -> int:
        """Width of the keys."""
        ...

    @property
    def width(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it is made of."""
        ...

    @property
    def projects(self) -> bool:
        """Whether it sees nothing of rows but their parts in a null space."""
        ...

    def whiten(self, rows: Tensor) -> Tensor:
        """Return `rows W` `(n, width)` for `rows (n, d_in)` in float64."""
        ...

    def back(self, rows: Tensor) -> Tensor:
        """Return `rows Wᵀ` `(n, d_in)` for `rows (n, width)`: `whiten`, then this, is `A⁻¹`."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TriangularWhitening:
    """`W = L⁻ᵀ`, for `A = L Lᵀ`.

    Attributes:
        factor: `L (d_in, d_in)`, lower triangular, float64.
    """

    factor: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> TriangularWhitening:
        """Factor a symmetric float64 matrix.

        Raises:
            NumericalError: When it is singular to working precision.
        """
        factor, info = torch.linalg.cholesky_ex(matrix)
        limit = 10 * torch.finfo(matrix.dtype).eps * float(matrix.diagonal().amax())
        smallest = float(factor.diagonal().amin()) ** 2
        if int(info) != 0 or not smallest > limit:
            raise NumericalError(
                f"second moment: expected a positive definite {len(matrix)}x{len(matrix)} matrix, "
                "got one that is singular to working precision; collect it from more tokens than "
                "the layer is wide, and keep it in float64"
            )
        return cls(factor=factor)

    def smallest(self) -> float:
        """Estimate the smallest eigenvalue of `A`, from above, by inverse iteration."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(_ITERATED, self.d_in, dtype=torch.float64, generator=generator)
        rows = rows.to(self.factor)
        for _ in range(_ITERATIONS):
            directions = torch.linalg.qr(self.back(self.whiten(rows)).T).Q
            rows = directions.T
        return 1.0 / float(torch.linalg.matrix_norm(self.whiten(rows), ord=2)) ** 2

    @property
    def d_in(self) -> int:
        """Width of the keys."""
        return len(self.factor)

    @property
    def width(self) -> int:
        """As many."""
        return len(self.factor)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The factor."""
        return (self.factor,)

    @property
    def projects(self) -> bool:
        """No."""
        return False

    def whiten(self, rows: Tensor) -> Tensor:
        """Return `(L⁻¹ rowsᵀ)ᵀ`."""
        return solve_lower(self.factor, rows.T).T

    def back(self, rows: Tensor) -> Tensor:
        """Return `(L⁻ᵀ rowsᵀ)ᵀ`."""
        return solve_upper(self.factor.T, rows.T).T

    def to(self, device: torch.device) -> TriangularWhitening:
        """Return the same on another device."""
        return TriangularWhitening(factor=self.factor.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralWhitening:
    """`W = V diag(1/lengths)`, for an `A` with eigenvectors `V` on the space that they span.

    Attributes:
        vectors: `V (d_in, width)`, orthonormal columns, float64.
        lengths: `(width,)` float64, roots of the eigenvalues of `A`.
    """

    vectors: Tensor
    lengths: Tensor

    @classmethod
    def of(
        cls, moment: SecondMoment, threshold: float, weight: float, *, ridge: float
    ) -> SpectralWhitening:
        """Return it for `A = weight·C0 + ridge·I` on the eigenvectors of `C0` that are null.

        These are invariant under `A`, so that nothing but a decomposition of `C0` is needed, and
        no coordinate is spent on what is forbidden.

        Args:
            moment: `C0`; it may bring its decomposition along.
            threshold: eigenvalue below which a direction is null.
            weight: above zero.
            ridge: above zero.

        Raises:
            ConfigError: When `weight` or `ridge` is not a finite number above zero.
        """
        require_positive("moment_weight", weight)
        require_positive("ridge", ridge)
        spectrum = moment.spectrum or Spectrum.of(moment.mean)
        null = spectrum.eigenvalues < threshold
        # Rounding leaves eigenvalues a little below 0.
        values = spectrum.eigenvalues[null].clamp_min(0.0)
        vectors = spectrum.eigenvectors[:, null].contiguous()
        return cls(vectors=vectors, lengths=(weight * values + ridge).sqrt())

    @property
    def d_in(self) -> int:
        """Width of the keys."""
        return self.vectors.shape[0]

    @property
    def width(self) -> int:
        """Number of null directions."""
        return self.vectors.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Vectors and lengths."""
        return self.vectors, self.lengths

    @property
    def projects(self) -> bool:
        """Yes: the vectors span it."""
        return True

    def whiten(self, rows: Tensor) -> Tensor:
        """Return the rows' coordinates along the vectors, in units of the lengths."""
        return (rows @ self.vectors).div_(self.lengths)

    def back(self, rows: Tensor) -> Tensor:
        """Return the sums of vectors that coordinates stand for."""
        return (rows / self.lengths) @ self.vectors.T

    def to(self, device: torch.device) -> SpectralWhitening:
        """Return the same on another device."""
        return SpectralWhitening(vectors=self.vectors.to(device), lengths=self.lengths.to(device))
