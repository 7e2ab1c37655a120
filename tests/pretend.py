"""Devices that do not exist: tensors that compute on the CPU but refuse to mix, as cards do.

    with pretend_devices():
        model.to("lazy:1")

Inside, a tensor on `lazy:1` meets one on `lazy:0`, or one on the CPU that has dimensions, only
in a copy; anything else raises `MixedDevices`. `lazy` is a kind of device that torch knows by name,
has no kernels for here, and differentiates without asking for a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "lazy"
CPU = torch.device("cpu")
# What cards allow too: copies, and indices that are on the CPU.
COPIES = ("_to_copy", "copy_", "copy")
INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


SPREAD_LLAMA = {
    "model.embed_tokens": "lazy:0",
    "model.rotary_emb": "lazy:0",
    "model.layers.0": "lazy:0",
    "model.layers.1": "lazy:1",
    "model.layers.2": "lazy:2",
    "model.norm": "lazy:2",
    "lm_head": "lazy:3",
}
"""A device map: a tiny Llama of three layers over four of them."""


class MixedDevices(RuntimeError):
    """An operation was given tensors of several devices."""


class Pretend(Tensor):
    """A tensor that says it is on a device of its own; `inner` is on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(
        cls, inner: Tensor, device: torch.device | None = None, requires_grad: bool = False
    ) -> Tensor:
        if device is None:  # accelerate makes a parameter anew, of the old one's class
            return torch.nn.Parameter(inner, requires_grad=requires_grad)
        self: Pretend = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=requires_grad,
        )
        self.inner = inner
        return self

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _EveryOperation(TorchDispatchMode):
    """Sees every operation, those that make tensors too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Where torch goes from numbers to tensors, or back, unseen: take the way over the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]))
        if func is torch.Tensor.tolist:
            args = (args[0].cpu(),)
        device = kwargs.pop("device", None) if func is torch.tensor else None
        result = func(*args, **kwargs)
        return result if device is None else result.to(device)


@contextmanager
def pretend_devices() -> Iterator[None]:
    """Let `lazy:0`, `lazy:1`, ... be devices while inside."""
    with _EveryOperation(), _Numbers():
        yield


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors: list[Tensor] = []
    _each((args, kwargs), lambda value: tensors.append(value) or value)
    name = func._schema.name.removeprefix("aten::")
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    found = {t.device for t in tensors if t.ndim or t.device.type == NAME}
    if name in INDEXED and len(found) > 1:
        found -= {CPU}
    if len(found) > 1 and name not in COPIES:
        raise MixedDevices(f"{name} of {', '.join(map(str, sorted(found, key=str)))}")
    first = tensors[0].device if tensors else CPU
    away = [device for device in found if device.type == NAME]
    place = target or (first if name in COPIES else (away[0] if away else first))
    if place.type == NAME and place.index is None:
        place = torch.device(NAME, 0)
    if target is not None and target.type == NAME:
        kwargs = kwargs | {"device": CPU}
    inners = {id(t.inner): t for t in tensors if isinstance(t, Pretend)}
    opened_args, opened_kwargs = _each(
        (args, kwargs), lambda value: value.inner if isinstance(value, Pretend) else value
    )
    result = func(*opened_args, **opened_kwargs)

    def close(value: Any) -> Any:
        if isinstance(value, Pretend):
            return value
        if id(value) in inners:
            return inners[id(value)]
        return Pretend(value, place) if place.type == NAME else value

    return _each(result, close)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change every tensor in nested lists, tuples and dictionaries; torch's own way is slow."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_each(part, change) for part in value)
    if type(value) is dict:
        return {name: _each(part, change) for name, part in value.items()}
    return value
