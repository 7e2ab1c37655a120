"""The objective of the target hidden states, as a function of the changes of a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.editing.suffix import SuffixRunner
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
class TargetLoss:
    """The target loss of n facts as a function of delta, over the facts still in the batch.

    `row_fact` says whose delta a row gets. Every wanted position has a fact, the id of the target
    token that should come next (-1 at a KL position) and a weight; `original` holds the
    log-probabilities of the unedited model at the KL positions, in the order of the facts.
    """

    runner: SuffixRunner
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
        runner = SuffixRunner(model, rows, layer, loss_layer, site=site, use_cache=use_cache)
        device = runner.hidden.device
        return cls(
            runner=runner,
            config=config,
            initial_hidden=runner.at_lookup[bare].float(),
            row_fact=torch.tensor(owners, device=device),
            wanted_fact=torch.tensor([fact for fact, _, _ in wanted], device=device),
            token=torch.tensor([token for _, token, _ in wanted], device=device),
            weight=torch.tensor([weight for _, _, weight in wanted], device=device),
        ).with_original()

    def with_original(self) -> TargetLoss:
        """The same with the unedited model's log-probabilities at the KL positions."""
        if not self.config.kl_weight:
            return self
        with torch.no_grad():
            logits = self.runner.logits(torch.zeros_like(self.initial_hidden)[self.row_fact])
        at_kl = (self.token < 0).to(logits.device)
        return replace(self, original=logits[at_kl].log_softmax(dim=-1))

    def loss(self, delta: Tensor) -> LossTerms:
        """Loss terms (n,) at delta (n, d_model); those of facts that left are meaningless."""
        log_probs = self.runner.logits(delta[self.row_fact]).log_softmax(dim=-1)
        log_probs = log_probs.to(delta.device)
        is_target = self.token >= 0
        at_target, token = log_probs[is_target], self.token[is_target].unsqueeze(1)
        picked = at_target.gather(1, token).squeeze(1)
        zeros = torch.zeros(len(delta), device=delta.device)
        nll = zeros.index_add(0, self.wanted_fact[is_target], -self.weight[is_target] * picked)
        kl = zeros
        if self.original is not None:
            edited, original = log_probs[~is_target], self.original.to(delta.device)
            divergence = (edited.exp() * (edited - original)).sum(dim=1)
            kl = zeros.index_add(0, self.wanted_fact[~is_target], divergence)
        norm = torch.linalg.vector_norm(self.initial_hidden, dim=1)
        decay = torch.linalg.vector_norm(delta, dim=1) / norm**2
        kl, decay = self.config.kl_weight * kl, self.config.value_weight_decay * decay
        margin = torch.full_like(norm, -torch.inf)
        if self.config.stop_margin is not None:
            with torch.no_grad():
                others = at_target.scatter(1, token, -torch.inf).amax(dim=1)
                least = torch.full_like(norm, torch.inf)
                owners = self.wanted_fact[is_target]
                margin = least.scatter_reduce(0, owners, picked - others, "amin")
        return LossTerms(total=nll + kl + decay, nll=nll, kl=kl, decay=decay, margin=margin)

    def select(self, facts: Tensor) -> TargetLoss:
        """The same for the rows of some facts only: `facts` (n,) bool. Facts keep their numbers."""
        rows, wanted = facts[self.row_fact], facts[self.wanted_fact]
        original = self.original
        if original is not None:
            of_kl = wanted[self.token < 0]
            original = original[of_kl.to(original.device)]
        return replace(
            self,
            runner=self.runner.select(rows.nonzero().squeeze(1).cpu()),
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
