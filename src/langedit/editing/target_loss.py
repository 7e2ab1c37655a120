"""The objective of the target hidden states, as a function of the changes of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.editing.suffix import Suffixes, build_suffixes
from langedit.editing.suffix_batch import SuffixRow
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

    The gradient in the logits is written out, so that no graph is kept, and no pass made, over the
    vocabulary more than once each way.

    Attributes:
        terms: parts of the loss, each (n,).
        original: (KL positions, vocabulary) log-probabilities that the divergence is from: those
            at this delta, if there were none before.
        gradient: makes the gradient of the sum of the facts' losses in delta, (n, d_model); once.
    """

    terms: LossTerms
    original: Tensor
    gradient: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetLoss:
    """The target loss of n facts as a function of delta, over the facts still in the batch.

    `row_fact` says whose delta a row gets. Every wanted position has a fact, the id of the target
    token that should come next (-1 at a KL position) and a weight; `original` holds the
    log-probabilities of the unedited model at the KL positions, in the order of the facts: those of
    the first evaluation, where delta is 0.
    """

    suffixes: Suffixes
    config: EditConfig
    initial_hidden: Tensor
    row_fact: Tensor
    wanted_fact: Tensor
    token: Tensor
    weight: Tensor
    original: Tensor | None = None

    @classmethod
    def build(
        cls,
        requests: Sequence[EditRequest],
        model: EditableModel,
        config: EditConfig,
        *,
        site: Literal["layer", "projection"],
        use_cache: bool,
    ) -> TargetLoss:
        """Encode rows, run what does not depend on delta, and note the original prediction."""
        rows: list[SuffixRow] = []
        owners: list[int] = []
        wanted: list[tuple[int, int, float]] = []
        bare: list[int] = []
        for fact, request in enumerate(requests):
            bare.append(len(rows))
            for member in request.members:
                own = _context_rows(member)
                weight = 1.0 / (len(own) * len(member.target_ids) * len(request.members))
                rows += own
                owners += [fact] * len(own)
                wanted += [(fact, token, weight) for token in member.target_ids] * len(own)
            if config.kl_weight:
                rows.append(_kl_row(request))
                owners.append(fact)
                wanted.append((fact, -1, 1.0))
        layer = config.layers[-1]
        loss_layer = (
            model.structure.n_layers - 1 if config.loss_layer is None else config.loss_layer
        )
        suffixes = build_suffixes(
            model,
            rows,
            layer,
            loss_layer,
            site=site,
            max_tokens=config.micro_batch_tokens,
            use_cache=use_cache,
        )
        device = suffixes.at_lookup.device
        return cls(
            suffixes=suffixes,
            config=config,
            initial_hidden=suffixes.at_lookup[bare].float(),
            row_fact=torch.tensor(owners, device=device),
            wanted_fact=torch.tensor([fact for fact, _, _ in wanted], device=device),
            token=torch.tensor([token for _, token, _ in wanted], device=device),
            weight=torch.tensor([weight for _, _, weight in wanted], device=device),
        )

    def evaluate(self, delta: Tensor, *, gradient: bool) -> Evaluation:
        """Loss terms (n,) at delta (n, d_model); those of facts that left are meaningless.

        Args:
            delta: float32.
            gradient: keep what the gradient needs.
        """
        with torch.set_grad_enabled(gradient):
            moved = delta.detach().requires_grad_(gradient)
            logits = self.suffixes.logits(moved[self.row_fact])
        scores = logits.detach().log_softmax(dim=1)
        kl_rows = (self.token < 0).nonzero().squeeze(1).to(scores.device)
        at_kl = scores[kl_rows]
        original = self.original if self.original is not None else at_kl
        away = at_kl - original
        divergence = (at_kl.exp() * away).sum(dim=1)

        is_target = self.token >= 0
        token = self.token.clamp(min=0).to(scores.device).unsqueeze(1)
        at_token = scores.gather(1, token).squeeze(1)
        picked = at_token.to(delta.device)
        zeros = torch.zeros(len(delta), device=delta.device)
        shares = torch.where(is_target, -self.weight * picked, 0.0)
        nll = zeros.index_add(0, self.wanted_fact, shares)
        of_kl = self.wanted_fact[~is_target]
        kl = self.config.kl_weight * zeros.index_add(0, of_kl, divergence.to(delta.device))
        decay, pull = self._decay(delta)

        def slope() -> Tensor:
            """Derivative of all facts' losses in the logits, (wanted, vocabulary)."""
            weight = self.weight.to(scores.device).unsqueeze(1)
            found = scores.exp_().mul_(weight)  # nobody reads the scores again
            found.scatter_add_(1, token, -weight)  # rows of the divergence are replaced below
            curved = at_kl.exp() * (away - divergence.unsqueeze(1))
            found[kl_rows] = self.config.kl_weight * curved
            return found

        def differentiate() -> Tensor:
            (found,) = torch.autograd.grad(logits, moved, slope())
            return found + pull

        margin = self._margin(scores, token, at_token)
        terms = LossTerms(total=nll + kl + decay, nll=nll, kl=kl, decay=decay, margin=margin)
        return Evaluation(terms=terms, original=original, gradient=differentiate)

    def _decay(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """`value_weight_decay * |delta| / |h|^2` (n,), and its gradient, 0 where delta is 0."""
        size = torch.linalg.vector_norm(self.initial_hidden, dim=1)
        length = torch.linalg.vector_norm(delta, dim=1)
        weight = self.config.value_weight_decay / size**2
        tiny = torch.finfo(delta.dtype).tiny
        pull = delta * (weight / length.clamp(min=tiny)).unsqueeze(1)
        return weight * length, torch.where(length.unsqueeze(1) > 0, pull, 0.0)

    def _margin(self, scores: Tensor, token: Tensor, at_token: Tensor) -> Tensor:
        """How far each fact's least safe target token is ahead of every other token (n,), in nats.

        Args:
            scores: (wanted, vocabulary) log-probabilities.
            token: (wanted, 1) ids of the target tokens; any at KL positions.
            at_token: (wanted,) log-probabilities of these.
        """
        facts, device = len(self.initial_hidden), self.initial_hidden.device
        if self.config.stop_margin is None:
            return torch.full((facts,), -torch.inf, device=device)
        ahead = (at_token - scores.scatter(1, token, -torch.inf).amax(dim=1)).to(device)
        is_target = self.token >= 0
        least = torch.full((facts,), torch.inf, device=device)
        return least.scatter_reduce(0, self.wanted_fact[is_target], ahead[is_target], "amin")

    def after(self, found: Evaluation) -> TargetLoss:
        """The same once the first evaluation has said what the divergence is from."""
        return replace(self, original=found.original)

    def select(self, facts: Tensor) -> TargetLoss:
        """The same for the rows of some facts only: `facts` (n,) bool. Facts keep their numbers."""
        rows, wanted = facts[self.row_fact], facts[self.wanted_fact]
        original = self.original
        if original is not None:
            of_kl = wanted[self.token < 0]
            original = original[of_kl.to(original.device)]
        return replace(
            self,
            suffixes=self.suffixes.select(rows.nonzero().squeeze(1).cpu()),
            row_fact=self.row_fact[rows],
            wanted_fact=self.wanted_fact[wanted],
            token=self.token[wanted],
            weight=self.weight[wanted],
            original=original,
        )


def _context_rows(request: EditRequest) -> list[SuffixRow]:
    """Each context followed by the target without its last token; logits before target tokens."""
    rows = []
    for prompt in request.prompts:
        ids = (*prompt.ids, *request.target_ids[:-1])
        wanted = tuple(range(len(prompt.ids) - 1, len(ids)))
        rows.append(SuffixRow(ids=ids, lookup=prompt.lookup, wanted=wanted))
    return rows


def _kl_row(request: EditRequest) -> SuffixRow:
    """The KL prompt up to its subject: what follows does not enter the loss."""
    prompt = request.kl_prompt
    ids = prompt.ids[: prompt.lookup + 1]
    return SuffixRow(ids=ids, lookup=prompt.lookup, wanted=(prompt.lookup,))
