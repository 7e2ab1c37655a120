"""Ridge regression on rows that come batch by batch, without solving again for the earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from langedit.linalg.growing import GrowingRows, rows_beyond
from langedit.linalg.last import LastRows
from langedit.linalg.ridge import SQUARABLE, solve_lower

# Rows beyond the width, as a share of it, from which on they are made as few as the width again:
# the decomposition this takes then costs a batch about as much as the batch's own products.
_BEYOND = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class _Innovation:
    """What rows add to earlier ones.

    Attributes:
        left: `(n, width)`, what the earlier ones leave of them.
        factor: `(n, n)`, lower triangular, of the system that is left for them.
        energy: that of all rows together.
    """

    left: Tensor
    factor: Tensor
    energy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RecursiveRidge:
    """Recursive least squares in square-root form: what earlier rows `H` leave of later ones.

    With `Y = L⁻¹ H` for `H Hᵀ + ridge·I = L Lᵀ` (Cholesky), `I − YᵀY = ridge·(HᵀH + ridge·I)⁻¹`.
    So `Y` is to rows that weigh what a basis of the forbidden space is to rows that forbid, and it
    grows as that does: `n` rows more take products with it, and a system of `n` equations. Numbers
    of digits that are lost are those of one Cholesky decomposition of all rows.

    Attributes:
        soft: `Y (r, width)` float64. Once `r` is well beyond the width, `width` rows with the same
            `YᵀY` take their place.
        ridge: weight of the identity, above zero.
        energy: a bound of `‖H‖²` (largest singular value, squared): the sum of those of the
            batches, which is near it where batches are alike, and small where they are not.
        count: number of rows `h`.
    """

    soft: Tensor
    ridge: float
    energy: float = 0.0
    count: int = 0
    _grown: GrowingRows | None = field(default=None, repr=False)
    _last: LastRows[_Innovation] = field(default_factory=LastRows, init=False, repr=False)

    @classmethod
    def begin(cls, width: int, ridge: float, device: torch.device | str | None = None) -> Self:
        """Know no rows yet."""
        return cls(soft=torch.zeros(0, width, dtype=torch.float64, device=device), ridge=ridge)

    def directions(self, rows: Tensor) -> Tensor | None:
        """Return the last `n` rows of `(G Gᵀ + ridge·I)⁻¹ G` for `G`: earlier rows, then these.

        Args:
            rows: `(n, width)` float64.

        Returns:
            `None` where this is no way to find them: where a bound of the condition number is too
            large, or where there are more rows than the width, so that the system of `n` equations
            is the larger one.
        """
        if len(rows) > rows.shape[1]:
            return None
        found = self._innovation(rows)
        return None if found is None else torch.cholesky_solve(found.left, found.factor)

    def after(self, rows: Tensor) -> Self | None:
        """Return the same with these rows `(n, width)` among the earlier ones.

        Returns:
            `None` where a bound of the condition number is too large: then all rows have to be
            solved for together, from now on.
        """
        known: Self | None = self
        for part in torch.split(rows, rows.shape[1]):
            known = None if known is None else known._after(part if len(part) < len(rows) else rows)
        return known

    def _after(self, rows: Tensor) -> Self | None:
        found = self._innovation(rows)
        if found is None:
            return None
        more = solve_lower(found.factor, found.left)
        known, most = len(self.soft), most_rows(self.soft.shape[1])
        grown = (self._grown or GrowingRows.begin(self.soft)).with_rows(known, more, most=most)
        soft = grown.rows(known + len(more))
        if len(soft) > most:
            # Row by row, as what grows is laid out: products then have the same bits.
            soft = torch.linalg.qr(soft, mode="r").R.contiguous()
            grown = GrowingRows.begin(soft)
        return type(self)(
            soft=soft,
            ridge=self.ridge,
            energy=found.energy,
            count=self.count + len(rows),
            _grown=grown,
        )

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return self._with(self.soft.to(device), None)

    def beside(self, waiting: Self, near: Self) -> Self:
        """Return the same where another one waits.

        Args:
            waiting: the other one. If this one goes on from it, only the rows that were added are
                brought there, and its rows are the beginning of those returned.
            near: the waiting one on this one's device, from which this one was made.
        """
        if self is near:
            return waiting
        place, more = waiting.soft.device, rows_beyond(near.soft, self.soft)
        if more is None:
            return self.to(place)
        known, most = len(waiting.soft), most_rows(waiting.soft.shape[1])
        grown = waiting._grown or GrowingRows.begin(waiting.soft)
        grown = grown.with_rows(known, more.to(place), most=most)
        return self._with(grown.rows(known + len(more)), grown)

    def sharing(self, later: Self) -> Self:
        """Return the same with its rows kept as the beginning of those of one made of it.

        Where the later one does not begin with these very rows, it is this one itself.
        """
        soft, grown = later.soft[: len(self.soft)], later._grown
        if grown is None or soft.shape != self.soft.shape or soft.device != self.soft.device:
            return self
        if soft.data_ptr() == self.soft.data_ptr() or not torch.equal(soft, self.soft):
            return self
        return self._with(soft, grown.first(len(soft)))

    def _with(self, soft: Tensor, grown: GrowingRows | None) -> Self:
        return type(self)(
            soft=soft, ridge=self.ridge, energy=self.energy, count=self.count, _grown=grown
        )

    def _innovation(self, rows: Tensor) -> _Innovation | None:
        """What these rows add, or `None` where they make the system too ill-conditioned.

        The solve of a batch asks for it, and so does joining it: it is worked out once.
        """
        found = self._last.find(rows)
        if found is None:
            energy = self.energy + float(torch.linalg.eigvalsh(rows @ rows.T)[-1])
            if not energy / self.ridge + 1.0 <= SQUARABLE:
                return None
            left = torch.addmm(rows, rows @ self.soft.T, self.soft, alpha=-1)
            system = left @ rows.T
            system = (system + system.T) / 2
            system.diagonal().add_(self.ridge)
            found = _Innovation(left=left, factor=torch.linalg.cholesky(system), energy=energy)
            self._last.note(rows, found)
        return found

    def forget(self) -> None:
        """Keep nothing of the rows asked for last."""
        self._last.clear()


def most_rows(width: int) -> int:
    """Rows that are kept at most of a width, until as many as the width take their place."""
    return int((1 + _BEYOND) * width)
