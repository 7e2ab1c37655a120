"""A weight update: a pair of factors where there is one, else the matrix itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.checks import require_finite


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRankUpdate:
    """`ΔW = left @ right`, an exact LoRA pair (B, A) with `r = lora_alpha = n`.

    Attributes:
        left: `(d_out, n)`; column i is the residual of edit i.
        right: `(n, d_in)`; row i is the direction that reads edit i.

    Raises:
        NumericalError: When the shapes, dtypes or devices do not fit, or a value is not finite.
    """

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        left, right = self.left, self.right
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise NumericalError(
                "update: expected left (d_out, n) and right (n, d_in), got "
                f"{tuple(left.shape)} and {tuple(right.shape)}"
            )
        if left.dtype != right.dtype or left.device != right.device:
            raise NumericalError(
                "update: expected both factors in one dtype on one device, got "
                f"{left.dtype} on {left.device} and {right.dtype} on {right.device}"
            )
        require_finite("left factor of the update", left)
        require_finite("right factor of the update", right)

    @classmethod
    def join(cls, updates: Sequence[LowRankUpdate]) -> LowRankUpdate:
        """Return the sum of one or more updates of one shape, with the factors side by side."""
        return cls(
            left=torch.cat([update.left for update in updates], dim=1),
            right=torch.cat([update.right for update in updates]),
        )

    @property
    def rank(self) -> int:
        """Number of columns `n` of the factors, an upper bound of the matrix rank."""
        return self.left.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the factors are."""
        return self.left.device

    def dense(self) -> Tensor:
        """Return `ΔW (d_out, d_in)`."""
        return self.left @ self.right

    def apply_to_keys(self, keys: Tensor) -> Tensor:
        """Return `ΔW k` as rows `(m, d_out)` for `keys (m, d_in)`, in the factors' dtype."""
        _require_width(keys, self.right.shape[1])
        return (keys.to(self.right) @ self.right.T) @ self.left.T

    def norm(self) -> float:
        """Return `‖ΔW‖` (Frobenius) without forming it: that of the product of two R factors."""
        r_left = torch.linalg.qr(self.left.to(torch.float64), mode="r").R
        r_right = torch.linalg.qr(self.right.T.to(torch.float64), mode="r").R
        return float(torch.linalg.matrix_norm(r_left @ r_right.T))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> LowRankUpdate:
        """Return the same update on another device or in another dtype."""
        return LowRankUpdate(
            left=self.left.to(device=device, dtype=dtype),
            right=self.right.to(device=device, dtype=dtype),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseUpdate:
    """`ΔW` itself, where no pair of factors smaller than it exists (a mask, or training).

    Attributes:
        matrix: `(d_out, d_in)`.

    Raises:
        NumericalError: When it is no matrix, or a value is not finite.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2:
            raise NumericalError(
                f"update: expected a matrix (d_out, d_in), got {tuple(self.matrix.shape)}"
            )
        require_finite("update", self.matrix)

    @property
    def rank(self) -> None:
        """`None`: nothing below the smaller side of the matrix is known of it."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.matrix.device

    def dense(self) -> Tensor:
        """Return `ΔW (d_out, d_in)`."""
        return self.matrix

    def apply_to_keys(self, keys: Tensor) -> Tensor:
        """Return `ΔW k` as rows `(m, d_out)` for `keys (m, d_in)`, in the matrix's dtype."""
        _require_width(keys, self.matrix.shape[1])
        return keys.to(self.matrix) @ self.matrix.T

    def norm(self) -> float:
        """Return `‖ΔW‖` (Frobenius)."""
        return float(torch.linalg.vector_norm(self.matrix, dtype=torch.float64))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> DenseUpdate:
        """Return the same update on another device or in another dtype."""
        return DenseUpdate(matrix=self.matrix.to(device=device, dtype=dtype))


Update: TypeAlias = LowRankUpdate | DenseUpdate
"""What is added to a weight. Both have `dense`, `apply_to_keys`, `norm`, `rank`, `device`, `to`."""


def _require_width(keys: Tensor, width: int) -> None:
    if keys.ndim != 2 or keys.shape[1] != width:
        raise NumericalError(f"keys: expected rows of shape (m, {width}), got {tuple(keys.shape)}")
