"""Change for a while what modules do: their `forward`, the head's tokens, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from langedit.models import EditableModel

Forward = Callable[..., Any]


@contextmanager
def replace_forwards(pairs: Sequence[tuple[nn.Module, Forward]]) -> Iterator[None]:
    """Replace the `forward` of modules; what an instance had before comes back on every way out."""
    missing = object()
    before = [(module, module.__dict__.get("forward", missing)) for module, _ in pairs]
    try:
        for module, forward in pairs:
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before:
            if own is missing:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def on_tokens(module: nn.Module, rows: Tensor, columns: Tensor) -> Forward:
    """A `forward` that runs a token-wise module on some tokens only; the others come out as zeros.

    Args:
        module: takes tensors (batch, length, ...) and returns a tensor (batch, length, width), of
            which each token depends on that token only, such as an MLP.
        rows: (m,) int64 row of each token to run.
        columns: (m,) int64 column of each token to run.
    """
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Tensor:
        first = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        shape = first.shape[:2]
        flat = (rows * shape[1] + columns).to(first.device)

        def pick(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.shape[:2] != shape:
                return value
            return value.flatten(0, 1).index_select(0, flat.to(value.device)).unsqueeze(0)

        packed = forward(*map(pick, args), **{name: pick(v) for name, v in kwargs.items()})[0]
        full: Tensor = packed.new_zeros((shape.numel(), packed.shape[-1]))
        return full.index_copy(0, flat.to(packed.device), packed).view(*shape, -1)

    return run


@contextmanager
def head_on_tokens(model: EditableModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """While inside, the model gives logits (1, m, vocabulary) at m tokens only.

    Args:
        model: the model, called as a whole.
        rows: (m,) int64 row of each token in the batch.
        columns: (m,) int64 column of each token.
    """

    def gather(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        taken = hidden[rows.to(hidden.device), columns.to(hidden.device)]
        return (taken.unsqueeze(0), *args[1:])

    head = model.model.get_submodule(model.structure.head)
    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own parameters while inside."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
