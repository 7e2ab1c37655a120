"""Some rows of the objective of target hidden states: their share of the loss and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langedit.editing.suffix import Suffixes
from langedit.editing.target_rows import LossRow


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """What some rows give to the target loss of n facts.

    Attributes:
        nll: (n,) sum of the weighed negative log-likelihoods of the target's tokens, in nats.
        divergence: (n,) KL(edited || original) at the subject of the KL prompt.
        margin: (n,) in nats, by how much the least safe target token is more probable than every
            other token; infinite where there is none.
        original: (KL positions, vocabulary) log-probabilities that the divergence is from.
    """

    nll: Tensor
    divergence: Tensor
    margin: Tensor
    original: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LossPart:
    """Some rows of the target loss, run together.

    `row_fact` says whose delta a row gets. Every wanted position has a fact, the id of the target
    token that should come next (-1 at a KL position) and a weight; `original` holds the
    log-probabilities of the unedited model at the KL positions, in the order of the facts: those of
    the first evaluation, where delta is 0.
    """

    suffixes: Suffixes
    row_fact: Tensor
    wanted_fact: Tensor
    token: Tensor
    weight: Tensor
    original: Tensor | None = None

    @classmethod
    def of(cls, suffixes: Suffixes, rows: Sequence[LossRow], facts: Sequence[int]) -> LossPart:
        """Rows with their suffixes; `facts` says whose each row is."""
        device = suffixes.at_lookup.device
        wanted = [
            (fact, token, own.weight)
            for own, fact in zip(rows, facts, strict=True)
            for token in own.targets
        ]
        return cls(
            suffixes=suffixes,
            row_fact=torch.tensor(facts, device=device),
            wanted_fact=torch.tensor([fact for fact, _, _ in wanted], device=device),
            token=torch.tensor([token for _, token, _ in wanted], device=device),
            weight=torch.tensor([weight for _, _, weight in wanted], device=device),
        )

    def evaluate(
        self, delta: Tensor, *, kl_weight: float, margins: bool, gradient: bool
    ) -> tuple[Share, Callable[[], Tensor]]:
        """The share at delta, and what makes its gradient in delta, (n, d_model), once.

        The gradient in the logits is written out, so that no graph is kept, and no pass made, over
        the vocabulary more than once each way. As long as the second is kept, so is the graph.

        Args:
            delta: (n, d_model) float32.
            kl_weight: of the divergence in the gradient.
            margins: compute `margin`, else it is minus infinity.
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
        of_kl = self.wanted_fact[~is_target]

        def slope() -> Tensor:
            """Derivative of the loss in the logits, (wanted, vocabulary)."""
            weight = self.weight.to(scores.device).unsqueeze(1)
            found = scores.exp_().mul_(weight)  # nobody reads the scores again
            found.scatter_add_(1, token, -weight)  # rows of the divergence are replaced below
            curved = at_kl.exp() * (away - divergence.unsqueeze(1))
            found[kl_rows] = kl_weight * curved
            return found

        def differentiate() -> Tensor:
            (found,) = torch.autograd.grad(logits, moved, slope())
            return found

        margin = torch.full_like(zeros, -torch.inf)
        if margins:
            margin = self._margin(scores, token, at_token, zeros)
        share = Share(
            nll=zeros.index_add(0, self.wanted_fact, shares),
            divergence=zeros.index_add(0, of_kl, divergence.to(delta.device)),
            margin=margin,
            original=original,
        )
        return share, differentiate

    def _margin(self, scores: Tensor, token: Tensor, at_token: Tensor, zeros: Tensor) -> Tensor:
        """How far each fact's least safe target token is ahead of every other token (n,), in nats.

        Args:
            scores: (wanted, vocabulary) log-probabilities.
            token: (wanted, 1) ids of the target tokens; any at KL positions.
            at_token: (wanted,) log-probabilities of these.
            zeros: (n,).
        """
        ahead = (at_token - scores.scatter(1, token, -torch.inf).amax(dim=1)).to(zeros.device)
        is_target = self.token >= 0
        least = torch.full_like(zeros, torch.inf)
        return least.scatter_reduce(0, self.wanted_fact[is_target], ahead[is_target], "amin")

    def select(self, facts: Tensor) -> LossPart | None:
        """The same for the rows of some facts only, if any: `facts` (n,) bool."""
        rows, wanted = facts[self.row_fact], facts[self.wanted_fact]
        if not bool(rows.any()):
            return None
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
