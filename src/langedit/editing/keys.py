"""Keys and hidden states at the lookup tokens of prompts.

A causal model cannot see what follows a token, so prompts are cut after their lookup token; what
they have in common at their beginnings is computed once, and of the last layer only what the lookup
tokens need. The numbers are those of whole prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from langedit.editing.batching import Result, with_less_memory
from langedit.editing.finite import not_finite
from langedit.editing.forwards import on_tokens, replace_forwards
from langedit.editing.key_weights import bare_first, key_weights, keys_of_edits, weighted_sums
from langedit.editing.layout import TokenLayout, lay_out
from langedit.editing.passes import begin_after
from langedit.models import EditableModel, EncodedPrompt, Recorder

_KEPT = 8
"""A token of which the state is kept takes at most so much less than one that is run."""


def compute_keys(
    model: EditableModel,
    contexts: Sequence[Sequence[EncodedPrompt]],
    layers: Sequence[int],
    *,
    max_tokens: int = 8192,
) -> dict[int, Tensor]:
    """Inputs of the edited projections at the lookup tokens (algorithm 1 of MEMIT).

    The key of an edit is half its key in the bare prompt and half the mean of its keys in the
    prefixed prompts; without prefixes it is the bare one. One pass, up to the last layer asked for.

    Args:
        model: the model with the weights as they are now.
        contexts: for each edit the bare prompt, then the prefixed ones.
        layers: indices of the layers.
        max_tokens: padded tokens in one forward pass; halved where memory runs out.

    Returns:
        layer -> keys (n, d_in) float32.
    """
    prompts = [prompt for context in contexts for prompt in context]
    sizes = [len(context) for context in contexts]
    rows = prompt_keys(model, prompts, layers, max_tokens=max_tokens)
    return {layer: keys_of_edits(sizes, keys) for layer, keys in rows.items()}


def prompt_keys(
    model: EditableModel,
    prompts: Sequence[EncodedPrompt],
    layers: Sequence[int],
    *,
    max_tokens: int = 8192,
) -> dict[int, Tensor]:
    """Layer -> inputs (n, d_in), float32, of its edited projection at the lookup tokens."""
    cut = [_cut(prompt) for prompt in prompts]

    def run(limit: int) -> dict[int, Tensor]:
        parts = [_Stretch(layout) for layout in lay_out(model, cut, limit)]
        for part in parts:
            part.run(model, keys=layers)
        return {layer: _in_order([(p.layout, p.keys[layer]) for p in parts]) for layer in layers}

    return _within_memory(model, run, max_tokens, cut)


def lookup_hidden(
    model: EditableModel, prompts: Sequence[EncodedPrompt], layer: int, *, max_tokens: int = 8192
) -> Tensor:
    """Outputs (n, d_model), float32, of a layer at the lookup tokens of n prompts."""
    cut = [_cut(prompt) for prompt in prompts]

    def run(limit: int) -> Tensor:
        parts = [_Stretch(layout) for layout in lay_out(model, cut, limit)]
        for part in parts:
            part.run(model, hidden=layer)
        return _in_order([(part.layout, part.reached) for part in parts])

    return _within_memory(model, run, max_tokens, cut)


def lookup_projected(
    model: EditableModel, prompts: Sequence[EncodedPrompt], layer: int, *, max_tokens: int = 8192
) -> Tensor:
    """Outputs (n, d_model), float32, of a layer's edited projection at the lookup tokens."""
    cut = [_cut(prompt) for prompt in prompts]

    def run(limit: int) -> Tensor:
        parts = [_Stretch(layout) for layout in lay_out(model, cut, limit)]
        for part in parts:
            part.run(model, projected=layer)
        return _in_order([(part.layout, part.projected) for part in parts])

    return _within_memory(model, run, max_tokens, cut)


class LayerWalk:
    """Keys of one layer after the other, rising, while the layers are edited on the way.

    What enters the layer that was read last is kept, so that the next reading need not begin at the
    embeddings again. Where memory ran out, little is kept. A layer may be edited after it was read,
    those below it may not.
    """

    def __init__(
        self,
        model: EditableModel,
        contexts: Sequence[Sequence[EncodedPrompt]],
        last: int,
        *,
        max_tokens: int = 8192,
    ) -> None:
        """Prepare; nothing is run.

        Args:
            model: the model; its weights are read as they are at each reading.
            contexts: for each edit the bare prompt, then the prefixed ones.
            last: index of the layer whose output at the bare prompts is read along.
            max_tokens: padded tokens in one forward pass; halved where memory runs out.
        """
        self._model = model
        self._last = last
        self._limit = self._asked = max_tokens
        self._bare = [_cut(context[0]) for context in contexts]
        self._prefixed = [_cut(prompt) for context in contexts for prompt in context[1:]]
        self._tokens = sum(map(len, [*self._bare, *self._prefixed]))
        self._weights = key_weights([len(context) for context in contexts])
        self._weights = self._weights[:, bare_first([len(context) for context in contexts])]
        self._stretches: tuple[list[_Stretch], list[_Stretch]] | None = None

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys (n, d_in) of a layer, as of `compute_keys`; outputs (n, d_model) of the last one.

        Both float32, with the weights as they are now, and from one pass over every prompt.
        """

        def run(limit: int) -> tuple[Tensor, Tensor]:
            if self._stretches is None or limit != self._limit:
                self._limit, self._stretches = limit, None
                self._stretches = self._begin(limit)
            bare, prefixed = self._stretches
            keep = layer if limit == self._asked or self._tokens <= _KEPT * limit else None
            for part in bare:
                part.run(self._model, keys=[layer], hidden=self._last, keep=keep)
            for part in prefixed:
                part.run(self._model, keys=[layer], keep=keep)
            rows = [
                _in_order([(p.layout, p.keys[layer]) for p in ps]) for ps in (bare, prefixed) if ps
            ]
            keys = torch.cat([own.to(rows[0].device) for own in rows])
            hidden = _in_order([(part.layout, part.reached) for part in bare])
            return weighted_sums(self._weights.to(keys.device), keys), hidden

        return _within_memory(self._model, run, self._limit, [*self._bare, *self._prefixed])

    def _begin(self, limit: int) -> tuple[list[_Stretch], list[_Stretch]]:
        bare, prefixed = (
            [_Stretch(layout) for layout in lay_out(self._model, own, limit)] if own else []
            for own in (self._bare, self._prefixed)
        )
        return bare, prefixed


class _Stretch:
    """A rectangle of prompts on its way through the layers.

    Attributes:
        layout: where the prompts' tokens are.
        keys: layer -> (prompts, d_in) float32 at the lookup tokens, of the last run.
        reached: (prompts, d_model) float32, output of the layer asked for, of the last run.
        projected: (prompts, d_model) float32, output of the edited projection asked for, likewise.
    """

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        self.keys: dict[int, Tensor] = {}
        self.reached = torch.empty(0)
        self.projected = torch.empty(0)
        self._entering = 0
        self._states: Tensor | None = None

    def run(
        self,
        model: EditableModel,
        *,
        keys: Sequence[int] = (),
        hidden: int | None = None,
        projected: int | None = None,
        keep: int | None = None,
    ) -> None:
        """Run from where the states that are kept enter.

        Args:
            model: the model.
            keys: layers whose keys are read.
            hidden: layer whose output is read.
            projected: layer the output of whose edited projection is read.
            keep: layer whose input, of all tokens, is kept for the next run.
        """
        top = max([*keys, *(layer for layer in (hidden, projected) if layer is not None)])
        inputs = {layer: model.projection_name(layer) for layer in keys}
        outputs = [] if hidden is None else [model.layer_name(hidden)]
        given = None if projected is None else model.projection_name(projected)
        kept = model.layer_name(keep - 1) if keep and keep > self._entering else None
        whole = model.layer_name(top) if hidden == top else None
        inner = model.projection_name(top)
        recorder = Recorder(
            model.model,
            inputs=inputs.values(),
            outputs=[*outputs, *(name for name in (given, kept) if name)],
            stop_after=whole or (inner if projected == top else None),
            stop_before=None if whole or projected == top else inner,
        )
        forwards = []
        if self._states is not None:
            forwards = begin_after(model, self._entering - 1, self._states)
        mlp = model.behaviour.mlp
        if mlp is not None:  # of the last layer nobody reads more than the lookup tokens
            module = model.layer(top).get_submodule(mlp)
            forwards.append((module, on_tokens(module, *self.layout.last)))
        with torch.no_grad(), replace_forwards(forwards), recorder:
            model.model(**self.layout.inputs(model))

        def inside(layer: int, states: Tensor) -> Tensor:
            packed = mlp is not None and layer == top
            return (states[0] if packed else self._at_lookup(states)).float()

        for layer, name in inputs.items():
            self.keys[layer] = inside(layer, recorder.inputs[name])
        if projected is not None and given:
            self.projected = inside(projected, recorder.outputs[given])
        if hidden is not None:
            self.reached = self._at_lookup(recorder.outputs[outputs[0]]).float()
        if kept:
            self._states = recorder.outputs[kept]
            self._entering = keep or 0
        if len(self.layout.members) > 1:
            self._look_apart(model, keys, hidden, projected)

    def _look_apart(
        self,
        model: EditableModel,
        keys: Sequence[int],
        hidden: int | None,
        projected: int | None,
    ) -> None:
        """Run prompts whose values are not finite again, each alone.

        Prompts in one row spread such values: a masked token weighs 0 in attention, and 0 times
        what is no number is none. Afterwards only those have them whose own doing it is.
        """
        read = [self.keys[layer] for layer in keys]
        read += [] if hidden is None else [self.reached]
        read += [] if projected is None else [self.projected]
        for i in sorted({i for rows in read for i in not_finite(rows)}):
            ids = self.layout.ids[self.layout.rows[i], list(self.layout.columns[i])].tolist()
            alone = _Stretch(lay_out(model, [ids], len(ids))[0])
            alone.run(model, keys=keys, hidden=hidden, projected=projected)
            again = [alone.keys[layer] for layer in keys]
            again += [] if hidden is None else [alone.reached]
            again += [] if projected is None else [alone.projected]
            for rows, own in zip(read, again, strict=True):
                rows[i] = own[0].to(rows)

    def _at_lookup(self, states: Tensor) -> Tensor:
        """(prompts, width) of states of all tokens, which some models (OPT) give as one list."""
        rows, columns = (at.to(states.device) for at in self.layout.last)
        return states.reshape(*self.layout.ids.shape, -1)[rows, columns]


def _cut(prompt: EncodedPrompt) -> tuple[int, ...]:
    return prompt.ids[: prompt.lookup + 1]


def _within_memory(
    model: EditableModel,
    run: Callable[[int], Result],
    limit: int,
    sequences: Sequence[Sequence[int]],
) -> Result:
    """Run with a limit of tokens that is halved until memory suffices.

    Raises:
        LangEditError: not even the longest sequence fits.
    """
    longest = max(map(len, sequences))
    return with_less_memory(
        run,
        limit,
        most=len(sequences) * longest,
        least=longest,
        limits=model.limits,
        kind="keys",
        what="the longest prompt",
    )


def _in_order(parts: Sequence[tuple[TokenLayout, Tensor]]) -> Tensor:
    """Rows of all layouts in the order of the sequences, on the first one's device."""
    order = torch.tensor([member for layout, _ in parts for member in layout.members]).argsort()
    device = parts[0][1].device
    return torch.cat([rows.to(device) for _, rows in parts])[order.to(device)]
