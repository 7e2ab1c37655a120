"""Quantised projections: found by structure, and made plain where they are edited.

A library that quantises keeps a linear module's weight as small integers with scales, in ways of
its own (bitsandbytes, torchao, GPTQ, AWQ and others). What all of them share is what the module
does: `y = W x + b`. Applied to unit vectors it gives W, in the precision of the vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from langedit.errors import ModelError, NumericalError
from langedit.models.blocks import linear_sizes
from langedit.models.offload import compute_device, input_device, loaded

_ROWS = 1024  # unit vectors in one call
_RUN_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError)
_REPACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' Linear4bit


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear module keeps its weight in another form than (d_out, d_in) floats.

    Weights spread over several devices (DTensor) are not quantised.
    """
    sizes = linear_sizes(module)
    if sizes is None or isinstance(module, Conv1D):
        return False
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return True
    if hasattr(weight, "device_mesh"):
        return False
    plain = weight.is_floating_point() and weight.itemsize > 1 and weight.ndim == 2
    return not plain or tuple(weight.shape) != sizes[::-1] or is_traceable_wrapper_subclass(weight)


def quantised_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The quantised linear modules of a model, by name."""
    return {name: module for name, module in model.named_modules() if is_quantised(module)}


def stored_tensors(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything that a quantised module stores, by name: packed values, scales, bias.

    A copy is asked, since reading changes 4-bit modules of bitsandbytes that have packed
    themselves anew.
    """
    for key, value in _copied(module).state_dict(prefix=f"{name}.").items():
        yield from _plain_parts(key, value)


def keep_stored_form(model: nn.Module) -> None:
    """See that running a quantised model does not change what its modules store.

    On processors with bfloat16 instructions, 4-bit modules of bitsandbytes 0.50 pack their weights
    anew and round their scales in their first run, and cannot be written to a file after that. Each
    has a switch for it, which is turned off here: before the model is run for the first time.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)


def require_at_hand(model: nn.Module) -> None:
    """See that no quantised module is offloaded, of a model that is to be saved whole.

    transformers looks for all that such a module stores among its parameters, where libraries keep
    only a part of it.

    Raises:
        ModelError: one is; the message names it.
    """
    for name, module in quantised_modules(model).items():
        if any(parameter.is_meta for parameter in module.parameters()):
            raise ModelError(
                f"{name} ({kind_of(module)}) is offloaded, and transformers cannot save quantised "
                "modules from where they are kept: give its layer a device in the device map, or "
                "edit the unquantised model"
            )


def require_savable(model: PreTrainedModel) -> None:
    """See that quantised modules still do the same when their state has been read for a file.

    bitsandbytes 0.50 loses the order of the scales of 4-bit modules that have packed themselves
    anew (`keep_stored_form`).

    Raises:
        ModelError: one does not, so that a checkpoint would be wrong.
    """
    weight = model.get_input_embeddings().weight
    dtype = weight.dtype if isinstance(weight, Tensor) else model.dtype
    for name, module in quantised_modules(model).items():
        sizes = linear_sizes(module)
        assert sizes is not None
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad(), loaded(model, name):
            device, read = _device_of(module), _copied(module)
            probe = torch.randn(4, sizes[0], generator=generator).to(device, dtype)
            before = module(probe)
            read.state_dict()
            after = read(probe)
        if not torch.allclose(before.float(), after.float(), rtol=0.05, atol=1e-3):
            raise ModelError(
                f"{name} ({kind_of(module)}) cannot be saved after it has run on {device}: its "
                "library would write other values. Save the quantised model before its first run "
                "and edit that checkpoint, or edit the unquantised model"
            )


def require_runs(model: PreTrainedModel) -> None:
    """See that a quantised model can be run where it is, with a single token.

    Where quantised modules are offloaded it must give gradients, too: some libraries lose what they
    need for those when a module is put away after its call.

    Raises:
        ModelError: it cannot; libraries quantise modules that they cannot run everywhere.
    """
    keep_stored_form(model)
    modules = quantised_modules(model)
    if not modules:
        return
    device = input_device(model)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device))
    except _RUN_ERRORS as error:
        name, module = next(iter(modules.items()))
        raise ModelError(
            f"{type(model).__name__} is quantised ({name}: {kind_of(module)}) and cannot be run "
            f"on {device}: {' '.join(str(error).split())[:200]}. Quantise it with another "
            "library, load it on the device that its library needs, or edit the unquantised model"
        ) from error
    away = {name: own for name, own in modules.items() if any(p.is_meta for p in own.parameters())}
    for name, module in list(away.items())[:1]:
        try:
            _require_gradients(model)
        except (*_RUN_ERRORS, AttributeError) as error:
            raise ModelError(
                f"{type(model).__name__} is quantised ({name}: {kind_of(module)}) and offloaded, "
                f"and gives no gradients: {' '.join(str(error).split())[:200]}. Give its layers a "
                "device in the device map, or edit the unquantised model"
            ) from error


def _require_gradients(model: PreTrainedModel) -> None:
    """Run a single token and take gradients at its embedding."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    embeddings: Any = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(keep)
    ids = torch.zeros((1, 1), dtype=torch.int64, device=input_device(model))
    try:
        with torch.enable_grad():
            torch.autograd.grad(model(input_ids=ids).logits.float().sum(), seen[0])
    finally:
        handle.remove()


def dequantise(
    module: nn.Module, dtype: torch.dtype, *, name: str = "module"
) -> nn.Linear | Conv1D:
    """A plain linear module that does what a quantised one does to unit vectors.

    It is of the class that the unquantised model has there, where the library says so.

    Args:
        module: linear, with d_in and d_out; its bias, if any, is taken over. Where it is offloaded
            its values are loaded (`loaded`).
        dtype: of the vectors, and of the weight.
        name: for messages.

    Raises:
        ModelError: the module cannot be run.
        NumericalError: what it gives is not finite.
    """
    sizes = linear_sizes(module)
    if sizes is None:
        raise ModelError(f"expected {name} to be linear, found a {type(module).__name__}")
    device = _device_of(module)
    bias: Any = getattr(module, "bias", None)
    plain = nn.Linear(*sizes, bias=isinstance(bias, Tensor), device=device, dtype=dtype)
    try:
        if isinstance(bias, Tensor):  # it must not take part in the rounding of W
            module.bias = None  # type: ignore[assignment]
        with torch.no_grad():
            for start in range(0, sizes[0], _ROWS):
                unit = torch.zeros(min(_ROWS, sizes[0] - start), sizes[0], dtype=dtype).to(device)
                unit.diagonal(start).fill_(1.0)
                plain.weight[:, start : start + len(unit)] = module(unit).to(dtype).T
            if isinstance(bias, Tensor):
                plain.bias.copy_(bias)
    except _RUN_ERRORS as error:
        raise ModelError(
            f"{name} is quantised ({kind_of(module)}) and cannot be run here to read its weight: "
            f"{error}. Load the model on the device that its library needs, or unquantised"
        ) from error
    finally:
        if isinstance(bias, Tensor):
            module.bias = bias
    if not bool(torch.isfinite(plain.weight).all()):
        raise NumericalError(
            f"{name} ({kind_of(module)}) gives values that are not finite in {dtype}; load "
            "the model with another compute dtype"
        )
    return _like_source(module, plain).requires_grad_(False)


def _copied(module: nn.Module) -> nn.Module:
    """A copy that shares the hooks of accelerate, which may hold the weights of a whole model."""
    hook = getattr(module, "_hf_hook", None)
    return copy.deepcopy(module, {} if hook is None else {id(hook): hook})


def _like_source(module: nn.Module, plain: nn.Linear) -> nn.Linear | Conv1D:
    """The plain module as a `Conv1D` where one was quantised; bitsandbytes keeps the class."""
    if not issubclass(getattr(module, "source_cls", nn.Linear), Conv1D):
        return plain
    make: Any = Conv1D  # without annotations of its own
    turned: Conv1D = make(plain.out_features, plain.in_features).to(plain.weight)
    with torch.no_grad():
        turned.weight.copy_(plain.weight.T)
        if plain.bias is not None:  # else zeros: a Conv1D always has one
            turned.bias.copy_(plain.bias)
    return turned


def _device_of(module: nn.Module) -> torch.device:
    """Where a module computes, though its tensors may be offloaded from there."""
    device = next(chain(module.parameters(), module.buffers())).device
    return compute_device(module, "") if device.type == "meta" else device


def _plain_parts(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """A stored tensor, or the tensors inside one of another kind."""
    if not isinstance(value, Tensor):
        return
    if is_traceable_wrapper_subclass(value):
        inner, _ = value.__tensor_flatten__()
        for part in inner:
            yield from _plain_parts(f"{name}.{part}", getattr(value, part))
    else:
        yield name, value.detach().as_subclass(Tensor)


def kind_of(module: nn.Module) -> str:
    """What a quantised module is called in reports: class, and type of what it stores."""
    stored: Any = getattr(module, "weight", None)
    if not isinstance(stored, Tensor):
        return type(module).__name__
    inside = type(stored.data).__name__ if is_traceable_wrapper_subclass(stored) else ""
    return f"{type(module).__name__} of {inside or str(stored.dtype).removeprefix('torch.')}"
