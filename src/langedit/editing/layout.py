"""Where the tokens of many sequences stand in one rectangle.

Sequences that begin alike share the tokens they have in common: a causal model makes the same of
them. Several sequences share a row, and a mask keeps each to its own tokens. Long sequences, and
those of models that take no such mask, have a row each, padded on the right, among others of like
length. Of any lengths there are fewer padded tokens than real ones, or fewer than twice as many
where beginnings are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langedit.editing.batching import micro_batches
from langedit.models import EditableModel, pad_batch
from langedit.models.behaviour import packed_mask

# Attention over a row costs its square; up to here that is small beside the rest of a layer.
PACKED_WIDTH = 512
# A sequence with a row to itself fills at least this share of it.
_FILLED = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLayout:
    """Some sequences in a rectangle of tokens, on the CPU.

    Attributes:
        ids: (b, t) int64 token ids.
        position_ids: (b, t) positions in their sequences.
        mask: (b, t) 1 where there is a token.
        attends: (b, t, t) bool, which tokens a token sees; `None` where rows are sequences.
        members: numbers of the sequences.
        rows: row of each of them.
        columns: columns of the tokens of each, in order.
    """

    ids: Tensor
    position_ids: Tensor
    mask: Tensor
    attends: Tensor | None
    members: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]

    def inputs(self, model: EditableModel) -> dict[str, Any]:
        """Keyword arguments of the model, on its device."""
        inputs: dict[str, Any] = {"input_ids": self.ids.to(model.device)}
        if self.attends is None:
            inputs["attention_mask"] = self.mask.to(model.device)
        else:
            inputs["attention_mask"] = packed_mask(self.attends.to(model.device), model.model.dtype)
        if model.takes("position_ids"):
            inputs["position_ids"] = self.position_ids.to(model.device)
        return inputs | {"use_cache": False}

    def of_rows(self, rows: Sequence[int]) -> TokenLayout:
        """The same with some of the rows only, in this order."""
        index = torch.tensor(rows)
        places = {row: place for place, row in enumerate(rows)}
        kept = [i for i, row in enumerate(self.rows) if row in places]
        return TokenLayout(
            ids=self.ids[index],
            position_ids=self.position_ids[index],
            mask=self.mask[index],
            attends=None if self.attends is None else self.attends[index],
            members=tuple(self.members[i] for i in kept),
            rows=tuple(places[self.rows[i]] for i in kept),
            columns=tuple(self.columns[i] for i in kept),
        )

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """Row and column of the last token of each sequence."""
        return torch.tensor(self.rows), torch.tensor([columns[-1] for columns in self.columns])


def lay_out(
    model: EditableModel,
    sequences: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    share: bool = True,
) -> list[TokenLayout]:
    """Place sequences of at least one token into rectangles of about `max_tokens` at most.

    Args:
        model: tells whether sequences may share rows.
        sequences: token ids.
        max_tokens: b times t of a rectangle; one sequence alone may exceed it.
        share: compute what sequences have in common once, where they share rows. Without it every
            token of every sequence has a place of its own.
    """
    width = min(PACKED_WIDTH, max_tokens)
    lengths = [len(own) for own in sequences]
    packs = {length: length <= width and model.can_pack(length) for length in set(lengths)}
    longer = [i for i, length in enumerate(lengths) if not packs[length]]
    groups = micro_batches([lengths[i] for i in longer], max_tokens, alike=_FILLED)
    layouts = [_padded(model, sequences, [longer[i] for i in group]) for group in groups]
    fitting = [i for i, length in enumerate(lengths) if packs[length]]
    rows = (_shared_rows if share else _full_rows)(sequences, fitting, width)
    step = max(1, max_tokens // width)
    return layouts + [
        _packed(model, sequences, rows[i : i + step]) for i in range(0, len(rows), step)
    ]


@dataclass(frozen=True, eq=False)
class _Row:
    """Sequences of one row: the columns of their tokens, and the number of columns in use."""

    members: list[int]
    columns: list[tuple[int, ...]]
    used: int


def _shared_rows(
    sequences: Sequence[Sequence[int]], numbers: Sequence[int], width: int
) -> list[_Row]:
    """Some sequences in the order of their tokens, so that those that begin alike meet."""
    rows: list[_Row] = []
    before: Sequence[int] = ()
    for number in sorted(numbers, key=lambda i: tuple(sequences[i])):
        own = sequences[number]
        common = _common(before, own) if rows else 0
        if not rows or rows[-1].used + len(own) - common > width:
            rows.append(_Row([], [], 0))
            common = 0
        row = rows[-1]
        shared = row.columns[-1][:common] if common else ()
        fresh = range(row.used, row.used + len(own) - common)
        rows[-1] = _Row([*row.members, number], [*row.columns, (*shared, *fresh)], fresh.stop)
        before = own
    return rows


def _full_rows(
    sequences: Sequence[Sequence[int]], numbers: Sequence[int], width: int
) -> list[_Row]:
    """Some sequences, first fit, longest first: nearly every row is full."""
    rows: list[_Row] = []
    for number in sorted(numbers, key=lambda i: -len(sequences[i])):
        size = len(sequences[number])
        place = next((i for i, row in enumerate(rows) if row.used + size <= width), len(rows))
        row = rows[place] if place < len(rows) else _Row([], [], 0)
        columns = tuple(range(row.used, row.used + size))
        grown = _Row([*row.members, number], [*row.columns, columns], row.used + size)
        rows[place : place + 1] = [grown]
    return rows


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of what two sequences have in common at their beginnings."""
    count = 0
    for mine, other in zip(first, second, strict=False):
        if mine != other:
            break
        count += 1
    return count


def _packed(
    model: EditableModel, sequences: Sequence[Sequence[int]], rows: Sequence[_Row]
) -> TokenLayout:
    shape = (len(rows), max(row.used for row in rows))
    ids = torch.full(shape, model.pad_id)
    positions = torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    attends = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)
    for place, row in enumerate(rows):
        mask[place, : row.used] = 1
        for number, columns in zip(row.members, row.columns, strict=True):
            at = torch.tensor(columns)
            ids[place, at] = torch.tensor(sequences[number])
            positions[place, at] = torch.arange(len(at))
            later, earlier = torch.tril_indices(len(at), len(at))
            attends[place, at[later], at[earlier]] = True
    return TokenLayout(
        ids=ids,
        position_ids=positions,
        mask=mask,
        attends=attends,
        members=tuple(number for row in rows for number in row.members),
        rows=tuple(place for place, row in enumerate(rows) for _ in row.members),
        columns=tuple(columns for row in rows for columns in row.columns),
    )


def _padded(
    model: EditableModel, sequences: Sequence[Sequence[int]], group: Sequence[int]
) -> TokenLayout:
    batch = pad_batch([sequences[i] for i in group], model.pad_id)
    return TokenLayout(
        ids=batch.ids,
        position_ids=batch.position_ids,
        mask=batch.mask,
        attends=None,
        members=tuple(group),
        rows=tuple(range(len(group))),
        columns=tuple(tuple(range(len(sequences[i]))) for i in group),
    )
