"""Memory and arithmetic of passes through the model: the editor's own code on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from langedit.editing.config import EditConfig
from langedit.editing.keys import LayerWalk
from langedit.editing.layout import lay_out
from langedit.editing.planning.tracker import MetaTracker
from langedit.editing.requests import EditRequest
from langedit.editing.target_loss import TargetLoss
from langedit.editing.targets import target_groups
from langedit.errors import ModelError
from langedit.models import EditableModel, EncodedPrompt, Recorder, find_structure


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How much is edited, and how long the texts are.

    Attributes:
        edits: facts in all.
        batch_size: facts in a batch.
        prompt_tokens: tokens of a prompt with its subject, in the mean.
        target_tokens: tokens of a target, in the mean.
        moment_tokens: tokens that second moments are collected from.
        stats_tokens: tokens in one pass of that.
    """

    edits: int
    batch_size: int = 100
    prompt_tokens: int = 16
    target_tokens: int = 4
    moment_tokens: int = 1_000_000
    stats_tokens: int = 4096

    @property
    def batch(self) -> int:
        """Facts in the largest batch."""
        return min(self.edits, self.batch_size)

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.edits // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """What one pass takes beside the weights.

    Attributes:
        bytes: the most that is alive at once.
        flops: floating-point operations of matrix products.
    """

    bytes: int
    flops: float


@dataclass(frozen=True, kw_only=True)
class PassCosts:
    """Passes of one batch of facts, and of one batch of corpus text.

    Attributes:
        prepare: keys and values of prefixes, and layers below the change, of one group of facts.
        step: one evaluation of the target loss with its gradient, of one group.
        groups: facts of a batch over facts of its largest group, which the costs are of.
        walk: keys, and what is missing to the targets, at every edited layer of a batch.
        stats: one batch of corpus text.
    """

    prepare: PassCost
    step: PassCost
    groups: float
    walk: PassCost
    stats: PassCost


def shaped_model(config: PretrainedConfig, dtype: torch.dtype) -> EditableModel:
    """The model of a configuration without values, on the meta device.

    Raises:
        ModelError: transformers knows no causal language model of this kind.
        StructureError: a part of it is not found.
    """
    try:
        with torch.device("meta"):
            build: Any = AutoModelForCausalLM.from_config
            model: PreTrainedModel = build(config, dtype=dtype)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"no causal language model of this configuration: {error}") from error
    model.train(False).requires_grad_(False)
    return EditableModel(model, stub_tokenizer(), find_structure(model))


def stub_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one word, for a model that is only asked for its shapes."""
    build: Any = PreTrainedTokenizerFast
    words: PreTrainedTokenizerFast = build(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    )
    return words


def pass_costs(model: EditableModel, config: EditConfig, work: Workload) -> PassCosts:
    """Run the editor's passes on the meta device.

    The lookup token is taken to be in the middle of a prompt.

    Args:
        model: of `shaped_model`.
        config: layers, prefixes, and `micro_batch_tokens`.
        work: sizes.

    Raises:
        ModelError: the model decides by values, which are not there.
    """
    config.check_depth(model.structure.n_layers)
    requests = facts_of_mean_size(config, work, work.batch)
    largest = max(target_groups(requests, config), key=len)
    prepare, step = _targets(model, config, [requests[i] for i in largest])
    return PassCosts(
        prepare=prepare,
        step=step,
        groups=len(requests) / len(largest),
        walk=_cost(model, lambda: _walk(model, config, requests)),
        stats=_cost(model, lambda: _corpus_batch(model, config, work.stats_tokens)),
    )


def facts_of_mean_size(config: EditConfig, work: Workload, count: int) -> list[EditRequest]:
    """Facts of the mean size, of one language: they have prefixes in common, and no other token.

    Ids do not matter but for which are the same: beginnings that prompts have in common are run
    once.
    """

    def prompt(before: tuple[int, ...], fact: int) -> EncodedPrompt:
        start = len(before)
        ids = (*before, *(fact,) * work.prompt_tokens)
        return EncodedPrompt(
            ids=ids, lookup=start + (work.prompt_tokens - 1) // 2, subject_start=start
        )

    length = config.prefix_length + 2  # the seed word and the end of the sentence
    prefixes = [(), *((number,) * length for number in range(config.prefix_count))]
    requests = []
    for number in range(count):
        fact, beginning = config.prefix_count + number, config.prefix_count + count + number
        requests.append(
            EditRequest(
                name=f"fact {number}",
                language="en",
                prompts=tuple(prompt(before, fact) for before in prefixes),
                target_ids=(fact,) * work.target_tokens,
                kl_prompt=EncodedPrompt(ids=(beginning,) * 6, lookup=3, subject_start=0),
            )
        )
    return requests


def _targets(
    model: EditableModel, config: EditConfig, requests: list[EditRequest]
) -> tuple[PassCost, PassCost]:
    """What comes before the first step of a group, and one step."""
    tracker = _tracker(model)
    with tracker:
        problem = TargetLoss.build(requests, model, config, site="layer", use_cache=True)
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


def _corpus_batch(model: EditableModel, config: EditConfig, tokens: int) -> object:
    """A batch of text as `collect_moments` reads it: 8 texts of the same length."""
    names = [model.projection_name(layer) for layer in config.layers]
    limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", tokens)
    length = max(1, min(tokens // 8, int(limit)))
    texts = [[0] * length] * max(1, tokens // length)
    layout = max(lay_out(model, texts, tokens, share=False), key=lambda one: one.ids.numel())
    with torch.no_grad(), Recorder(model.model, inputs=names, stop_after=names[-1]) as record:
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
