"""Memory that is too small: modules that fail on more tokens than a limit.

    with scarce(model.model.lm_head, 40) as seen:
        ...

`seen` has the tokens of every call, those that failed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ERRORS: tuple[Callable[[], RuntimeError], ...] = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
)
"""How a card says it, and how a processor does."""


@contextmanager
def scarce(
    module: nn.Module, limit: int, error: Callable[[], RuntimeError] = ERRORS[0]
) -> Iterator[list[int]]:
    """While inside, a module that is given ids or states of more tokens runs out of memory.

    Args:
        module: its first argument is (rows, tokens) or (rows, tokens, width).
        limit: tokens that it holds.
        error: what it raises.
    """
    seen: list[int] = []

    def check(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].shape[0] * args[0].shape[1])
        if seen[-1] > limit:
            raise error()

    handle = module.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def failures(seen: list[int], limit: int) -> int:
    """How many calls ran out of memory."""
    return sum(tokens > limit for tokens in seen)
