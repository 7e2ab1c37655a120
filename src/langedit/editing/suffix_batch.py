"""Token sequences cut before their lookup tokens, as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_TOKENS = 8
"""A token whose keys and values are kept takes at most so much less than one that is run with a
graph for its gradient, which holds the queries and the inside of the MLP, too."""


@dataclass(frozen=True, kw_only=True)
class SuffixRow:
    """One token sequence: where its hidden state is changed, and which logits are wanted."""

    ids: tuple[int, ...]
    lookup: int
    wanted: tuple[int, ...]

    @property
    def width(self) -> int:
        """Tokens that it counts for: those from the lookup token on, or a share of those before."""
        return max(len(self.ids) - self.lookup, -(-self.lookup // KEPT_TOKENS))


@dataclass(frozen=True, kw_only=True, eq=False)
class SuffixBatch:
    """Suffixes of rows as padded int64 tensors, on the CPU.

    Attributes:
        ids: (rows, suffix) token ids, padded on the right.
        position_ids: (rows, suffix) positions in the whole sequence.
        mask: (rows, prefix + suffix) 1 for tokens; the prefix is padded on the left.
        lookup: (rows,) column of the lookup token in the suffix.
        wanted: row and column of every wanted position, row after row.
        prefix: padded length of the prefixes; 0 where rows are not cut.
    """

    ids: Tensor
    position_ids: Tensor
    mask: Tensor
    lookup: Tensor
    wanted: tuple[Tensor, Tensor]
    prefix: int

    @classmethod
    def build(cls, rows: Sequence[SuffixRow], pad_id: int, *, cut: bool) -> SuffixBatch:
        """Cut the rows before their lookup tokens, or take them whole."""
        starts = [row.lookup if cut else 0 for row in rows]
        prefix = max(starts)
        suffix = max(len(row.ids) - start for row, start in zip(rows, starts, strict=True))
        ids = torch.full((len(rows), suffix), pad_id)
        positions = torch.zeros((len(rows), suffix), dtype=torch.int64)
        mask = torch.zeros((len(rows), prefix + suffix), dtype=torch.int64)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            own = len(row.ids) - start
            ids[i, :own] = torch.tensor(row.ids[start:])
            positions[i] = torch.arange(start, start + suffix).clamp(max=len(row.ids) - 1)
            mask[i, prefix - start : prefix + own] = 1
        wanted = [
            (i, w - start)
            for i, (row, start) in enumerate(zip(rows, starts, strict=True))
            for w in row.wanted
        ]
        lookup = torch.tensor([row.lookup - s for row, s in zip(rows, starts, strict=True)])
        at = torch.tensor(wanted, dtype=torch.int64).reshape(-1, 2)
        return cls(
            ids=ids,
            position_ids=positions,
            mask=mask,
            lookup=lookup,
            wanted=(at[:, 0], at[:, 1]),
            prefix=prefix,
        )

    @property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Row and column of every token of the suffixes."""
        rows, columns = self.mask[:, self.prefix :].nonzero(as_tuple=True)
        return rows, columns

    def select(self, rows: Tensor) -> SuffixBatch:
        """The rows of an int64 index in rising order, padded to what these need."""
        before = self.prefix - int(self.mask[rows, : self.prefix].sum(dim=1).max())
        suffix = int(self.mask[rows, self.prefix :].sum(dim=1).max())
        end = self.prefix + suffix
        place = torch.full((len(self.ids),), -1)
        place[rows] = torch.arange(len(rows))
        kept = place[self.wanted[0]] >= 0
        return SuffixBatch(
            ids=self.ids[rows, :suffix],
            position_ids=self.position_ids[rows, :suffix],
            mask=self.mask[rows, before:end],
            lookup=self.lookup[rows],
            wanted=(place[self.wanted[0][kept]], self.wanted[1][kept]),
            prefix=self.prefix - before,
        )
