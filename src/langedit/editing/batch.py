"""Edit one batch: find its targets, and spread what is missing over the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from langedit.editing.config import EditConfig
from langedit.editing.keys import compute_keys, lookup_hidden
from langedit.editing.methods import LayerState, Method
from langedit.editing.requests import EditRequest
from langedit.editing.state import sum_updates
from langedit.editing.targets import Targets, optimise_targets
from langedit.errors import NumericalError
from langedit.linalg import LowRankUpdate
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerEdit:
    """What a batch does to one layer.

    Attributes:
        keys: (n, d_in) float32. Only layers below can change them, and those are edited by then, so
            they are also the keys in the edited model.
        update: added to the weight, float32 factors.
        before: (d_out, d_in) weight before, not rounded to the model's precision.
        after: the same after.
    """

    keys: Tensor
    update: LowRankUpdate
    before: Tensor
    after: Tensor


def find_targets(
    model: EditableModel,
    requests: Sequence[EditRequest],
    config: EditConfig,
    given: Tensor | None,
    processes: Processes = ALONE,
) -> tuple[Targets | None, Tensor]:
    """Optimise the targets of n facts, unless they are given.

    Returns:
        The optimisation, `None` if there was none, and the target hidden states (n, d_model).

    Raises:
        NumericalError: what is given has another shape or is not finite, or the optimisation fails.
    """
    if given is None:
        targets = optimise_targets(model, requests, config, processes=processes)
        return targets, targets.target_hidden
    expected = (len(requests), model.structure.d_model)
    if tuple(given.shape) != expected or not bool(torch.isfinite(given).all()):
        raise NumericalError(
            f"target_hidden: expected finite values of shape {expected}, got shape "
            f"{tuple(given.shape)} or values that are not finite: give one row for each fact"
        )
    return None, given.float()


def edit_layers(
    model: EditableModel,
    method: Method,
    config: EditConfig,
    requests: Sequence[EditRequest],
    target_hidden: Tensor,
    states: Mapping[int, LayerState],
    weights: Mapping[int, Tensor],
    processes: Processes = ALONE,
) -> dict[int, LayerEdit]:
    """Solve and write one layer after the other (algorithm 1 of MEMIT).

    At each layer the keys, and what is missing to the targets at the last edited layer, are read
    from the model as edited so far; the layer takes its share of what is missing.

    Args:
        model: its weights are written.
        method: how keys and residuals become an update.
        config: `layers` and `micro_batch_tokens`.
        requests: n facts, encoded.
        target_hidden: (n, d_model) float32.
        states: layer -> the method's state; only process 0 needs them.
        weights: layer -> (d_out, d_in) weight so far, not rounded.
        processes: process 0 solves, all write what it found.

    Raises:
        NumericalError: a solve fails or a value is not finite. Layers already written stay so: the
            caller restores them.
    """
    contexts = [request.prompts for request in requests]
    bare = [request.prompts[0] for request in requests]
    last, limit = config.layers[-1], config.micro_batch_tokens
    edits = {}

    def solve(done: int, layer: int) -> tuple[Tensor, LowRankUpdate]:
        keys = compute_keys(model, contexts, [layer], max_tokens=limit)[layer]
        hidden = lookup_hidden(model, bare, last, max_tokens=limit)
        residuals = (target_hidden.to(hidden) - hidden) / (len(config.layers) - done)
        return keys, method.solve(states[layer], keys, residuals).to(dtype=torch.float32)

    for done, layer in enumerate(config.layers):
        keys, update = processes.first(partial(solve, done, layer))
        update = update.to(device=weights[layer].device)
        after = sum_updates(weights[layer], [update])
        model.write_weight(layer, after)
        edits[layer] = LayerEdit(keys=keys, update=update, before=weights[layer], after=after)
    return edits
