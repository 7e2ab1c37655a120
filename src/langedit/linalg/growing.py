"""A matrix that is given more rows again and again, without copying those it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Room made for more rows: a share of those there are, and at least so many times those that came.
_SHARE, _TIMES = 0.125, 4


@dataclass(eq=False)
class _Storage:
    """Rows with room behind them; `used` of them are in use by someone."""

    tensor: Tensor
    used: int


@dataclass(frozen=True, eq=False)
class GrowingRows:
    """Some of the first rows of a storage that several of these share.

    Rows in use are never written again: who is not the one that grew last gets a storage of its own
    when it grows.

    Attributes:
        seen: number of rows that were there before the last ones came.
    """

    _storage: _Storage
    seen: int

    @classmethod
    def begin(cls, rows: Tensor) -> GrowingRows:
        """Hold some rows `(n, d)`, without room for more."""
        return cls(_Storage(tensor=rows, used=len(rows)), 0)

    def rows(self, count: int) -> Tensor:
        """Return the first `count` rows, a view."""
        return self._storage.tensor[:count]

    def first(self, count: int) -> GrowingRows:
        """Return the same storage for whoever has its first `count` rows."""
        return GrowingRows(self._storage, count)

    def with_rows(self, count: int, more: Tensor, *, most: int | None = None) -> GrowingRows:
        """Return the first `count` rows followed by `more (m, d)`; there are never over `most`."""
        storage = self._storage
        total = count + len(more)
        if storage.used != count or len(storage.tensor) < total:
            tensor = more.new_empty((rows_with_room(count, len(more), most), more.shape[1]))
            tensor[:count] = storage.tensor[:count]
            storage = _Storage(tensor=tensor, used=count)
        storage.tensor[count:total] = more
        storage.used = total
        return GrowingRows(storage, count)


def rows_beyond(known: Tensor, later: Tensor) -> Tensor | None:
    """Return the rows of `later (n, d)` beyond those of `known (m, d)`, a view.

    Both are on one device. `None`: the later ones do not begin with the known ones.
    """
    begins = later[: len(known)]
    if begins.shape != known.shape:
        return None
    place = known.data_ptr()  # 0: it has no memory of its own
    same = place != 0 and begins.data_ptr() == place and begins.stride() == known.stride()
    if not same and not torch.equal(begins, known):  # the same memory need not be read
        return None
    return later[len(known) :]


def rows_with_room(count: int, more: int, most: int | None) -> int:
    """Rows of a storage that is made when `more` come to `count`, and there are at most `most`."""
    total = count + more
    room = total + max(round(_SHARE * count), _TIMES * more)
    return room if most is None else min(room, max(most, total))
