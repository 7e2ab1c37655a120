"""Plain projections where a quantised model is edited."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from langedit.errors import ModelError
from langedit.models.blocks import linear_sizes
from langedit.models.editable import EditableModel
from langedit.models.offload import find_offloaded, loaded
from langedit.models.quantised import dequantise, is_quantised, kind_of

_SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
"""Where quantisation settings of transformers list the modules that stay plain."""


def dequantise_projections(model: EditableModel, layers: Iterable[int]) -> dict[int, str]:
    """Replace the quantised projections of some layers by plain ones of the same function.

    The model is changed in place; other layers stay quantised. Its configuration names the plain
    modules, so that a checkpoint of it loads as it is. The precision is that of the embeddings.

    Returns:
        Layer -> what its projection was, of those that were quantised.

    Raises:
        ModelError: a projection cannot be run, or its settings cannot say that it is plain.
        NumericalError: what it gives is not finite.
    """
    found: dict[int, str] = {}
    for layer in layers:
        module = model.projection(layer)
        if is_quantised(module):
            found[layer] = kind_of(module)
            dtype = model.model.get_input_embeddings().weight.dtype
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise ModelError(f"expected embeddings of floating-point numbers, found {dtype}")
            name = model.projection_name(layer)
            with loaded(model.model, name):
                plain = dequantise(module, dtype, name=name)
            model.model.set_submodule(name, plain)
            _hand_over(model.model, name, plain)
    if found:
        _name_plain_modules(model)
    return found


def _hand_over(model: nn.Module, name: str, plain: nn.Module) -> None:
    """Give a new module's values to what loads all modules around it, or it would load old ones."""
    for key, value in plain.named_parameters():
        kept = find_offloaded(model, f"{name}.{key}")
        if kept is not None:
            kept.write(value)


def _name_plain_modules(model: EditableModel) -> None:
    """Make the settings in the model's configuration list the modules that are plain now."""
    settings: Any = getattr(model.model.config, "quantization_config", None)
    if settings is None:
        return
    plain = [
        name
        for name, module in model.model.named_modules()
        if linear_sizes(module) is not None and not is_quantised(module)
    ]
    known: dict[str, Any] = settings if isinstance(settings, dict) else vars(settings)
    keys = [key for key in _SKIP_LISTS if key in known]
    if not keys:
        raise ModelError(
            f"expected the quantisation settings of the model to have one of "
            f"{', '.join(_SKIP_LISTS)}, found {', '.join(sorted(known))}: an edited checkpoint "
            "could not be loaded again. Edit the unquantised model"
        )
    known[keys[0]] = sorted({*(known[keys[0]] or ()), *plain})
