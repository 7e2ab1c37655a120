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


def begin_at(model: EditableModel, layer: int, hidden: Tensor) -> list[tuple[nn.Module, Forward]]:
    """What layers do instead of their own work when `hidden` is given as the input of `layer`.

    Args:
        model: the model.
        layer: index of the layer; those before it pass on what comes in.
        hidden: (b, t, d_model).
    """
    own = model.layer(layer)
    forward = own.forward

    def enter(*args: Any, **kwargs: Any) -> Any:
        entering = hidden.clone()  # a layer may add to it in place
        if args:
            return forward(entering, *args[1:], **kwargs)
        return forward(**{**kwargs, "hidden_states": entering})

    return [*((model.layer(i), pass_on(model)) for i in range(layer)), (own, enter)]


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
        layouts = lay_out(model, sequences, max_tokens)
        seen = [_record(model, layout, outputs=[name], stop_after=name) for layout in layouts]
        index = _index(layouts, len(sequences))
        return cls(values=_joined([record.outputs[name] for record in seen]), index=index)

    @classmethod
    def around_projection(
        cls,
        model: EditableModel,
        sequences: Sequence[Sequence[int]],
        layer: int,
        max_tokens: int,
    ) -> tuple[TokenStates, TokenStates]:
        """What enters a layer, and what its edited projection gives."""
        name, inner = model.layer_name(layer), model.projection_name(layer)
        layouts = lay_out(model, sequences, max_tokens)
        seen = [
            _record(model, layout, inputs=[name], outputs=[inner], stop_after=inner)
            for layout in layouts
        ]
        index = _index(layouts, len(sequences))
        return (
            cls(values=_joined([record.inputs[name] for record in seen]), index=index),
            cls(values=_joined([record.outputs[inner] for record in seen]), index=index),
        )

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


def _record(
    model: EditableModel,
    layout: TokenLayout,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    stop_after: str,
) -> Recorder:
    recorder = Recorder(model.model, inputs=inputs, outputs=outputs, stop_after=stop_after)
    with torch.no_grad(), recorder:
        model.model(**layout.inputs(model))
    return recorder


def _joined(states: Sequence[Tensor]) -> Tensor:
    """(tokens of all layouts, width); some modules (OPT's MLPs) give one list of rows anyway."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in states])


def _index(layouts: Sequence[TokenLayout], sequences: int) -> tuple[Tensor, ...]:
    """For each sequence where its tokens are among those of all layouts."""
    index = [torch.zeros(0, dtype=torch.int64)] * sequences
    start = 0
    for layout in layouts:
        width = layout.ids.shape[1]
        for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
            index[member] = torch.tensor(columns) + (start + row * width)
        start += layout.ids.numel()
    return tuple(index)
