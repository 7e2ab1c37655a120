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
        energy: `Σ |h|²` over the rows, which bounds the condition number.
        count: number of rows `h`.
    """

    soft: Tensor
    ridge: float
    energy: float = 0.0
    count: int = 0
    _grown: GrowingRows | None = field(default=None, repr=False)
    _last: LastRows[tuple[Tensor, Tensor]] = field(default_factory=LastRows, init=False, repr=False)

    @classmethod
    def begin(cls, width: int, ridge: float, device: torch.device | str | None = None) -> Self:
        """Know no rows yet."""
        return cls(soft=torch.zeros(0, width, dtype=torch.float64, device=device), ridge=ridge)

    def bears(self, rows: Tensor) -> bool:
        """Whether a bound of the condition number allows these rows `(n, width)` to join in."""
        return (self.energy + _energy(rows)) / self.ridge + 1.0 <= SQUARABLE

    def directions(self, rows: Tensor) -> Tensor:
        """Return the last `n` rows of `(G Gᵀ + ridge·I)⁻¹ G` for `G`: earlier rows, then these.

        Args:
            rows: `(n, width)` float64, which `bears` allows.

        Raises:
            torch.linalg.LinAlgError: When it does not, and the system is singular.
        """
        left, factor = self._innovation(rows)
        return torch.cholesky_solve(left, factor)

    def after(self, rows: Tensor) -> Self:
        """Return the same with these rows `(n, width)` among the earlier ones; `bears` allows it.

        Raises:
            torch.linalg.LinAlgError: When it does not, and the system is singular.
        """
        left, factor = self._innovation(rows)
        more = solve_lower(factor, left)
        known, most = len(self.soft), most_rows(self.soft.shape[1])
        grown = (self._grown or GrowingRows.begin(self.soft)).with_rows(known, more, most=most)
        soft = grown.rows(known + len(more))
        if len(soft) > most:
            soft = torch.linalg.qr(soft, mode="r").R
            grown = GrowingRows.begin(soft)
        return type(self)(
            soft=soft,
            ridge=self.ridge,
            energy=self.energy + _energy(rows),
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

    def _innovation(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What earlier rows leave of these, `(n, width)`, and the factor of these rows' system.

        The solve of a batch asks for it, and so does joining it: it is worked out once.
        """
        found = self._last.find(rows)
        if found is None:
            left = torch.addmm(rows, rows @ self.soft.T, self.soft, alpha=-1)
            system = left @ rows.T
            system = (system + system.T) / 2
            system.diagonal().add_(self.ridge)
            found = left, torch.linalg.cholesky(system)
            self._last.note(rows, found)
        return found


def most_rows(width: int) -> int:
    """Rows that are kept at most of a width, until as many as the width take their place."""
    return int((1 + _BEYOND) * width)


def _energy(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows)) ** 2
