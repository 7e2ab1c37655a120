"""The uncentred second moment of a layer's keys, streamed row block by row block."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.checks import check_rows, require_finite, require_rows
from langedit.linalg.spectrum import Spectrum

# Rows that enter one float32 product, which bounds the error inside it: of those added to a pair of
# float32 matrices, and of those added in float64, where each block takes a pass over the sum.
_COMPENSATED_BLOCK = 256
_SINGLE_BLOCK = 1024
# Random vectors that measure what float32 products lose, and rows that they see at a time: of so
# few a copy in float64 stays in a processor's cache.
_PROBES, _PROBED_BLOCK = 4, 256
# Columns in one panel of a symmetric product.
_PANEL = 256
_SYMMETRY_TOLERANCE = 1e-5
_RESOLVED = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondMoment:
    """`mean = (1/count) Σ k kᵀ` over `count` keys, not centred.

    Attributes:
        count: Number of keys behind the mean, above zero.
        mean: `(d, d)` symmetric, float64 or float32.
        spectrum: Its eigendecomposition, where that is at hand.
        rounding: By how much (Frobenius norm) products and storage in float32 took `mean` away from
            the exact one, as measured with a few random vectors; 0 where all is in float64. About
            so much, at most, every eigenvalue is off.

    Raises:
        NumericalError: When the mean is not a finite symmetric square matrix with a count.
    """

    count: int
    mean: Tensor
    spectrum: Spectrum | None = None
    rounding: float = 0.0

    def __post_init__(self) -> None:
        shape = tuple(self.mean.shape)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
            raise NumericalError(f"second moment: expected a square matrix, got shape {shape}")
        if self.mean.dtype not in (torch.float64, torch.float32):
            raise NumericalError(
                f"second moment: expected float64 or float32, got {self.mean.dtype}"
            )
        if self.count < 1:
            raise NumericalError(f"second moment: expected a count above 0, got {self.count}")
        require_finite("second moment", self.mean)
        skew = (self.mean - self.mean.T).abs().max()
        if skew > _SYMMETRY_TOLERANCE * self.mean.abs().max():
            raise NumericalError(
                f"second moment: expected a symmetric matrix, got entries that differ by "
                f"{float(skew):.3g} from their transpose; compute it again"
            )

    @property
    def width(self) -> int:
        """Width `d` of the keys."""
        return self.mean.shape[0]

    def merge(self, other: SecondMoment) -> SecondMoment:
        """Return the moment over the keys of both, weighted by their counts (float64).

        Commutes bit for bit; associates up to rounding.

        Raises:
            NumericalError: When the widths differ.
        """
        if other.width != self.width:
            raise NumericalError(
                f"merge of second moments: expected width {self.width}, got {other.width}; "
                "both must come from the same layer of the same model"
            )
        count = self.count + other.count
        mine = self.mean.to(torch.float64) * (self.count / count)
        theirs = other.mean.to(self.mean.device, torch.float64) * (other.count / count)
        rounding = (self.rounding * self.count + other.rounding * other.count) / count
        return SecondMoment(count=count, mean=mine + theirs, rounding=rounding)

    def with_spectrum(self, spectrum: Spectrum | None) -> SecondMoment:
        """Return the same moment with its eigendecomposition at hand, or without it."""
        return replace(self, spectrum=spectrum)

    def decomposed(self) -> SecondMoment:
        """Return the same moment with its eigendecomposition, made here where it has none."""
        if self.spectrum is not None:
            return self
        return self.with_spectrum(Spectrum.of(self.mean))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SecondMoment:
        """Return the same moment on another device or in another precision."""
        mean, spectrum, rounding = self.mean.to(device=device, dtype=dtype), self.spectrum, 0.0
        if mean.dtype == torch.float32 and self.mean.dtype == torch.float64:
            rounding = float(torch.linalg.matrix_norm(mean.to(self.mean) - self.mean))
        return SecondMoment(
            count=self.count,
            mean=mean,
            spectrum=None if spectrum is None else spectrum.to(device or self.mean.device),
            rounding=self.rounding + rounding,
        )

    def require_resolved(self, size: float, what: str) -> None:
        """Check that rounding is far below an eigenvalue that matters.

        Args:
            size: that eigenvalue.
            what: it is.

        Raises:
            NumericalError: When rounding is more than a tenth of it.
        """
        if self.rounding > _RESOLVED * size:
            raise NumericalError(
                f"second moment: expected one that is known to a tenth of {what}, {size:.3g}, got "
                f"one with an error of about {self.rounding:.2g} from float32: collect it with "
                "products in float64 (langedit stats --precision float64, the default) and keep it "
                "in float64"
            )


class MomentAccumulator:
    """Streams keys into a `SecondMoment`.

    Sums are kept in float64, of which only the lower triangle is computed. Where a device has none
    (Apple's MPS), or when asked to, they are kept as an unevaluated pair of float32 matrices,
    `sum + error`, by Knuth's TwoSum; products are then taken over small blocks of rows so that
    their own rounding stays small.

    What products in float32 lose is measured: the sum must map a few random vectors to what the
    keys themselves, in float64, map them to (`‖E‖²` is the mean of `‖E x‖²` over standard normal
    `x`, Hutchinson 1990).

    Args:
        d: Width of the keys.
        device: Where the `(d, d)` sum lives; rows are moved there. Default: the CPU.
        compensated: `True` for the float32 pair, `False` for float64, `None` for the choice
            that suits the device.
        products: float64, or float32, which is faster; those of the pair are
            in float32 always.
    """

    def __init__(
        self,
        d: int,
        device: torch.device | str | None = None,
        *,
        compensated: bool | None = None,
        products: torch.dtype = torch.float64,
    ) -> None:
        self.device = torch.device("cpu" if device is None else device)
        self.compensated = self.device.type == "mps" if compensated is None else compensated
        dtype = torch.float32 if self.compensated else torch.float64
        self.count = 0
        self._sum = torch.zeros(d, d, dtype=dtype, device=self.device)
        self._error = torch.zeros_like(self._sum) if self.compensated else None
        self.products = torch.float32 if self.compensated else products
        self._probes = self._mapped = None
        if self.products == torch.float32:
            place = "cpu" if self.compensated else self.device  # where there is float64
            generator = torch.Generator().manual_seed(0)
            probes = torch.randn(_PROBES, d, dtype=torch.float64, generator=generator)
            self._probes, self._mapped = probes.to(place), torch.zeros_like(probes, device=place)

    @property
    def width(self) -> int:
        """Width `d` of the keys."""
        return self._sum.shape[0]

    def add(self, rows: Tensor) -> None:
        """Add the keys `rows (n, d)`.

        Raises:
            NumericalError: When the width differs or a value is not finite; nothing is added.
        """
        check_rows("keys", rows, self.width)
        given = rows.detach()
        keys = given.to(self.device, self.products)
        if self._error is not None:
            for block in torch.split(keys, _COMPENSATED_BLOCK):
                self._add_compensated(block.T @ block)
        elif self.products == torch.float64:
            self._add_panels(keys)
        else:
            for block in torch.split(keys, _SINGLE_BLOCK):
                self._add_panels(block)
        if self._probes is not None and self._mapped is not None:
            for block in torch.split(given, _PROBED_BLOCK):
                exact = block.to(self._probes)
                self._mapped.addmm_(self._probes @ exact.T, exact)
        self.count += len(rows)

    def merge(self, other: MomentAccumulator) -> None:
        """Add everything that `other` has seen.

        Raises:
            NumericalError: When the widths differ, or one side is float64 and the other not.
        """
        mine, theirs = (
            f"width {own.width}, compensated={own.compensated}, products={own.products}"
            for own in (self, other)
        )
        if mine != theirs:
            raise NumericalError(
                f"merge of accumulators: expected {mine}; got {theirs}; merge their results instead"
            )
        if self._mapped is not None and other._mapped is not None:
            self._mapped += other._mapped.to(self._mapped.device)
        if other._error is None:
            self._sum += other._sum.to(self.device)
        else:
            self._add_compensated(other._sum.to(self.device))
            self._add_compensated(other._error.to(self.device))
        self.count += other.count

    def result(self) -> SecondMoment:
        """Return the mean so far, in float64 on the CPU.

        Raises:
            NumericalError: When no key was added.
        """
        if self.count == 0:
            raise NumericalError("second moment: no key was added; the corpus gave no tokens")
        total = self.total()
        rounding = self.rounding(total) / self.count
        return SecondMoment(count=self.count, mean=total / self.count, rounding=rounding)

    def total(self) -> Tensor:
        """Return the sum `Σ k kᵀ (d, d)` so far, in float64 on the CPU; zeros without a key."""
        total = self._sum.cpu().to(torch.float64)
        if self._error is not None:
            total = total + self._error.cpu().to(torch.float64)
            return (total + total.T) / 2
        return total.tril() + total.tril(-1).T

    def rounding(self, total: Tensor) -> float:
        """Return the Frobenius norm, as measured, of what `total`, as returned, is off by."""
        if self._probes is None or self._mapped is None:
            return 0.0
        off = self._probes.cpu() @ total - self._mapped.cpu()
        return float(torch.linalg.matrix_norm(off)) / math.sqrt(_PROBES)

    def _add_panels(self, keys: Tensor) -> None:
        """Add `keysᵀ keys` to the lower triangle, panel by panel."""
        for end in range(_PANEL, self.width + _PANEL, _PANEL):
            rows, part = keys[:, end - _PANEL : end].T, self._sum[end - _PANEL : end, :end]
            if keys.dtype == part.dtype:
                part.addmm_(rows, keys[:, :end])
            else:
                part += rows @ keys[:, :end]

    def _add_compensated(self, term: Tensor) -> None:
        """Knuth's TwoSum: `sum + term` exactly, its rounding error kept in `_error`."""
        assert self._error is not None
        total = self._sum + term
        of_term = total - self._sum
        of_sum = total - of_term
        self._error += (self._sum - of_sum) + (term - of_term)
        self._sum = total


def gram(rows: Tensor) -> Tensor:
    """`Σ k kᵀ (d, d)` over the keys `rows (n, d)`, in float64: a sum, not a mean."""
    keys = require_rows("keys", rows)
    return keys.T @ keys
