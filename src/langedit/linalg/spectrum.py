"""The eigendecomposition of a symmetric matrix, and whether it is that of a given one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.errors import NumericalError

# A backward stable solver leaves about d times 1e-16; another matrix leaves about 1.
_RESIDUAL = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """`A = V diag(eigenvalues) Vᵀ`.

    Attributes:
        eigenvalues: `(d,)` float64, rising.
        eigenvectors: `V (d, d)` float64, orthonormal columns.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Spectrum:
        """Decompose a symmetric `(d, d)` matrix in float64, on the device where it is.

        Raises:
            NumericalError: When the decomposition does not converge.
        """
        try:
            values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NumericalError(
                f"eigendecomposition of a {len(matrix)}x{len(matrix)} matrix: expected it to "
                f"converge ({error}); look for values of very different size in the second moment"
            ) from error
        return cls(eigenvalues=values, eigenvectors=vectors)

    def fits(self, matrix: Tensor) -> bool:
        """Whether this is the decomposition of a matrix: `A x = V diag Vᵀ x` for a random `x`.

        Costs three products of matrix and vector.
        """
        d = len(self.eigenvalues)
        if self.eigenvectors.shape != (d, d) or tuple(matrix.shape) != (d, d):
            return False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(d, dtype=torch.float64, generator=generator).to(matrix.device)
        vectors, values = self.eigenvectors.to(x.device), self.eigenvalues.to(x.device)
        inner = vectors.T @ x
        error = torch.linalg.vector_norm(matrix.to(torch.float64) @ x - vectors @ (values * inner))
        same_length = abs(float(inner.norm() / x.norm()) - 1.0) <= _RESIDUAL
        scale = float(values.abs().max()) * float(x.norm())
        return same_length and float(error) <= _RESIDUAL * scale

    def to(self, device: torch.device | str) -> Spectrum:
        """Return the same decomposition on another device."""
        return Spectrum(
            eigenvalues=self.eigenvalues.to(device), eigenvectors=self.eigenvectors.to(device)
        )
