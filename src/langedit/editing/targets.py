"""Target hidden states: what the last edited layer should put out at each lookup token.

The whole batch is optimised at once. Facts do not influence each other: each has its own change
`delta`, its own Adam state and its own stop, and leaves the batch when it is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from langedit.editing.adam import RowAdam
from langedit.editing.batching import halve_on_oom, micro_batches, with_less_memory
from langedit.editing.finite import by_name, fact_names, require_finite_facts
from langedit.editing.forwards import frozen
from langedit.editing.requests import EditRequest
from langedit.editing.target_loss import LossTerms, TargetLoss
from langedit.editing.target_rows import Division, loss_rows
from langedit.errors import NumericalError
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig

Site = Literal["layer", "projection"]
"""What a target is of: the output of the last edited layer, or of the edited projection in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Result of the optimisation for n facts.

    Attributes:
        target_hidden: (n, d_model) float32, h + delta.
        initial_hidden: (n, d_model) float32, h at the lookup token of the bare prompt.
        first: loss at the first evaluation, where delta is 0.
        last: loss at the last evaluation; no step follows it.
        steps: (n,) int64, number of evaluations.
    """

    target_hidden: Tensor
    initial_hidden: Tensor
    first: LossTerms
    last: LossTerms
    steps: Tensor


def optimise_targets(
    model: EditableModel,
    requests: Sequence[EditRequest],
    config: EditConfig,
    *,
    site: Site = "layer",
    use_cache: bool = True,
    processes: Processes = ALONE,
) -> Targets:
    """Minimise each fact's target loss over the output of the last edited layer.

    The objective is that of MEMIT (equation 16 with the penalties of its released code):
    `mean over contexts(-log p(target) / tokens) + kl_weight KL + value_weight_decay |delta|/|h|^2`,
    by Adam, projected after each step to `|delta| <= norm_clamp |h|`. A fact stops when its loss is
    below `stop_loss`, or, with `stop_margin`, when all tokens of its target are ahead of all others
    by that much. These tests come before the step, and no step follows the last evaluation.
    Requests merged into one share delta and KL prompt, and the mean of their likelihoods counts.

    Args:
        model: the model with the weights as they are now; it is left untouched.
        requests: n facts, encoded.
        config: the settings named above, `value_steps`, `value_lr`, layers, and
            `micro_batch_tokens`, which bounds the facts optimised at once. The rows of a fact that
            exceeds it (contexts and KL prompt) are run in parts, one after the other in each step.
            Where memory runs out nonetheless, the facts are halved until one is left, and then its
            parts, until they are single rows; `model.limits` remembers what fitted.
        site: what delta is added to: the output of the last edited layer, as in MEMIT, or of the
            edited projection in it, as in ROME. "Hidden state" then means that output.
        use_cache: as for `build_suffixes`.
        processes: each optimises its share of the micro-batches, which do not depend on their
            number; all get the result, other processes' rows on the CPU.

    Raises:
        NumericalError: a loss or a target is not finite; the message names the fact.
        LangEditError: memory does not hold a single row.
    """
    groups, limits = target_groups(requests, config), model.limits
    sizes = [(_width(request), _count(request)) for request in requests]

    def tokens(group: list[int]) -> int:
        return max(sizes[i][0] for i in group) * sum(sizes[i][1] for i in group)

    def together(group: list[int]) -> Targets:
        own = [requests[i] for i in group]

        def run(limit: int) -> Targets:
            return _optimise(own, model, config, site, use_cache, limit)

        if len(own) > 1:
            return run(config.micro_batch_tokens)
        rows = loss_rows(own[0], divergence=bool(config.kl_weight))
        return with_less_memory(
            run,
            config.micro_batch_tokens,
            most=tokens(group),
            least=Division.least([one.row for one in rows]),
            limits=limits,
            kind="targets",
            what=f"one row of the fact {fact_names(own)}",
        )

    def optimise(group: list[int]) -> Targets:
        return by_name(group, together, requests)

    def share(own: Sequence[list[int]]) -> list[list[tuple[list[int], Targets]]]:
        return [
            halve_on_oom(group, optimise, limits=limits, kind="targets", size=tokens)
            for group in own
        ]

    with frozen(model.model):
        found = [part for parts in processes.spread(groups, share) for part in parts]
    order = torch.tensor([i for group, _ in found for i in group]).argsort()
    return join_targets([part for _, part in found], order)


def target_groups(requests: Sequence[EditRequest], config: EditConfig) -> list[list[int]]:
    """Numbers of the facts that are optimised at once, in groups that `micro_batch_tokens` bounds.

    A step runs of each fact its contexts and its KL prompt, from their lookup tokens on. What
    stands before is kept as keys and values, of which there may be `KEPT_TOKENS` times as many
    tokens: padding makes every row of a group as long as its longest, so that a fact with a prompt
    of thousands of tokens is with few others.
    """
    widths = [_width(request) for request in requests]
    rows = [_count(request) for request in requests]
    count = len(micro_batches(widths, config.micro_batch_tokens, rows=rows))
    low, high = 1, config.micro_batch_tokens
    while low < high:  # as many groups, about equal: several processes share them
        middle = (low + high) // 2
        if len(micro_batches(widths, middle, rows=rows)) <= count:
            high = middle
        else:
            low = middle + 1
    return micro_batches(widths, low, rows=rows)


def _width(request: EditRequest) -> int:
    """What its widest row counts for."""
    return max(own.row.width for own in loss_rows(request))


def _count(request: EditRequest) -> int:
    """How many rows it has."""
    return 1 + sum(len(member.prompts) for member in request.members)


def _optimise(
    requests: Sequence[EditRequest],
    model: EditableModel,
    config: EditConfig,
    site: Site,
    use_cache: bool,
    tokens: int,
) -> Targets:
    """The same for facts that are run together, in parts of at most so many tokens."""
    problem = TargetLoss.build(
        requests, model, config, site=site, use_cache=use_cache, tokens=tokens
    )
    initial = problem.initial_hidden
    radius = config.norm_clamp * torch.linalg.vector_norm(initial, dim=1, keepdim=True)
    delta = torch.zeros_like(initial)
    adam = RowAdam(initial.shape, lr=config.value_lr, device=initial.device)
    steps = torch.zeros(len(requests), dtype=torch.int64)
    active = torch.ones(len(requests), dtype=torch.bool, device=initial.device)
    first = last = None
    for step in range(1, config.value_steps + 1):
        found = problem.evaluate(delta, gradient=step < config.value_steps)
        terms = found.terms
        _check_finite(requests, terms.total, active, step)
        first = first or terms
        last = terms if last is None else _where(active, terms, last)
        steps[active.cpu()] = step
        done = terms.total < config.stop_loss
        if config.stop_margin is not None:
            done = done | (terms.margin >= config.stop_margin)
        done = active & done
        active = active & ~done
        if step == config.value_steps or not bool(active.any()):
            break
        moved = _clamp(delta + adam.step(found.gradient()), radius)
        delta = torch.where(active.unsqueeze(1), moved, delta)
        problem = problem.after(found)
        del found  # or its logits would be kept while the next ones are made
        if bool(done.any()):
            problem = problem.select(active)
    assert first is not None
    assert last is not None
    target = initial + delta
    require_finite_facts("target", target, requests, config.layers[-1])
    return Targets(
        target_hidden=target, initial_hidden=initial, first=first, last=last, steps=steps
    )


def _clamp(delta: Tensor, radius: Tensor) -> Tensor:
    """Shorten the rows that are longer than their radius (n, 1)."""
    norm = torch.linalg.vector_norm(delta, dim=1, keepdim=True)
    return torch.where(norm > radius, delta * (radius / norm), delta)


def _check_finite(
    requests: Sequence[EditRequest], values: Tensor, active: Tensor, step: int
) -> None:
    bad = (active & ~torch.isfinite(values)).nonzero().flatten().tolist()
    if bad:
        names = fact_names([requests[i] for i in bad])
        raise NumericalError(
            f"expected a finite target loss, got {float(values[bad[0]])} at evaluation {step} of "
            f"{names}: load the model in float32 or bfloat16, or lower value_lr"
        )


def _where(active: Tensor, new: LossTerms, old: LossTerms) -> LossTerms:
    """New values for active facts, old ones for those that have left."""
    return LossTerms(
        **{
            f.name: torch.where(active, getattr(new, f.name), getattr(old, f.name))
            for f in fields(LossTerms)
        }
    )


def join_targets(parts: Sequence[Targets], order: Tensor | None = None) -> Targets:
    """Join the facts of groups, on the first group's device.

    Args:
        parts: one or more groups.
        order: (n,) int64, which of the joined facts comes first, second ...; `None`: as they come.
    """

    def joined(values: Sequence[Tensor]) -> Tensor:
        device = values[0].device
        whole = torch.cat([value.to(device) for value in values])
        return whole if order is None else whole[order.to(device)]

    def terms(values: Sequence[LossTerms]) -> LossTerms:
        return LossTerms(
            **{f.name: joined([getattr(v, f.name) for v in values]) for f in fields(LossTerms)}
        )

    return Targets(
        target_hidden=joined([part.target_hidden for part in parts]),
        initial_hidden=joined([part.initial_hidden for part in parts]),
        first=terms([part.first for part in parts]),
        last=terms([part.last for part in parts]),
        steps=joined([part.steps for part in parts]),
    )
