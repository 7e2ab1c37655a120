"""What was worked out of the rows that were asked for last."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

Found = TypeVar("Found")


@dataclass(eq=False)
class LastRows(Generic[Found]):
    """The rows that were asked for last, while somebody has them, and what was found of them.

    Attributes:
        entry: the rows, how often they had been written to, and what was found of them.
    """

    entry: tuple[weakref.ref[Tensor], int, Found] | None = None

    def find(self, rows: Tensor) -> Found | None:
        """What was found of these rows, if they are the last and were not written to since."""
        entry = self.entry
        if entry is None or entry[0]() is not rows or entry[1] != rows._version:
            return None
        return entry[2]

    def clear(self) -> None:
        """Keep nothing."""
        self.entry = None

    def note(self, rows: Tensor, found: Found) -> None:
        """Keep what was found of rows until they are gone, or others come."""
        if rows.is_inference():  # nobody knows whether such tensors are written to
            return
        holder = weakref.ref(self)

        def forget(gone: weakref.ref[Tensor]) -> None:
            own = holder()
            if own is not None and own.entry is not None and own.entry[0] is gone:
                own.entry = None

        self.entry = weakref.ref(rows, forget), rows._version, found
