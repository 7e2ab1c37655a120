"""Target hidden states: what the last edited layer should put out at each lookup token.

The whole batch is optimised at once. Facts do not influence each other: each has its own change
`delta`, its own Adam state and its own stop, and leaves the batch when it is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from langedit.editing.adam import RowAdam
from langedit.editing.batching import share_micro_batches
from langedit.editing.config import EditConfig
from langedit.editing.requests import EditRequest
from langedit.editing.target_loss import LossTerms, TargetLoss
from langedit.errors import NumericalError
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes


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
    use_cache: bool = True,
    processes: Processes = ALONE,
) -> Targets:
    """Minimise each fact's target loss over the output of the last edited layer.

    The objective is that of MEMIT (equation 16 with the penalties of its released code):
    `mean over contexts(-log p(target) / tokens) + kl_weight KL + value_weight_decay |delta|/|h|^2`,
    by Adam, projected after each step to `|delta| <= norm_clamp |h|`. A fact stops when its loss is
    below `stop_loss`; that test comes before the step, and no step follows the last evaluation.

    Args:
        model: the model with the weights as they are now; it is left untouched.
        requests: n facts, encoded.
        config: the settings named above, `value_steps`, `value_lr`, layers, and
            `micro_batch_tokens`, which bounds the facts optimised at once.
        use_cache: as for `SuffixRunner`.
        processes: each optimises its share of the micro-batches; all get the result, other
            processes' rows on the CPU. With fewer micro-batches than processes smaller ones are
            made; otherwise they are those of one process.

    Raises:
        NumericalError: a loss or a target is not finite; the message names the fact.
    """
    contexts = [[*request.prompts, request.kl_prompt] for request in requests]
    lengths = [
        max(len(prompt.ids) for prompt in own) + len(request.target_ids)
        for own, request in zip(contexts, requests, strict=True)
    ]
    rows = [len(own) for own in contexts]
    groups = share_micro_batches(lengths, config.micro_batch_tokens, rows, processes.count)

    def optimise(own: Sequence[Sequence[int]]) -> list[Targets]:
        return [_optimise([requests[i] for i in group], model, config, use_cache) for group in own]

    with _frozen(model.model):
        parts = processes.spread(groups, optimise)
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return _in_order(parts, order)


def _optimise(
    requests: Sequence[EditRequest],
    model: EditableModel,
    config: EditConfig,
    use_cache: bool,
) -> Targets:
    """The same for facts that fit into one forward pass."""
    problem = TargetLoss.build(requests, model, config, use_cache)
    initial = problem.initial_hidden
    radius = config.norm_clamp * torch.linalg.vector_norm(initial, dim=1, keepdim=True)
    delta = torch.zeros_like(initial)
    adam = RowAdam(initial.shape, lr=config.value_lr, device=initial.device)
    steps = torch.zeros(len(requests), dtype=torch.int64)
    active = torch.ones(len(requests), dtype=torch.bool, device=initial.device)
    first = last = None
    for step in range(1, config.value_steps + 1):
        with torch.set_grad_enabled(step < config.value_steps):
            delta.requires_grad_(step < config.value_steps)
            terms = problem.loss(delta)
        found = _detached(terms)
        _check_finite(requests, found.total, active, step)
        first = first or found
        last = found if last is None else _where(active, found, last)
        steps[active.cpu()] = step
        done = active & (found.total < config.stop_loss)
        active = active & ~done
        if step == config.value_steps or not bool(active.any()):
            break
        (gradient,) = torch.autograd.grad(terms.total[active].sum(), delta)
        delta = delta.detach()
        delta[active] = _clamp(delta + adam.step(gradient), radius)[active]
        if bool(done.any()):
            problem = problem.select(active)
    assert first is not None
    assert last is not None
    target = (initial + delta).detach()
    _check_finite(requests, target.sum(dim=1), torch.ones_like(active), int(steps.max()))
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
        names = ", ".join(requests[i].name for i in bad)
        raise NumericalError(
            f"expected a finite target loss, got {float(values[bad[0]])} at evaluation {step} of "
            f"{names}: load the model in float32 or bfloat16, or lower value_lr"
        )


def _detached(terms: LossTerms) -> LossTerms:
    return LossTerms(**{f.name: getattr(terms, f.name).detach() for f in fields(LossTerms)})


def _where(active: Tensor, new: LossTerms, old: LossTerms) -> LossTerms:
    """New values for active facts, old ones for those that have left."""
    return LossTerms(
        **{
            f.name: torch.where(active, getattr(new, f.name), getattr(old, f.name))
            for f in fields(LossTerms)
        }
    )


def _in_order(parts: Sequence[Targets], order: Tensor) -> Targets:
    """Join groups and put their facts in the order of the requests, on the first group's device."""

    def joined(values: Sequence[Tensor]) -> Tensor:
        device = values[0].device
        return torch.cat([value.to(device) for value in values])[order.to(device)]

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


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for parameters while inside: only activations need them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
