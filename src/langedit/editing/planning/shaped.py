"""A model of a configuration without values, on the meta device."""

from __future__ import annotations

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

from langedit.errors import ModelError
from langedit.models import EditableModel, find_structure


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
