"""Begin a forward pass in the middle of a model, and keep what comes out of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langedit.editing.forwards import Forward
from langedit.editing.layout import TokenLayout, lay_out
from langedit.models import EditableModel, Recorder


def begin_after(
    model: EditableModel, layer: int, hidden: Tensor
) -> list[tuple[nn.Module, Forward]]:
    """What layers do instead of their own work when `hidden` is given as the output of `layer`.

    Args:
        model: the model.
        layer: index of the layer; those before it pass on what comes in.
        hidden: (b, t, d_model).
    """
    length = model.behaviour.tuple_length

    def give(value: Tensor) -> Any:
        return value if length is None else (value, *[None] * (length - 1))

    def inject(*_args: Any, **_kwargs: Any) -> Any:
        return give(hidden)

    passing = [(model.layer(i), pass_on(model)) for i in range(layer)]
    return [*passing, (model.layer(layer), inject)]


def pass_on(model: EditableModel) -> Forward:
    """The `forward` of a layer that changes nothing."""
    length = model.behaviour.tuple_length

    def forward(*args: Any, **kwargs: Any) -> Any:
        value = args[0] if args else kwargs["hidden_states"]
        return value if length is None else (value, *[None] * (length - 1))

    return forward


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStates:
    """Hidden states of the tokens of some sequences, each kept once.

    Attributes:
        values: (tokens, d_model) in the model's dtype.
        index: for each sequence the rows of its tokens, int64 on the CPU.
    """

    values: Tensor
    index: tuple[Tensor, ...]

    @classmethod
    def compute(
        cls,
        model: EditableModel,
        sequences: Sequence[Sequence[int]],
        layer: int,
        max_tokens: int,
    ) -> TokenStates:
        """Run sequences up to the output of a layer."""
        name = model.layer_name(layer)
        values: list[Tensor] = []
        index: list[Tensor] = [torch.zeros(0, dtype=torch.int64)] * len(sequences)
        start = 0
        for layout in lay_out(model, sequences, max_tokens):
            with (
                torch.no_grad(),
                Recorder(model.model, outputs=[name], stop_after=name) as record,
            ):
                model.model(**layout.inputs(model))
            values.append(record.outputs[name].flatten(0, 1))
            width = layout.ids.shape[1]
            for member, row, columns in zip(
                layout.members, layout.rows, layout.columns, strict=True
            ):
                index[member] = torch.tensor(columns) + (start + row * width)
            start += layout.ids.numel()
        return cls(values=torch.cat(values), index=tuple(index))

    def rectangle(self, rows: Sequence[Tensor]) -> Tensor:
        """(n, t, d_model) of token rows as in `index`, filled up with any token."""
        at = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return self.values[at.to(self.values.device)]

    def placed(self, layout: TokenLayout) -> Tensor:
        """(b, t, d_model) of sequences, or of their beginnings, where a layout has them."""
        at = torch.zeros(layout.ids.shape, dtype=torch.int64)
        for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
            at[row, torch.tensor(columns)] = self.index[member][: len(columns)]
        return self.values[at.to(self.values.device)]
