"""Write a model's checkpoint, wherever its weights are."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from langedit.errors import ModelError
from langedit.models.offload import values_of
from langedit.models.quantised import require_at_hand, require_savable


def save_weights(
    model: PreTrainedModel, folder: str | Path, *, max_shard_size: str = "50GB"
) -> None:
    """Write weights and configuration as `save_pretrained` does; offloaded weights too.

    What transformers finds by itself it reads file by file; other offloaded weights are held in
    memory while they are written.

    Args:
        model: the model.
        folder: where to.
        max_shard_size: of one file of weights, as for `save_pretrained`.

    Raises:
        ModelError: a parameter was never loaded, or a quantised module is offloaded or would be
            saved with other values.
        OSError: the folder cannot be written.
    """
    require_at_hand(model)
    require_savable(model)
    # Conversions of quantised weights cannot be taken back: these are written as they are named.
    convert = getattr(model.config, "quantization_config", None) is None
    if not any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        # With a state of its own: that of quantised modules is more than their tensors.
        model.save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=convert)
        return
    state: dict[str, Tensor] = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_meta and not _found_by_transformers(model, name):
            state[name] = values_of(model, name, tensor)
            if state[name].is_meta:
                raise ModelError(f"cannot save {name}: it is on the meta device, never loaded")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded")
        model.save_pretrained(
            folder, state_dict=state, max_shard_size=max_shard_size, save_original_format=convert
        )


def _found_by_transformers(model: PreTrainedModel, name: str) -> bool:
    """Whether `save_pretrained` reads the weight through the one hook of its own module."""
    places = set(map(str, getattr(model, "hf_device_map", {}).values()))
    hook = getattr(model.get_submodule(name.rpartition(".")[0]), "_hf_hook", None)
    return bool(places & {"cpu", "disk"}) and getattr(hook, "weights_map", None) is not None
