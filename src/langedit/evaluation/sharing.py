"""Sequences that begin alike share the work that is done token by token.

A causal model gives the tokens of a common beginning the same hidden states in every sequence. So
a sequence that begins another needs no row of its own, and in the rows that remain the MLPs, most
of a model's arithmetic, run once for each distinct beginning. Attention sees the rows as they are,
so masks and positions are the model's own business. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langedit.editing.forwards import Forward, replace_forwards
from langedit.models import EditableModel, PaddedBatch


def maximal_rows(
    sequences: Sequence[tuple[int, ...]],
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The distinct sequences that begin no other one, in lexicographic order.

    Returns:
        Those rows, and for each sequence the number of a row that it begins.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    rows: list[tuple[int, ...]] = []
    owners = [0] * len(sequences)
    for i in reversed(order):
        sequence = sequences[i]
        if not rows or rows[-1][: len(sequence)] != sequence:
            rows.append(sequence)
        owners[i] = len(rows) - 1
    last = len(rows) - 1
    return rows[::-1], [last - owner for owner in owners]


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginnings:
    """The distinct beginnings of a batch's rows.

    Attributes:
        rows: (m,) int64 row in which each first occurs.
        columns: (m,) int64 column of its last token there.
        index: (n, t) int64 number of the beginning that ends at each place; any at padding.
    """

    rows: Tensor
    columns: Tensor
    index: Tensor

    @classmethod
    def of(cls, batch: PaddedBatch) -> Beginnings:
        """Find them in a batch in lexicographic order, padded on the right."""
        real = batch.mask.bool()
        same = torch.zeros_like(real)
        same[1:] = (batch.ids[1:] == batch.ids[:-1]) & real[1:] & real[:-1]
        first = real & ~same.long().cumprod(dim=1).bool()
        rows, columns = first.nonzero(as_tuple=True)
        index = torch.full_like(batch.ids, -1)
        index[rows, columns] = torch.arange(len(rows))
        return cls(rows=rows, columns=columns, index=index.cummax(dim=0).values.clamp(min=0))

    def to(self, device: torch.device) -> Beginnings:
        """The same on another device."""
        rows, columns, index = (t.to(device) for t in (self.rows, self.columns, self.index))
        return Beginnings(rows=rows, columns=columns, index=index)


@contextmanager
def shared_mlps(model: EditableModel, beginnings: Beginnings, wanted: Tensor) -> Iterator[None]:
    """Run MLPs on distinct beginnings only, within the `with`.

    Args:
        model: the model; families whose MLP is no module of its own (OPT) run as always.
        beginnings: of the batch that will be run.
        wanted: (w,) int64 numbers of the beginnings whose last hidden state is used: in the last
            layer the others get no MLP.
    """
    last = model.structure.n_layers - 1
    beginnings, wanted = beginnings.to(model.device), wanted.to(model.device)
    forwards = []
    for layer in range(last + 1):
        name = model.projection_name(layer).rpartition(".")[0]
        if name == model.layer_name(layer):
            return (yield)
        module = model.model.get_submodule(name)
        forwards.append(
            (module, _on_distinct(module, beginnings, wanted if layer == last else None))
        )
    with replace_forwards(forwards):
        yield


def _on_distinct(module: nn.Module, beginnings: Beginnings, only: Tensor | None) -> Forward:
    """A `forward` that runs a token-wise module once for each beginning, or for some of them.

    A module that does not map (n, t, width) to the same runs as always.
    """
    forward = module.forward
    rows, columns, index = beginnings.rows, beginnings.columns, beginnings.index
    if only is not None:
        rows, columns = rows[only], columns[only]

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        if any(tensor.shape[:2] != index.shape for tensor in tensors):
            return forward(*args, **kwargs)

        def pick(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value[rows.to(value.device), columns.to(value.device)].unsqueeze(0)

        output = forward(*map(pick, args), **{name: pick(v) for name, v in kwargs.items()})
        if not isinstance(output, Tensor):
            return forward(*args, **kwargs)
        packed = output[0]
        if only is None:
            return packed[index.to(packed.device)]
        full = packed.new_zeros((*index.shape, packed.shape[-1]))
        full[rows.to(packed.device), columns.to(packed.device)] = packed
        return full

    return run
