"""MEMIT with a memory: the keys of earlier batches are in the normal equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from langedit.editing.methods.base import LayerState
from langedit.editing.methods.memit import Memit, solver_of
from langedit.linalg import LowRankUpdate, RecursiveRidge, SecondMoment


@dataclass(frozen=True, kw_only=True)
class MemitSeq(Memit):
    """`dW^T = (lambda C0 + S + K K^T)^-1 K R^T`, S the sum of k k^T over all earlier edits."""

    reads: ClassVar[frozenset[str]] = Memit.reads

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Factors lambda C0, once for all batches; knows of no edits yet."""
        state = super().start(layer, moment)
        memory = RecursiveRidge.begin(solver_of(state).width, 1.0, state.device)
        return replace(state, memory=memory)

    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """Weighs the batch against the corpus and against every earlier edit."""
        return solver_of(state).update(
            keys, residuals, history=state.past_keys(), memory=state.memory
        )

    def advance(self, state: LayerState, keys: Tensor) -> LayerState:
        """Later batches weigh against this one, too."""
        if state.memory is None:
            return state.after(keys)
        return state.after_weighing(keys, solver_of(state).coordinates(keys))
