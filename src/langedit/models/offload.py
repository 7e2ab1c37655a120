"""Weights that accelerate keeps elsewhere than in their module, and where modules compute.

A model dispatched over devices has hooks on its modules (`_hf_hook`). A module whose weights are
offloaded holds empty ones (meta device) between its calls; the values are in the `weights_map` of
its hook, or of the hook of a module around it: in memory, or in files that are read at each call.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from langedit.errors import ModelError


@dataclass(frozen=True)
class OffloadedWeight:
    """A parameter whose values are in a map of accelerate's, and its name there."""

    weights: Any
    key: str

    def read(self) -> Tensor:
        """The values, on the CPU."""
        value: Tensor = self.weights[self.key]
        return value.detach().to("cpu")

    def write(self, value: Tensor) -> None:
        """Make these the values, in memory; files that they were read from stay as they are.

        Raises:
            ModelError: the map is of an unknown kind.
        """
        weights, key = self.weights, self.key
        while not isinstance(weights, MutableMapping):
            if hasattr(weights, "dataset") and hasattr(weights, "prefix"):  # PrefixedDataset
                weights, key = weights.dataset, f"{weights.prefix}{key}"
            elif isinstance(getattr(weights, "state_dict", None), MutableMapping):
                weights = weights.state_dict  # OffloadedWeightsLoader: it comes before files
            else:
                raise ModelError(
                    f"{key} is offloaded in a way that cannot be written "
                    f"({type(weights).__name__}); keep the edited layers on a device"
                )
        weights[key] = value.detach().to("cpu", copy=True)


def find_offloaded(model: nn.Module, name: str) -> OffloadedWeight | None:
    """Where the values of a parameter are, if its module is offloaded."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        module = model.get_submodule(".".join(parts[:depth]))
        nearest = depth == len(parts) - 1
        for hook in _hooks(module):
            weights = getattr(hook, "weights_map", None)
            covers = nearest or getattr(hook, "place_submodules", False)
            if getattr(hook, "offload", False) and weights is not None and covers:
                return OffloadedWeight(weights, ".".join(parts[depth:]))
    return None


def values_of(model: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The parameter itself, or the values that stand for it where it is offloaded.

    The result is on the meta device still when there are none: it was never loaded.
    """
    offloaded = find_offloaded(model, name) if parameter.is_meta else None
    return parameter if offloaded is None else offloaded.read()


def compute_device(model: nn.Module, name: str) -> torch.device:
    """Where a module computes: where its parameters are, or its hook puts them for a call."""
    some = next(model.get_submodule(name).parameters(), None)
    if some is not None and not some.is_meta:
        return some.device
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        for hook in _hooks(model.get_submodule(".".join(parts[:depth]))):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return torch.device("cpu") if some is None else some.device


def modules_around(model: nn.Module, name: str) -> list[nn.Module]:
    """A module and those that it is in, innermost first."""
    parts = name.split(".")
    return [model.get_submodule(".".join(parts[:end])) for end in range(len(parts), -1, -1)]


@contextmanager
def loaded(model: nn.Module, name: str) -> Iterator[None]:
    """While inside, a module has its values, whether its own hook keeps them or one around it."""
    own, *around = modules_around(model, name)
    covering = [
        (module, hook)
        for module in (*reversed(around), own)
        for hook in _hooks(module)
        if getattr(hook, "offload", False)
        and (module is own or getattr(hook, "place_submodules", False))
    ]
    try:
        for module, hook in covering:
            hook.pre_forward(module)
        yield
    finally:
        for module, hook in reversed(covering):
            hook.post_forward(module, None)


def unload(module: nn.Module) -> None:
    """Let go of offloaded weights that a call of the module has loaded and could not unload."""
    for hook in _hooks(module):
        if getattr(hook, "offload", False):
            hook.post_forward(module, None)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: where the input embeddings compute."""
    embeddings = model.get_input_embeddings()
    weight = embeddings.weight
    if isinstance(weight, Tensor) and not weight.is_meta:
        return weight.device
    names = (name for name, module in model.named_modules() if module is embeddings)
    return compute_device(model, next(names, ""))


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks that accelerate has put on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
