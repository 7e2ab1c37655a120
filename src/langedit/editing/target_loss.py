"""The objective of the target hidden states, as a function of the changes of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.editing.suffix import RemadeSuffixes, build_suffixes
from langedit.editing.target_part import LossPart, Share
from langedit.editing.target_rows import Division, loss_rows
from langedit.models import EditableModel

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTerms:
    """Parts of the target loss of n facts, each (n,) float32.

    Attributes:
        total: what is minimised, the sum of the next three.
        nll: mean over contexts of the mean negative log-likelihood of the target's tokens, in nats.
        kl: `kl_weight` times KL(edited || original) at the subject of the KL prompt.
        decay: `value_weight_decay` times |delta| / |h|^2.
        margin: in nats, by how much the least safe target token is more probable than every other
            token, over contexts and positions; not computed, and minus infinity, where no
            `stop_margin` is set.
    """

    total: Tensor
    nll: Tensor
    kl: Tensor
    decay: Tensor
    margin: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The loss at one delta.

    Attributes:
        terms: parts of the loss, each (n,).
        originals: for each part of the rows the (KL positions, vocabulary) log-probabilities that
            the divergence is from: those at this delta, if there were none before.
        gradient: makes the gradient of the sum of the facts' losses in delta, (n, d_model); once.
    """

    terms: LossTerms
    originals: tuple[Tensor, ...]
    gradient: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetLoss:
    """The target loss of n facts as a function of delta, over the facts still in the batch.

    Loss and gradient are sums over rows, so that rows may be divided into parts which are run one
    after the other at the same delta.

    Attributes:
        parts: the rows; of the graph that a gradient needs there is that of one part at a time.
        config: weights of the terms.
        initial_hidden: (n, d_model) float32, h at the lookup token of the bare prompt.
    """

    parts: tuple[LossPart, ...]
    config: EditConfig
    initial_hidden: Tensor

    @classmethod
    def build(
        cls,
        requests: Sequence[EditRequest],
        model: EditableModel,
        config: EditConfig,
        *,
        site: Literal["layer", "projection"],
        use_cache: bool,
        tokens: int,
    ) -> TargetLoss:
        """Encode rows, run what does not depend on delta, and note the original prediction.

        What does not depend on delta is run for each part by itself, and kept as `Division` says.

        Args:
            requests: n facts.
            model: the model.
            config: the settings.
            site: as for `optimise_targets`.
            use_cache: as for `build_suffixes`.
            tokens: padded tokens of a part; one row alone may exceed it.
        """
        owned = [
            (own, fact)
            for fact, request in enumerate(requests)
            for own in loss_rows(request, divergence=bool(config.kl_weight))
        ]
        facts = [fact for _, fact in owned]
        division = Division.of([own.row for own, _ in owned], tokens)
        layer = config.layers[-1]
        last = model.structure.n_layers - 1
        limit = config.micro_batch_tokens
        make = partial(
            build_suffixes,
            model,
            layer=layer,
            loss_layer=last if config.loss_layer is None else config.loss_layer,
            site=site,
            max_tokens=limit if len(division.parts) == 1 else min(limit, tokens),
            use_cache=use_cache,
        )
        parts = []
        for numbers in division.parts:
            rows = [owned[i][0] for i in numbers]
            plain = [own.row for own in rows]
            suffixes = make(plain) if division.keeps else RemadeSuffixes.of(make, plain)
            parts.append(LossPart.of(suffixes, rows, [facts[i] for i in numbers]))
        place = {row: at for at, row in enumerate(chain.from_iterable(division.parts))}
        bare = [place[facts.index(fact)] for fact in range(len(requests))]
        at_lookup = [part.suffixes.at_lookup for part in parts]
        joined = at_lookup[0] if len(parts) == 1 else torch.cat(at_lookup)
        return cls(parts=tuple(parts), config=config, initial_hidden=joined[bare].float())

    def evaluate(self, delta: Tensor, *, gradient: bool) -> Evaluation:
        """Loss terms (n,) at delta (n, d_model); those of facts that left are meaningless.

        The gradients of all parts but the last are made at once, so that their graphs are gone
        before that of the next part comes; the last one's is made when it is asked for.

        Args:
            delta: float32.
            gradient: keep what the gradient needs.
        """
        shares, slopes = [], []
        for part in self.parts[:-1]:
            share, slope = self._closed(part, delta, gradient=gradient)
            shares.append(share)
            slopes += [] if slope is None else [slope]
        share, differentiate = self._share(self.parts[-1], delta, gradient=gradient)
        shares.append(share)
        decay, pull = self._decay(delta)

        def slope_of_all() -> Tensor:
            return reduce(torch.add, slopes, differentiate()) + pull

        nll = reduce(torch.add, [own.nll for own in shares])
        kl = self.config.kl_weight * reduce(torch.add, [own.divergence for own in shares])
        margin = reduce(torch.minimum, [own.margin for own in shares])
        terms = LossTerms(total=nll + kl + decay, nll=nll, kl=kl, decay=decay, margin=margin)
        originals = tuple(own.original for own in shares)
        return Evaluation(terms=terms, originals=originals, gradient=slope_of_all)

    def _share(
        self, part: LossPart, delta: Tensor, *, gradient: bool
    ) -> tuple[Share, Callable[[], Tensor]]:
        config = self.config
        return part.evaluate(
            delta,
            kl_weight=config.kl_weight,
            margins=config.stop_margin is not None,
            gradient=gradient,
        )

    def _closed(
        self, part: LossPart, delta: Tensor, *, gradient: bool
    ) -> tuple[Share, Tensor | None]:
        """A part's share and its gradient; no graph is left."""
        share, differentiate = self._share(part, delta, gradient=gradient)
        return share, differentiate() if gradient else None

    def _decay(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """`value_weight_decay * |delta| / |h|^2` (n,), and its gradient, 0 where delta is 0."""
        size = torch.linalg.vector_norm(self.initial_hidden, dim=1)
        length = torch.linalg.vector_norm(delta, dim=1)
        weight = self.config.value_weight_decay / size**2
        tiny = torch.finfo(delta.dtype).tiny
        pull = delta * (weight / length.clamp(min=tiny)).unsqueeze(1)
        return weight * length, torch.where(length.unsqueeze(1) > 0, pull, 0.0)

    def after(self, found: Evaluation) -> TargetLoss:
        """The same once the first evaluation has said what the divergence is from."""
        parts = zip(self.parts, found.originals, strict=True)
        return replace(self, parts=tuple(replace(part, original=own) for part, own in parts))

    def select(self, facts: Tensor) -> TargetLoss:
        """The same for the rows of some facts only: `facts` (n,) bool. Facts keep their numbers."""
        parts = [part.select(facts) for part in self.parts]
        return replace(self, parts=tuple(part for part in parts if part is not None))
