"""Run code on the meta device and see how much memory and arithmetic it would take.

Tensors on the meta device have shapes and no values. While a `MetaTracker` is active it counts the
bytes of those that are alive, and keeps the values of small integer tensors (ids, masks, indices)
on the CPU beside them, so that code which looks at these runs as it would with a real model.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from langedit.errors import ModelError

_SMALL = 1 << 22  # values of an integer tensor that are kept

_aten = torch.ops.aten
_FORMULAS = {**flop_registry, _aten._int_mm: flop_registry[_aten.mm]}


class MetaTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storage of meta tensors made while it is active.

    Attributes:
        live: bytes of such tensors that are alive.
        peak: the most there were since `reset_peak`.
        flops: floating-point operations of matrix products and attention so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.flops = 0.0
        self._sizes: dict[int, int] = {}
        self._known: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self._substitutes = _Substitutes(self)

    def __enter__(self) -> Self:
        self._substitutes.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._substitutes.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what was there before, such as a model's weights."""
        for tensor in tensors:
            self._sizes[tensor.untyped_storage()._cdata] = 0

    def reset_peak(self) -> None:
        """Forget peaks; what is alive stays counted."""
        self.peak = self.live

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation, and the same on the values kept where its operands are small."""
        kwargs = kwargs or {}
        if not _touches_meta((*args, *kwargs.values())):
            return func(*args, **kwargs)  # of the CPU, as layouts are made of
        if func is _aten._local_scalar_dense.default and args[0].is_meta:
            return self._value_of(args[0]).item()
        if func is _aten.nonzero.default and args[0].is_meta:
            return self._keep(self._value_of(args[0]).nonzero())
        if func is _aten.index.Tensor:
            args = (args[0], self._index_by_number(args[1]), *args[2:])
        floats = any(isinstance(arg, Tensor) and arg.is_floating_point() for arg in args)
        values = None if floats else self._values(func, args, kwargs)
        output = func(*args, **kwargs)
        for tensor in (output,) if isinstance(output, Tensor) else tree_flatten(output)[0]:
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        if values is not None:
            self._remember(output, values)
        return output

    # --- memory -----------------------------------------------------------------------------------

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)

    # --- values of small integer tensors ----------------------------------------------------------

    def _value_of(self, tensor: Tensor) -> Tensor:
        value = self._known.get(tensor)
        if not isinstance(value, Tensor):
            raise ModelError(
                "the model decides by a value that only a real pass knows; its memory cannot be "
                "planned. Give another model of the same shape"
            )
        return value

    def _values(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation on the values kept; None where an operand has none or is not small."""
        leaves, spec = tree_flatten((args, kwargs))
        if not any(_is_meta(leaf) for leaf in leaves):
            return None
        found = []
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.is_meta:
                leaf = self._known.get(leaf)
                if leaf is None:
                    return None
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.numel() > _SMALL):
                return None
            found.append(torch.device("cpu") if isinstance(leaf, torch.device) else leaf)
        args, kwargs = tree_unflatten(found, spec)
        if kwargs.get("dtype", torch.int64).is_floating_point:
            return None
        return func(*args, **kwargs)

    def _remember(self, output: Any, values: Any) -> None:
        pairs = zip(tree_flatten(output)[0], tree_flatten(values)[0], strict=True)
        for tensor, value in pairs:
            if isinstance(tensor, Tensor) and not tensor.is_floating_point():
                self._known[tensor] = value

    def _keep(self, value: Tensor) -> Tensor:
        tensor = torch.empty(value.shape, dtype=value.dtype, device="meta")
        self._count(tensor)
        self._known[tensor] = value
        return tensor

    def _index_by_number(self, indices: Any) -> Any:
        """Indices with boolean ones as the numbers that they choose."""
        numbers: list[Any] = []
        for index in indices:
            if isinstance(index, Tensor) and index.is_meta and index.dtype == torch.bool:
                numbers += [self._keep(part) for part in self._value_of(index).nonzero().unbind(1)]
            else:
                numbers.append(index)
        return numbers


class _Substitutes(TorchFunctionMode):
    """What runs in another way on the meta device than on a real one.

    `torch.tensor([...], device="meta")` is a CPU tensor first, so that its values are seen;
    attention is fused, as on CPUs and GPUs, and never holds a score for each pair of tokens.
    """

    def __init__(self, tracker: MetaTracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, or what stands for it."""
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is torch.tensor and device is not None and torch.device(device).type == "meta":
            del kwargs["device"]
            return func(*args, **kwargs).to("meta")
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            query, key, value = args[:3]
            pairs = query.shape[:-1].numel() * key.shape[-2]
            self._tracker.flops += 2.0 * pairs * (query.shape[-1] + value.shape[-1])
            fused: Any = _FusedAttention.apply
            return fused(query, key, value)
        return func(*args, **kwargs)


class _FusedAttention(torch.autograd.Function):
    """Takes and gives the tensors that fused attention takes and gives."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries (..., t, d) and values (..., s, e) give (..., t, e)."""
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, normaliser)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of all three, whether or not they are wanted, as fused attention does."""
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _is_meta(leaf: Any) -> bool:
    """Whether an operand is, or makes, a tensor on the meta device."""
    if isinstance(leaf, Tensor):
        return leaf.is_meta
    return isinstance(leaf, torch.device) and leaf.type == "meta"


def _touches_meta(operands: Iterable[Any]) -> bool:
    """Whether any of them, or of what lists among them hold, is or makes a tensor on meta."""
    return any(
        any(map(_is_meta, one)) if isinstance(one, list | tuple) else _is_meta(one)
        for one in operands
    )
