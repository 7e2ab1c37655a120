"""A model of a configuration without values, on the meta device."""

from __future__ import annotations

import copy
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

from langedit.editing.planning.quantisation import quantisation_of
from langedit.errors import ModelError
from langedit.models import EditableModel, find_structure


def shaped_model(config: PretrainedConfig, dtype: torch.dtype) -> EditableModel:
    """The model of a configuration without values, on the meta device.

    Where the configuration is of a quantised checkpoint, `StandIn`s are in the places of the
    modules that are quantised.

    Args:
        config: of `read_shape`.
        dtype: precision of what is not quantised.

    Raises:
        ModelError: transformers knows no causal language model of this kind, or it is quantised in
            a way that is not known here.
        StructureError: a part of it is not found.
    """
    quantised = quantisation_of(config.model_type, config)
    if quantised is not None:
        config = copy.deepcopy(config)
        del config.quantization_config
    try:
        with torch.device("meta"):
            build: Any = AutoModelForCausalLM.from_config
            model: PreTrainedModel = build(config, dtype=dtype)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"no causal language model of this configuration: {error}") from error
    if quantised is not None:
        quantised.apply(model)
    model.train(False).requires_grad_(False)
    return EditableModel(model, stub_tokenizer(), find_structure(model))


def stub_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one word, for a model that is only asked for its shapes."""
    build: Any = PreTrainedTokenizerFast
    words: PreTrainedTokenizerFast = build(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    )
    return words
