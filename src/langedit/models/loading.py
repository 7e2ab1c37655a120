"""Load a model, its tokenizer and its structure; say plainly what is wrong when that fails."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langedit.errors import ConfigError, ModelError, StructureError
from langedit.models.editable import EditableModel
from langedit.models.placement import DeviceMap, Placement
from langedit.models.positions import require_offsets
from langedit.models.quantised import require_runs
from langedit.models.structure import find_structure

DTYPES = ("auto", "float32", "bfloat16", "float16")
_TOKENIZER_FILES = ("*token*", "vocab*", "*.model", "tekken*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    SafetensorError,
    ImportError,  # a quantised checkpoint whose library is not installed
)


def load_model(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: DeviceMap | None = None,
    structure_overrides: Mapping[str, str] | None = None,
) -> EditableModel:
    """Load a causal language model for editing: evaluation mode, no gradients for weights.

    Args:
        source: a folder written by `save_pretrained`, or a model id of the hub.
        revision: branch, tag or commit of a hub model.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        device_map: a device ("cuda"), a strategy ("auto"), module names to devices, with "cpu" and
            "disk" for parts that are offloaded, or a .json file (docs/distributed.md); None is
            the CPU.
        structure_overrides: names for parts that are not found by structure.

    Raises:
        ModelError: no such folder, no checkpoint in it, damaged or incomplete weights, no
            tokenizer, a hub model that cannot be fetched, or a quantised model that cannot be run.
        StructureError: an encoder-decoder, or a part that is not found.
        TokenError: only a slow tokenizer.
        ConfigError: an unknown dtype, a device map that cannot be read, or one without accelerate.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"expected dtype to be one of {', '.join(DTYPES)}, got {dtype!r}")
    placement = Placement.of(device_map)
    name = _check_source(source)
    config = _load_config(name, revision)
    tokenizer = _load_tokenizer(name, revision)
    model = _load_weights(name, revision, config, dtype, placement)
    model.train(False).requires_grad_(False)
    require_runs(model)
    return EditableModel(model, tokenizer, find_structure(model, structure_overrides), revision)


def _check_source(source: str | os.PathLike[str]) -> str:
    """The source as transformers takes it, after ruling out what cannot be a checkpoint."""
    name = os.fspath(source)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"expected a checkpoint in {folder}, but it has no config.json; give the folder "
                "that save_pretrained wrote"
            )
        return str(folder)
    if name and folder.exists():
        raise ModelError(f"expected a folder with a checkpoint, but {folder} is a file")
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"there is no folder {name!r}, and that is no model id of the hub either "
            "(owner/name); check the path"
        )
    return name


def _load_config(name: str, revision: str | None) -> PretrainedConfig:
    """The configuration, of a decoder-only model."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, revision=revision)
    except _LOAD_ERRORS as error:
        raise _failed("configuration", name, error) from error
    if config.is_encoder_decoder:
        raise StructureError(
            f"{name} is an encoder-decoder ({config.model_type}); expected a decoder-only model, "
            "the kind whose MLP projections are edited. Give another checkpoint"
        )
    return config


def _load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The checkpoint's own fast tokenizer."""
    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json); save the tokenizer beside the model with "
            "tokenizer.save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (*_LOAD_ERRORS, AttributeError) as error:
        raise _failed("tokenizer", name, error) from error
    require_offsets(tokenizer)
    return tokenizer


def _load_weights(
    name: str,
    revision: str | None,
    config: PretrainedConfig,
    dtype: str,
    placement: Placement,
) -> PreTrainedModel:
    """The model, complete: a weight that does not come from the files would be random."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            **placement.arguments(),
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        raise _failed("weights", name, error) from error
    model: PreTrainedModel
    model, info = loaded
    mismatched = [f"{key} {tuple(came)}" for key, came, _ in info["mismatched_keys"]]
    wrong = [*sorted(info["missing_keys"]), *sorted(mismatched)]
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights are missing from the checkpoint {name} or have another shape, "
            f"such as {', '.join(wrong[:3])}; they would be random. Save or download it again"
        )
    return model


def _failed(part: str, name: str, error: Exception) -> ModelError:
    """A part of a checkpoint did not load: one line that keeps the cause."""
    cause = " ".join(str(error).split())[:300]
    hint = (
        "save or download the checkpoint again"
        if Path(name).is_dir()
        else "there is no folder of that name here; check it, or the connection to the hub"
    )
    return ModelError(f"cannot read the {part} of {name}: {type(error).__name__}: {cause}; {hint}")
