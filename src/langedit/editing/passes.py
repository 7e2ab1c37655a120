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

    def inject(*_args: Any, **_kwargs: Any) -> Any:
        given = hidden.clone()  # the next layer may add to it in place
        return given if length is None else (given, *[None] * (length - 1))

    passing = [(model.layer(i), pass_on(model)) for i in range(layer)]
    return [*passing, (model.layer(layer), inject)]


def begin_at(model: EditableModel, layer: int, hidden: Tensor) -> list[tuple[nn.Module, Forward]]:
    """The same when `hidden` is what enters `layer`, which may be the first."""
    if layer > 0:
        return begin_after(model, layer - 1, hidden)
    block = model.layer(layer)
    return [(block, entered(block.forward, hidden))]


def entered(forward: Forward, hidden: Tensor) -> Forward:
    """A layer's `forward` on a hidden state of its own, whatever it is called with."""

    def run(*args: Any, **kwargs: Any) -> Any:
        given = hidden.clone()  # a layer may add to it in place
        if args:
            return forward(given, *args[1:], **kwargs)
        return forward(**{**kwargs, "hidden_states": given})

    return run


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


def token_states(
    model: EditableModel,
    sequences: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    stop_after: str,
) -> dict[str, TokenStates]:
    """What enters or leaves named modules at every token of some sequences.

    Args:
        model: the model.
        sequences: token ids.
        max_tokens: tokens in one forward pass.
        inputs: names of modules whose input is kept.
        outputs: names of modules whose output is kept.
        stop_after: name of the module after which passes end.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in (*inputs, *outputs)}
    index: list[Tensor] = [torch.zeros(0, dtype=torch.int64)] * len(sequences)
    start = 0
    for layout in lay_out(model, sequences, max_tokens):
        recorder = Recorder(model.model, inputs=inputs, outputs=outputs, stop_after=stop_after)
        with torch.no_grad(), recorder:
            model.model(**layout.inputs(model))
        count, width = layout.ids.numel(), layout.ids.shape[1]
        for name, states in (recorder.inputs | recorder.outputs).items():
            found[name].append(states.reshape(count, -1))  # OPT's MLPs see rows of tokens
        for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
            index[member] = torch.tensor(columns) + (start + row * width)
        start += count
    return {
        name: TokenStates(values=torch.cat(parts), index=tuple(index))
        for name, parts in found.items()
    }
