"""Memory and arithmetic of passes through the model: the editor's own code on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from langedit.editing.batching import micro_batches
from langedit.editing.config import EditConfig
from langedit.editing.keys import LayerWalk
from langedit.editing.planning.tracker import MetaTracker
from langedit.editing.requests import EditRequest
from langedit.editing.target_loss import TargetLoss
from langedit.errors import ModelError
from langedit.models import EditableModel, EncodedPrompt, Recorder, find_structure, pad_batch


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
        groups: groups of facts that a batch is optimised in.
        walk: keys, and what is missing to the targets, at every edited layer of a batch.
        stats: one batch of corpus text.
    """

    prepare: PassCost
    step: PassCost
    groups: int
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
    request = fact_of_mean_size(config, work)
    contexts = [*request.prompts, request.kl_prompt]
    longest = max(len(prompt.ids) for prompt in contexts) + work.target_tokens
    groups = micro_batches([longest] * work.batch, config.micro_batch_tokens, rows=len(contexts))
    prepare, step = _targets(model, config, [request] * len(groups[0]))
    return PassCosts(
        prepare=prepare,
        step=step,
        groups=len(groups),
        walk=_cost(model, lambda: _walk(model, config, [request] * work.batch)),
        stats=_cost(model, lambda: _corpus_batch(model, config, work.stats_tokens)),
    )


def fact_of_mean_size(config: EditConfig, work: Workload) -> EditRequest:
    """A fact of the mean size; the id of its tokens does not matter."""

    def prompt(before: int) -> EncodedPrompt:
        ids = (0,) * (before + work.prompt_tokens)
        lookup = before + (work.prompt_tokens - 1) // 2
        return EncodedPrompt(ids=ids, lookup=lookup, subject_start=before)

    prefix = config.prefix_length + 2  # the seed word and the end of the sentence
    return EditRequest(
        name="a fact",
        language="en",
        prompts=(prompt(0), *(prompt(prefix) for _ in range(config.prefix_count))),
        target_ids=(0,) * work.target_tokens,
        kl_prompt=EncodedPrompt(ids=(0,) * 6, lookup=3, subject_start=0),
    )


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
    batch = pad_batch([[0] * length] * max(1, tokens // length), 0)
    with torch.no_grad(), Recorder(model.model, inputs=names, stop_after=names[-1]) as record:
        model.run(batch)
    rows: list[Tensor] = [value.flatten(0, -2).double() for value in record.inputs.values()][:1]
    return record.inputs, rows


def _cost(model: EditableModel, run: Callable[[], object]) -> PassCost:
    tracker = _tracker(model)
    with tracker:
        run()
    return PassCost(bytes=tracker.peak, flops=tracker.flops)


def _tracker(model: EditableModel) -> MetaTracker:
    tracker = MetaTracker()
    tracker.ignore(chain(model.model.parameters(), model.model.buffers()))
    return tracker
