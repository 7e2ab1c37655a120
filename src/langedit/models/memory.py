"""When memory runs out: how that is known, and what was learnt from it."""

from __future__ import annotations

from typing import Literal

import torch

PassKind = Literal[
    "moments",
    "keys",
    "targets",
    "training",
    "answers",
    "logits",
    "continuations",
    "texts",
    "traces",
]
"""What a forward pass is for; passes of one kind take like memory for like sizes. Of "logits" that
is the number of tokens at which a long text has them, of others the number of padded tokens."""

# Cards have a class of their own for it; what follows is said without it.
_SAID = ("DefaultCPUAllocator", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device, or main memory, is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


class MemoryLimits:
    """The most tokens to run at once in each kind of pass, where more ran out of memory.

    An `EditableModel` has one, so that what its memory does not hold is found out once. Limits are
    of one process: they may divide what it does, never what is dealt to several.
    """

    def __init__(self) -> None:
        """No limits are known."""
        self._most: dict[PassKind, int] = {}

    def within(self, kind: PassKind, tokens: int) -> int:
        """At most so many tokens, and no more than are known to fit."""
        return min(tokens, self._most.get(kind, tokens))

    def lower(self, kind: PassKind, tokens: int) -> None:
        """Note that more tokens than these did not fit."""
        self._most[kind] = self.within(kind, tokens)
