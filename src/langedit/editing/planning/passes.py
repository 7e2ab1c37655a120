"""Memory and arithmetic of passes through the model: the editor's own code on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from langedit.editing.batching import micro_batches
from langedit.editing.config import EditConfig
from langedit.editing.forwards import frozen
from langedit.editing.keys import LayerWalk, compute_keys, lookup_projected
from langedit.editing.layout import lay_out
from langedit.editing.methods import find_method
from langedit.editing.methods.fine_tuning import FineTuning
from langedit.editing.methods.rome import Rome
from langedit.editing.planning.quantisation import plain_projections
from langedit.editing.planning.tracker import MetaTracker
from langedit.editing.planning.workload import Workload, facts_of_mean_size
from langedit.editing.requests import EditRequest
from langedit.editing.target_loss import TargetLoss
from langedit.editing.targets import Site, target_groups
from langedit.editing.training import WeightTraining
from langedit.models import EditableModel, Recorder


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """What one pass takes beside the weights.

    Attributes:
        bytes: the most that is alive at once.
        flops: floating-point operations of matrix products.
    """

    bytes: int
    flops: float


NO_PASS = PassCost(bytes=0, flops=0.0)
"""Of a pass that a method does not make."""


@dataclass(frozen=True, kw_only=True)
class PassCosts:
    """Passes of one batch of facts, and of one batch of corpus text.

    Attributes:
        stats: one batch of corpus text.
        prepare: keys and values of prefixes, and layers below the change, of one group of facts.
        step: one evaluation of the target loss with its gradient, of one group.
        groups: facts of a batch over facts of its largest group, which these two are of.
        walk: keys, and what is missing to the targets, at every edited layer of a batch; of one
            fact, where facts are edited one after the other.
        keys: keys of a batch at every edited layer, in one pass.
        train: losses of a batch with the gradients of the edited weights, in groups as many as
            there are; with the weights that are trained, their gradients and Adam's means.
    """

    stats: PassCost = NO_PASS
    prepare: PassCost = NO_PASS
    step: PassCost = NO_PASS
    groups: float = 0.0
    walk: PassCost = NO_PASS
    keys: PassCost = NO_PASS
    train: PassCost = NO_PASS


def pass_costs(model: EditableModel, config: EditConfig, work: Workload) -> PassCosts:
    """Run the editor's passes on the meta device.

    The lookup token is taken to be in the middle of a prompt.

    Args:
        model: of `shaped_model`.
        config: method, layers, prefixes, and `micro_batch_tokens`.
        work: sizes.

    Raises:
        ModelError: the model decides by values, which are not there.
    """
    config.check_depth(model.structure.n_layers)
    requests = facts_of_mean_size(config, work, work.batch)
    stats = _cost(model, lambda: _corpus_batch(model, config, work.stats_tokens))
    with plain_projections(model, config.edited_layers):
        return replace(_edit_costs(model, config, requests), stats=stats)


def _edit_costs(model: EditableModel, config: EditConfig, requests: list[EditRequest]) -> PassCosts:
    """Passes of one batch of facts."""
    keys = _cost(model, lambda: _keys(model, config, requests))
    method = find_method(config.method)
    if issubclass(method, FineTuning):
        train = _training(model, config, method.from_config(config), requests)
        return PassCosts(keys=keys, train=train)
    one_by_one = issubclass(method, Rome)
    together = requests[:1] if one_by_one else requests
    largest = max(target_groups(together, config), key=len)
    site: Site = "projection" if one_by_one else "layer"
    prepare, step = _targets(model, config, [together[i] for i in largest], site)
    read = _key_of_one if one_by_one else _walk
    return PassCosts(
        prepare=prepare,
        step=step,
        groups=len(requests) / len(largest),
        walk=_cost(model, lambda: read(model, config, together)),
        keys=keys,
    )


def _targets(
    model: EditableModel, config: EditConfig, requests: list[EditRequest], site: Site
) -> tuple[PassCost, PassCost]:
    """What comes before the first step of a group, and one step."""
    tracker = _tracker(model)
    with tracker:
        problem = TargetLoss.build(
            requests, model, config, site=site, use_cache=True, tokens=config.micro_batch_tokens
        )
        prepare = PassCost(bytes=tracker.peak, flops=tracker.flops)
        tracker.reset_peak()
        problem.evaluate(torch.zeros_like(problem.initial_hidden), gradient=True).gradient()
    return prepare, PassCost(bytes=tracker.peak, flops=tracker.flops - prepare.flops)


def _walk(model: EditableModel, config: EditConfig, requests: list[EditRequest]) -> object:
    """The readings of a batch, as methods with one solve for each layer make them."""
    contexts = [request.prompts for request in requests]
    layers, limit = config.edited_layers, config.micro_batch_tokens
    walk = LayerWalk(model, contexts, layers[-1], max_tokens=limit)
    for layer in layers:
        walk.read(layer)
    return walk


def _keys(model: EditableModel, config: EditConfig, requests: list[EditRequest]) -> object:
    """The keys of a batch in an edited model."""
    contexts = [request.prompts for request in requests]
    limit = config.micro_batch_tokens
    return compute_keys(model, contexts, config.edited_layers, max_tokens=limit)


def _key_of_one(model: EditableModel, config: EditConfig, requests: list[EditRequest]) -> object:
    """Keys of one fact in each of its contexts, and the projection's output, as ROME reads them."""
    (layer,), prompts = config.edited_layers, requests[0].prompts
    limit = config.micro_batch_tokens
    keys = compute_keys(model, [[prompt] for prompt in prompts], [layer], max_tokens=limit)
    return keys, lookup_projected(model, prompts[:1], layer)


def _training(
    model: EditableModel, config: EditConfig, method: FineTuning, requests: list[EditRequest]
) -> PassCost:
    """The second step, when Adam has its means, of which a later group adds to the gradients."""
    shape = (model.structure.d_model, model.structure.d_in)
    start = {
        model.weight_name(layer): torch.empty(shape, device="meta")
        for layer in config.edited_layers
    }
    rows = method.rows(requests)
    groups = micro_batches([len(row.ids) for row in rows], config.micro_batch_tokens)
    tracker = _tracker(model)
    tracker.ignore(start.values())
    with tracker, frozen(model.model):
        training = WeightTraining(model, start, lr=method.lr, change_limit=None)
        for _ in range(2):
            training.begin()
            tracker.reset_peak()
            before = tracker.flops
            for group in groups[:2]:
                _backward(training.losses([rows[i] for i in group]))
            peak, flops = tracker.peak, tracker.flops - before
            training.step()
    done = sum(map(len, groups[:2]))
    return PassCost(bytes=peak, flops=flops * len(rows) / done)


def _backward(losses: Tensor) -> None:
    torch.autograd.backward(losses.sum())


def _corpus_batch(model: EditableModel, config: EditConfig, tokens: int) -> object:
    """A batch of text as `collect_moments` reads it: 8 texts of the same length."""
    names = [model.projection_name(layer) for layer in config.layers]
    length = max(1, min(tokens // 8, model.context or tokens))
    texts = [[0] * length] * max(1, tokens // length)
    layout = max(lay_out(model, texts, tokens, share=False), key=lambda one: one.ids.numel())
    with torch.no_grad(), Recorder(model.model, inputs=names, stop_before=names[-1]) as record:
        model.model(**layout.inputs(model))
    keys = [value.flatten(0, -2).clone() for value in record.inputs.values()]  # without padding
    del record
    return keys[0].double(), keys  # a layer's at a time


def _cost(model: EditableModel, run: Callable[[], object]) -> PassCost:
    tracker = _tracker(model)
    with tracker:
        run()
    return PassCost(bytes=tracker.peak, flops=tracker.flops)


def _tracker(model: EditableModel) -> MetaTracker:
    tracker = MetaTracker()
    tracker.ignore(chain(model.model.parameters(), model.model.buffers()))
    return tracker
