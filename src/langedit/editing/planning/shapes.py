"""The configuration of a model: a shipped shape, a folder, or a hub id. No weights are read."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig

from langedit.editing.planning.quantisation import quantisation_of
from langedit.errors import ModelError


def shape_names() -> tuple[str, ...]:
    """Names of the shapes that come with the package."""
    folder = files("langedit") / "configs" / "shapes"
    names = (entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return tuple(sorted(name.removesuffix(".json") for name in names))


def read_shape(source: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        source: name of a shipped shape, folder with a `config.json`, such a file, or hub id.
        revision: of a hub model.

    Raises:
        ModelError: there is none, transformers does not know its kind, or it is quantised in a way
            that is not known here.
    """
    if source in shape_names():
        text = (files("langedit") / "configs" / "shapes" / f"{source}.json").read_text("utf-8")
        settings = json.loads(text)
        config: PretrainedConfig = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return config
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(
            str(Path(source).expanduser()), revision=revision
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ModelError(
            f"--model: expected one of the shapes {', '.join(shape_names())}, a folder with a "
            f"config.json, or a hub id, got {source!r} ({cause})"
        ) from error
    quantisation_of(source, found)
    return found


def dtype_of(name: str, config: PretrainedConfig) -> torch.dtype:
    """The precision that `--dtype` names; `auto` is the configuration's own."""
    own = getattr(config, "dtype", None) if name == "auto" else getattr(torch, name, None)
    if isinstance(own, str):
        own = getattr(torch, own, None)
    return own if isinstance(own, torch.dtype) else torch.float32
