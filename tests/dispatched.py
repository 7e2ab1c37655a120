"""Ways in which accelerate keeps weights away from their modules, all on the CPU.

    model = dispatched(tiny_model("gpt2"), "disk", folder)

Each way takes a model apart; its numbers stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accelerate
import torch

from langedit.models import load_model
from langedit.models.editable import EditableModel
from langedit.models.structure import find_structure

CPU = torch.device("cpu")


def _places(editable: EditableModel, layer: int) -> dict[str, str]:
    """A device map with one layer on disk, and the head too where it is a module of its own."""
    layers = editable.structure.layers
    names = [name for name, _ in editable.model.named_children() if name != layers.split(".")[0]]
    backbone = editable.model.get_submodule(layers.rpartition(".")[0])
    prefix = layers.rpartition(".")[0]
    names += [f"{prefix}.{name}" for name, _ in backbone.named_children()]
    names.remove(layers)
    names += [f"{layers}.{i}" for i in range(editable.structure.n_layers)]
    return dict.fromkeys(names, "cpu") | {f"{layers}.{layer}": "disk"}


def _device_map(editable: EditableModel, folder: Path) -> EditableModel:
    """Loaded with a device map: layer 1 is read from the files of a sharded checkpoint."""
    checkpoint = folder / "checkpoint"
    editable.model.save_pretrained(checkpoint, max_shard_size="40KB")
    editable.tokenizer.save_pretrained(checkpoint)
    return load_model(checkpoint, device_map=_places(editable, 1))


def _in_memory(editable: EditableModel, _folder: Path) -> EditableModel:
    """All weights in a dictionary in memory; modules have them during their calls."""
    accelerate.cpu_offload(editable.model, CPU)
    return editable


def _on_disk(editable: EditableModel, folder: Path) -> EditableModel:
    """All weights in a folder of accelerate's own files."""
    accelerate.disk_offload(editable.model, folder / "offloaded", CPU)
    return editable


def _whole_layers(editable: EditableModel, folder: Path) -> EditableModel:
    """As on disk, but hooks on the layers load everything inside them at once."""
    classes = [type(editable.layer(0)).__name__]
    accelerate.disk_offload(
        editable.model, folder / "offloaded", CPU, preload_module_classes=classes
    )
    return editable


def _meta(editable: EditableModel, folder: Path) -> EditableModel:
    """Made empty, then filled shard by shard from a checkpoint, one layer left on disk."""
    checkpoint = folder / "checkpoint"
    editable.model.save_pretrained(checkpoint, max_shard_size="40KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2
    with accelerate.init_empty_weights():
        empty = type(editable.model)(editable.model.config)
    empty.tie_weights()
    filled = accelerate.load_checkpoint_and_dispatch(
        empty,
        str(checkpoint),
        device_map=_places(editable, 1),
        offload_folder=str(folder / "offloaded"),
    )
    filled.eval().requires_grad_(False)
    return EditableModel(filled, editable.tokenizer, find_structure(filled))


WAYS: dict[str, Callable[[EditableModel, Path], EditableModel]] = {
    "memory": _in_memory,
    "disk": _on_disk,
    "whole layers": _whole_layers,
    "device map": _device_map,
    "meta": _meta,
}
