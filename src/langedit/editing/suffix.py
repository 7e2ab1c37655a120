"""Run only what a change of one hidden state can reach: late layers, late tokens.

A change `delta` of the output of one layer, or of the edited projection in it, at the lookup token
of a prompt cannot reach earlier layers, nor tokens before the lookup token. `SuffixRunner` computes
those once:

* the keys and values of the tokens before the lookup token, in every layer (the *prefix*,
  padded on the left, so that distances between indices are distances between positions, which
  sliding windows and ALiBi rely on);
* the hidden states of the other tokens (the *suffix*, padded on the right) after the layer, or
  before the layer and after the projection.

A step then runs the model on the suffixes with the layers up to the changed one replaced by
pass-throughs (but for the layer itself where its projection is changed), and the output head on the
wanted positions only. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from langedit.editing.forwards import Forward, head_on_tokens, on_tokens, replace_forwards
from langedit.editing.prefix_cache import PrefixCache, takes
from langedit.editing.suffix_batch import SuffixBatch, SuffixRow
from langedit.models import EditableModel, Recorder


class SuffixRunner:
    """Logits of a batch of rows as a function of a change at one layer and one token a row.

    Attributes:
        hidden: (rows, suffix, d_model) outputs of the changed layer or projection, in the model's
            dtype.
        at_lookup: (rows, d_model) the same at the lookup tokens.
    """

    def __init__(
        self,
        model: EditableModel,
        rows: Sequence[SuffixRow],
        layer: int,
        loss_layer: int,
        *,
        site: Literal["layer", "projection"] = "layer",
        use_cache: bool = True,
    ) -> None:
        """Run the parts that do not depend on the change.

        Args:
            model: the model; it is left as it was.
            rows: the sequences; wanted positions lie at or after the lookup token.
            layer: index of the layer whose output is changed.
            site: whether that is the output of the whole layer or of its edited projection.
            loss_layer: index of the layer whose output the final norm and the head read;
                the last one for the model's own logits.
            use_cache: keep keys and values of the prefixes where the model's kind of cache allows
                it; else whole sequences are run at each step. Both give the same numbers.
        """
        self._model = model
        self._layer = layer
        self._loss_layer = loss_layer
        self._site = site
        before = [row.ids[: row.lookup] for row in rows] if use_cache else []
        cache = PrefixCache.compute(model, before, loss_layer) if any(before) else None
        batch = SuffixBatch.build(rows, model.pad_id, cut=cache is not None)
        self._batch = batch
        self._cache = cache
        self._entering, self.hidden, self._kind = self._run_to_layer()

    @property
    def at_lookup(self) -> Tensor:
        """(rows, d_model) outputs of the changed layer or projection at the lookup tokens."""
        return self.hidden[torch.arange(len(self.hidden)), self._batch.lookup]

    def logits(self, delta: Tensor) -> Tensor:
        """Logits at the wanted positions, row after row, with `delta` added.

        Args:
            delta: (rows, d_model) float32, added to the output at the lookup tokens.

        Returns:
            (wanted positions of all rows, vocabulary) float32, differentiable in `delta`.
        """
        rows = torch.arange(len(self.hidden), device=self.hidden.device)
        delta = delta.to(self.hidden.device)
        changed = (self.at_lookup.float() + delta).to(self.hidden.dtype)
        hidden = self.hidden.index_put((rows, self._batch.lookup.to(rows.device)), changed)
        with (
            replace_forwards(self._forwards(hidden)),
            head_on_tokens(self._model, *self._batch.wanted),
        ):
            output = self._model.model(**self._inputs())
        logits: Tensor = output.logits
        return logits[0].float()

    def select(self, rows: Tensor) -> SuffixRunner:
        """The same for some of the rows: `rows` is an int64 index, in rising order."""
        other = object.__new__(SuffixRunner)
        other.__dict__.update(self.__dict__)
        other.hidden = self.hidden[rows.to(self.hidden.device)]
        other._entering = self._entering[rows.to(self._entering.device)]
        other._batch = self._batch.select(rows)
        other._cache = None if self._cache is None else self._cache.select(rows)
        return other

    def _inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model for the suffix tokens."""
        batch, device = self._batch, self._model.device
        inputs: dict[str, Any] = {
            "input_ids": batch.ids.to(device),
            "attention_mask": batch.mask.to(device),
            "use_cache": self._cache is not None,
        }
        if self._cache is not None:
            inputs["past_key_values"] = self._cache.fresh()
        if takes(self._model.model, "position_ids"):
            inputs["position_ids"] = batch.position_ids.to(device)
        return inputs

    def _run_to_layer(self) -> tuple[Tensor, Tensor, _LayerKind]:
        """For the suffixes, what enters the layer and what the changed module gives.

        The third is how layers of this model behave.
        """
        kinds: list[_LayerKind] = []
        name, inner = self._model.layer_name(self._layer), self._mlp(self._layer)
        shape = self._batch.ids.shape
        changed = name if self._site == "layer" else self._model.projection_name(self._layer)

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            length = len(output) if isinstance(output, tuple) else None
            seen = recorder.outputs.get(inner) if inner else None
            kinds.append(_LayerKind(length, seen is not None and seen.shape[:2] == shape))

        outputs = [changed, *([inner] if inner else [])]
        handle = self._model.layer(self._layer).register_forward_hook(note)
        try:
            with (
                torch.no_grad(),
                Recorder(
                    self._model.model, inputs=[name], outputs=outputs, stop_after=name
                ) as recorder,
            ):
                self._model.model(**self._inputs())
        finally:
            handle.remove()
        hidden = recorder.outputs[changed].reshape(*shape, -1)  # OPT's MLPs see rows of tokens
        return recorder.inputs[name], hidden, kinds[0]

    def _mlp(self, layer: int) -> str | None:
        """Name of the module around the edited projection; `None` where that is the layer."""
        name = self._model.projection_name(layer).rpartition(".")[0]
        return None if name == self._model.layer_name(layer) else name

    def _forwards(self, hidden: Tensor) -> list[tuple[nn.Module, Forward]]:
        """What modules do instead of their own work in a step.

        Layers before the changed one, and after the loss layer, pass their input on; the changed
        one, or its projection, gives `hidden`. In the layers between, MLPs skip padding, and in the
        last of them every token whose logits nobody wants.
        """

        def give(value: Tensor) -> Any:
            length = self._kind.tuple_length
            return value if length is None else (value, *[None] * (length - 1))

        def pass_on(*args: Any, **kwargs: Any) -> Any:
            return give(args[0] if args else kwargs["hidden_states"])

        def inject(*_args: Any, **_kwargs: Any) -> Any:
            return give(hidden)

        def project(rows: Tensor) -> Tensor:
            return hidden.reshape(*rows.shape[:-1], -1)

        model, layer, end = self._model, self._layer, self._loss_layer
        passing = [*range(layer), *range(end + 1, model.structure.n_layers)]
        forwards: list[tuple[nn.Module, Forward]] = [(model.layer(i), pass_on) for i in passing]
        if self._site == "layer":
            forwards.append((model.layer(layer), inject))
        else:
            own = model.layer(layer)
            forwards += [(own, self._entered(own.forward)), (model.projection(layer), project)]
        for i in range(layer + 1, end + 1) if self._kind.packs_mlp else ():
            module = model.model.get_submodule(str(self._mlp(i)))
            tokens = self._batch.wanted if i == end else self._batch.tokens
            forwards.append((module, on_tokens(module, *tokens)))
        return forwards

    def _entered(self, forward: Forward) -> Forward:
        """A layer's `forward` on what entered the layer, whatever it is called with."""

        def run(*args: Any, **kwargs: Any) -> Any:
            hidden = self._entering.clone()  # a layer may add to it in place
            if args:
                return forward(hidden, *args[1:], **kwargs)
            return forward(**{**kwargs, "hidden_states": hidden})

        return run


@dataclass(frozen=True)
class _LayerKind:
    """How the decoder layers of a model behave.

    `tuple_length`: items of the tuple that a layer returns, `None` if it returns a tensor.
    `packs_mlp`: the MLP is a module of its own that maps (batch, length, ...) to the same.
    """

    tuple_length: int | None
    packs_mlp: bool
