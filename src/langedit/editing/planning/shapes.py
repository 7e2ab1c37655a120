"""The configuration of a model: a shipped shape, a folder, or a hub id. No weights are read."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig

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
        ModelError: there is none, transformers does not know its kind, or it is quantised.
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
    _require_plain(source, found)
    return found


def _require_plain(source: str, config: PretrainedConfig) -> None:
    """Refuse a quantised checkpoint: what its library stores, and unpacks, is not known here."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    raise ModelError(
        f"--model: expected a configuration of plain weights, got {source!r}, which is quantised "
        f"({method or 'quantization_config'}): the memory of quantised weights is not planned. "
        "Plan a copy of its config.json without quantization_config: that is more than it will "
        "need, since the weights of a quantised model are smaller"
    )


def dtype_of(name: str, config: PretrainedConfig) -> torch.dtype:
    """The precision that `--dtype` names; `auto` is the configuration's own."""
    own = getattr(config, "dtype", None) if name == "auto" else getattr(torch, name, None)
    if isinstance(own, str):
        own = getattr(torch, own, None)
    return own if isinstance(own, torch.dtype) else torch.float32
