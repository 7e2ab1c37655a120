"""Suffixes as padded rows, after the keys and values of their prefixes, or as whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from langedit.editing.forwards import Forward, head_on_tokens, on_tokens, replace_forwards
from langedit.editing.passes import TokenStates, begin_after, begin_at, pass_on
from langedit.editing.prefix_cache import PrefixCache
from langedit.editing.suffix_batch import SuffixBatch, SuffixRow
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class PaddedSuffixes:
    """See `Suffixes`. Serves every model, with or without a cache.

    Attributes:
        model: the model; a step leaves it as it was.
        layer: index of the layer whose output, or the output of whose projection, is changed.
        loss_layer: index of the layer whose output the final norm and the head read; the last one
            for the model's own logits.
        hidden: (rows, suffix, d_model) outputs of the changed layer or projection, in the model's
            dtype.
        entering: (rows, suffix, d_model) what enters the layer, where its projection is changed;
            else `None`.
        batch: the suffixes' tokens.
        cache: the prefixes; `None` where suffixes are whole sequences.
    """

    model: EditableModel
    layer: int
    loss_layer: int
    hidden: Tensor
    entering: Tensor | None
    batch: SuffixBatch
    cache: PrefixCache | None

    @classmethod
    def build(
        cls,
        model: EditableModel,
        rows: Sequence[SuffixRow],
        layer: int,
        loss_layer: int,
        states: TokenStates,
        entering: TokenStates | None,
        cache: PrefixCache | None,
    ) -> PaddedSuffixes:
        """Cut the rows before their lookup tokens where there is a cache.

        Args:
            model: the model.
            rows: the sequences.
            layer: index of the layer whose output is changed.
            loss_layer: index of the layer that is read.
            states: outputs of the changed layer or projection.
            entering: what enters the layer, where its projection is changed.
            cache: keys and values of the prefixes.
        """
        cut = cache is not None
        suffixes = [
            index[row.lookup if cut else 0 :] for row, index in zip(rows, states.index, strict=True)
        ]
        return cls(
            model=model,
            layer=layer,
            loss_layer=loss_layer,
            hidden=states.rectangle(suffixes),
            entering=None if entering is None else entering.rectangle(suffixes),
            batch=SuffixBatch.build(rows, model.pad_id, cut=cut),
            cache=cache,
        )

    @property
    def at_lookup(self) -> Tensor:
        """(rows, d_model) outputs of the changed layer or projection at the lookup tokens."""
        return self.hidden[torch.arange(len(self.hidden)), self.batch.lookup]

    def logits(self, delta: Tensor) -> Tensor:
        """As `Suffixes.logits`."""
        rows = torch.arange(len(self.hidden), device=self.hidden.device)
        delta = delta.to(self.hidden.device)
        changed = (self.at_lookup.float() + delta).to(self.hidden.dtype)
        hidden = self.hidden.index_put((rows, self.batch.lookup.to(rows.device)), changed)
        with (
            replace_forwards(self._forwards(hidden)),
            head_on_tokens(self.model, *self.batch.wanted),
        ):
            output = self.model.model(**self._inputs())
        logits: Tensor = output.logits
        return logits.squeeze(0).float()

    def select(self, rows: Tensor) -> PaddedSuffixes:
        """As `Suffixes.select`."""
        batch = self.batch.select(rows)
        length = batch.ids.shape[1]

        def chosen(states: Tensor) -> Tensor:
            return states[rows.to(states.device), :length]

        return replace(
            self,
            hidden=chosen(self.hidden),
            entering=None if self.entering is None else chosen(self.entering),
            batch=batch,
            cache=None if self.cache is None else self.cache.select(rows, batch.prefix),
        )

    def _inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model for the suffix tokens."""
        batch, device = self.batch, self.model.device
        inputs: dict[str, Any] = {
            "input_ids": batch.ids.to(device),
            "attention_mask": batch.mask.to(device),
            "use_cache": self.cache is not None,
        }
        if self.cache is not None:
            inputs["past_key_values"] = self.cache.fresh()
        if self.model.takes("position_ids"):
            inputs["position_ids"] = batch.position_ids.to(device)
        return inputs

    def _forwards(self, hidden: Tensor) -> list[tuple[nn.Module, Forward]]:
        """What modules do instead of their own work in a step.

        Layers up to the changed one give `hidden`, and those after the loss layer pass their input
        on; where a projection is changed, it gives `hidden` instead, and its layer begins with what
        entered it. In the layers that run, linear modules and MLPs skip padding, and the MLP of the
        last of them every token whose logits nobody wants.
        """
        model, end, behaviour = self.model, self.loss_layer, self.model.behaviour
        if self.entering is None:
            first, forwards = self.layer + 1, begin_after(model, self.layer, hidden)
        else:
            first, forwards = self.layer, begin_at(model, self.layer, self.entering)
        forwards += [
            (model.layer(i), pass_on(model)) for i in range(end + 1, model.structure.n_layers)
        ]
        for i in range(first, end + 1):
            block = model.layer(i)
            parts = [(name, self.batch.tokens) for name in behaviour.linears]
            if behaviour.mlp is not None:
                parts.append((behaviour.mlp, self._mlp_tokens(i)))
            for name, tokens in parts:
                module = block.get_submodule(name)
                forwards.append((module, on_tokens(module, *tokens)))
        if self.entering is not None:  # last: the projection may be among the linear modules
            forwards.append((model.projection(self.layer), self._projecting(hidden)))
        return forwards

    def _mlp_tokens(self, layer: int) -> tuple[Tensor, Tensor]:
        """Row and column of the tokens that the MLP of a layer is run on."""
        return self.batch.wanted if layer == self.loss_layer else self.batch.tokens

    def _projecting(self, hidden: Tensor) -> Forward:
        """A `forward` that gives `hidden` at the tokens on which the MLP around it is run."""
        given = hidden.flatten(0, 1)
        if self.model.behaviour.mlp is not None:
            rows, columns = self._mlp_tokens(self.layer)
            given = given.index_select(0, (rows * hidden.shape[1] + columns).to(hidden.device))

        def project(states: Tensor) -> Tensor:
            return given.reshape(*states.shape[:-1], -1)

        return project
