"""MEMIT with a memory: the keys of earlier batches are in the normal equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from langedit.editing.methods.base import LayerState
from langedit.editing.methods.memit import Memit, solver_of
from langedit.linalg import LowRankUpdate


@dataclass(frozen=True, kw_only=True)
class MemitSeq(Memit):
    """`dW^T = (lambda C0 + S + K K^T)^-1 K R^T`, S the sum of k k^T over all earlier edits."""

    reads: ClassVar[frozenset[str]] = Memit.reads

    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """Weighs the batch against the corpus and against every earlier edit."""
        return solver_of(state).update(keys, residuals, history=state.past_keys())
