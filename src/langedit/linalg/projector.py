"""The projector onto what an update may still use, kept as a basis of what it may not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_positive, require_rows
from langedit.linalg.growing import GrowingRows, rows_beyond
from langedit.linalg.last import LastRows
from langedit.linalg.moments import SecondMoment
from langedit.linalg.spectrum import Spectrum

# Householder methods leave about 1e-14; float32 or a basis that is not one leaves far more.
_ORTHONORMAL_TOLERANCE = 1e-10
# Below this a direction consists of float64 rounding and cannot be told from noise.
SMALLEST_TOLERANCE = 1e-13
# Rows that keep this share of their length need one pass only.
_KEPT = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class NullSpaceProjector:
    """`P = I − U Uᵀ`, with `U` an orthonormal basis of the forbidden space.

    Attributes:
        basis: `U (d_in, rank)`, float64, orthonormal columns. `rank` may be 0 (nothing is
            forbidden) up to `d_in` (nothing is left).
        threshold: The eigenvalue below which a direction counted as null, when the projector
            began as that of a moment; else `None`. Kept by `extend`.

    Raises:
        NumericalError: When the basis is not a float64 matrix of orthonormal columns.
    """

    basis: Tensor
    threshold: float | None = None
    _grown: GrowingRows | None = field(default=None, repr=False)
    _last: LastRows[Tensor] = field(default_factory=LastRows, init=False, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(self.basis.shape)
        if len(shape) != 2 or shape[0] == 0 or shape[1] > shape[0]:
            raise NumericalError(f"basis: expected shape (d_in, rank <= d_in), got {shape}")
        if self.basis.dtype != torch.float64:
            raise NumericalError(f"basis: expected float64, got {self.basis.dtype}")
        error = self._probe_orthonormality()
        if not error <= _ORTHONORMAL_TOLERANCE:
            raise NumericalError(
                f"basis: expected orthonormal columns, got a matrix that is off by {error:.2g}; "
                "orthonormalise it (torch.linalg.qr) in float64"
            )

    @classmethod
    def empty(cls, d_in: int, device: torch.device | str | None = None) -> NullSpaceProjector:
        """Return the identity: nothing is forbidden yet."""
        return cls(basis=torch.zeros(d_in, 0, dtype=torch.float64, device=device))

    @classmethod
    def from_moment(
        cls,
        moment: SecondMoment,
        *,
        threshold: float | None = None,
        null_share: float | None = None,
    ) -> NullSpaceProjector:
        """Forbid the strong eigenvectors of a second moment (AlphaEdit, section 3.2).

        A direction is null when its eigenvalue is strictly below the threshold. The
        eigendecomposition is symmetric and in float64; the moment may bring it along.

        Args:
            moment: Second moment of the keys to protect.
            threshold: Absolute eigenvalue cut-off. It scales with the keys, so it differs from
                model to model.
            null_share: Share of the `d_in` directions that shall be null, in (0, 1]. The
                threshold is then put half-way between the two neighbouring eigenvalues;
                where these are equal, fewer directions are null.

        Raises:
            ConfigError: When not exactly one of the two is given, or it is out of range.
            NumericalError: When the moment is not known well enough for the threshold.
        """
        if (threshold is None) == (null_share is None):
            raise ConfigError(
                f"expected exactly one of threshold and null_share, got threshold={threshold}, "
                f"null_share={null_share}"
            )
        if threshold is not None:
            require_positive("threshold", threshold)
        spectrum = moment.spectrum or Spectrum.of(moment.mean)
        eigenvalues, eigenvectors = spectrum.eigenvalues, spectrum.eigenvectors
        if null_share is not None:
            threshold = _threshold_for_share(eigenvalues, null_share)
        assert threshold is not None
        moment.require_resolved(threshold, "the eigenvalue that cuts the null space")
        # Column by column, as `extend` lays it out: products then have the same bits.
        forbidden = eigenvectors[:, eigenvalues >= threshold].T.contiguous().T
        return cls(basis=forbidden, threshold=threshold)

    @property
    def d_in(self) -> int:
        """Width of the keys."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Number of forbidden directions."""
        return self.basis.shape[1]

    @property
    def left(self) -> int:
        """Number of directions an update may still use."""
        return self.d_in - self.rank

    def apply(self, rows: Tensor) -> Tensor:
        """Return `rows P` in float64 for `rows (n, d_in)`.

        Rows that keep less than a tenth of their length are projected twice: what is left of them
        after one pass may be as small as rounding of the row, and the second pass removes the
        forbidden part of that rounding ("twice is enough", Parlett, The Symmetric Eigenvalue
        Problem, section 6-9; the criterion is that of Daniel, Gragg, Kaufman and Stewart 1976).
        For the others that part is at most ten times rounding already.

        Raises:
            NumericalError: When the width differs or a value is not finite.
        """
        projected = self.settle(rows)
        length = torch.linalg.vector_norm(rows.to(projected), dim=1)
        faint = torch.linalg.vector_norm(projected, dim=1) < _KEPT * length
        if bool(faint.any()):
            projected[faint] = self.settle(projected[faint])
        return projected

    def project_keys(self, keys: Tensor) -> Tensor:
        """Return `keys P` as `apply` does, once for a batch: solve, report and `extend` ask for it.

        What is returned must not be written to.

        Args:
            keys: `(n, d_in)`. The result is kept while this very tensor lives and stays as it is.
        """
        left = self._last.find(keys)
        if left is None:
            left = self.apply(keys)
            self._last.note(keys, left)
        return left

    def settle(self, rows: Tensor) -> Tensor:
        """Return `rows P` in float64 by one pass, with an error of rounding of the rows.

        For rows that lie (nearly) in the null space, such as sums of rows that `apply` returned,
        this is as good as two.

        Raises:
            NumericalError: When the width differs or a value is not finite.
        """
        given = require_rows("rows to project", rows.to(self.basis.device), self.d_in)
        if self.left == 0:
            return torch.zeros_like(given)
        return torch.addmm(given, given @ self.basis, self.basis.T, alpha=-1)

    def extend(self, rows: Tensor, tolerance: float) -> NullSpaceProjector:
        """Return the projector that also forbids the span of `rows (n, d_in)`.

        Appends an orthonormal basis of the rows' projections: the right singular vectors of
        the projected unit rows whose singular value exceeds `tolerance`. Hence, for the
        projector returned, `‖P k‖ <= tolerance·‖k‖` for each of the rows, and `P` is
        unchanged by rows that it already kills.

        Args:
            rows: Keys to protect; zero rows are ignored.
            tolerance: Size, relative to a row, below which a new direction is noise. For keys
                computed in float32 about 1e-6; at least 1e-13.

        Raises:
            ConfigError: When the tolerance is out of range.
            NumericalError: When the width differs or a value is not finite.
        """
        if not SMALLEST_TOLERANCE <= tolerance < 1.0:
            raise ConfigError(
                f"tolerance: expected {SMALLEST_TOLERANCE} <= tolerance < 1, got {tolerance}"
            )
        keys = require_rows("rows to forbid", rows.to(self.basis.device), self.d_in)
        norms = torch.linalg.vector_norm(keys, dim=1, keepdim=True)
        some = norms[:, 0] > 0
        if not bool(some.any()) or self.left == 0:
            return self
        unit = self.project_keys(rows)[some] / norms[some]
        _, sizes, directions = torch.linalg.svd(unit, full_matrices=False)
        new = directions[: self.left][sizes[: self.left] > tolerance]
        if len(new) == 0:
            return self
        # What is left of a row carries rounding of itself along U, which the singular vectors of
        # much smaller values have more of: remove it, and restore length and orthogonality.
        if float(sizes[len(new) - 1]) < _KEPT * float(sizes[0]):
            new = self.settle(new)
        added, _ = torch.linalg.qr(new.T)
        return self._with_directions(added.T)

    def beside(self, waiting: NullSpaceProjector, near: NullSpaceProjector) -> NullSpaceProjector:
        """Return this projector where another one waits.

        Args:
            waiting: The other one. If this one extends it, only the columns that were added are
                brought there, and its basis is the beginning of the one returned.
            near: The waiting one on this one's device, from which this one was made.
        """
        if self is near:
            return waiting
        more = rows_beyond(near.basis.T, self.basis.T)
        if more is None or self.threshold != near.threshold:
            return self.to(waiting.basis.device)
        return waiting._with_directions(more.to(waiting.basis.device))

    def sharing(self, later: NullSpaceProjector) -> NullSpaceProjector:
        """Return this projector with its basis kept as the beginning of a later one's.

        Where the later one does not begin with these very columns, it is this one itself.
        """
        basis, grown = later.basis[:, : self.rank], later._grown
        if grown is None or basis.shape != self.basis.shape or basis.device != self.basis.device:
            return self
        if basis.data_ptr() == self.basis.data_ptr() or not torch.equal(basis, self.basis):
            return self
        return NullSpaceProjector(
            basis=basis, threshold=self.threshold, _grown=grown.first(self.rank)
        )

    def forget(self) -> None:
        """Keep nothing of the keys asked for last."""
        self._last.clear()

    def dense(self) -> Tensor:
        """Return `P (d_in, d_in)` in float64."""
        identity = torch.eye(self.d_in, dtype=torch.float64, device=self.basis.device)
        return identity - self.basis @ self.basis.T

    def orthonormality_error(self) -> float:
        """Return `‖UᵀU − I‖` (Frobenius), at the cost of a `(rank, rank)` product."""
        identity = torch.eye(self.rank, dtype=torch.float64, device=self.basis.device)
        return float(torch.linalg.matrix_norm(self.basis.T @ self.basis - identity))

    def to(self, device: torch.device | str) -> NullSpaceProjector:
        """Return the same projector on another device."""
        return NullSpaceProjector(basis=self.basis.to(device), threshold=self.threshold)

    def _with_directions(self, more: Tensor) -> NullSpaceProjector:
        """Append `more (r, d_in)`, orthonormal and orthogonal to the basis."""
        grown = self._grown or GrowingRows.begin(self.basis.T)
        grown = grown.with_rows(self.rank, more, most=self.d_in)
        basis = grown.rows(self.rank + len(more)).T
        return NullSpaceProjector(basis=basis, threshold=self.threshold, _grown=grown)

    def _probe_orthonormality(self) -> float:
        """`‖UᵀU x − x‖ / ‖x‖` for one fixed random `x`: O(d_in·rank), zero only for good U.

        Of a basis that was extended, `x` combines the columns that were not looked at before.
        """
        seen = 0 if self._grown is None else self._grown.seen
        if self.rank == seen:
            return 0.0
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.rank - seen, dtype=torch.float64, generator=generator)
        x = x.to(self.basis.device)
        difference = self.basis.T @ (self.basis[:, seen:] @ x)
        difference[seen:] -= x
        return float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(x))


def null_fraction(projector: NullSpaceProjector, keys: Tensor) -> Tensor:
    """Return `‖P k‖ / ‖k‖` (n,) for `keys (n, d_in)`: how much of a key an edit may use.

    Near 0 the fact cannot be expressed in the space that is left, and its update is about
    zero whatever the residual. A zero key counts as 0.
    """
    rows = require_rows("keys", keys.to(projector.basis.device), projector.d_in)
    norms = torch.linalg.vector_norm(rows, dim=1)
    kept = torch.linalg.vector_norm(projector.project_keys(keys), dim=1)
    return torch.where(norms > 0, kept / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _threshold_for_share(eigenvalues: Tensor, share: float) -> float:
    """Return the cut-off below which `share` of the ascending `eigenvalues (d,)` lie."""
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"null_share: expected 0 < null_share <= 1, got {share}")
    count = max(1, round(share * len(eigenvalues)))
    below = float(eigenvalues[count - 1])
    if count == len(eigenvalues):
        return math.nextafter(below, math.inf)
    above = float(eigenvalues[count])
    middle = below + (above - below) / 2
    return middle if middle > below else above
