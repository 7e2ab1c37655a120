"""MEMIT (Meng et al. 2023): every batch weighs against the corpus only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from langedit.editing.methods.base import GENERAL, TARGETS, LayerState
from langedit.editing.methods.closed_form import ClosedForm
from langedit.errors import MomentsError
from langedit.linalg import LowRankUpdate, MomentSolver, SecondMoment

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class Memit(ClosedForm):
    """`dW^T = (lambda C0 + K K^T)^-1 K R^T` (equation 14; columns as in the paper)."""

    reads: ClassVar[frozenset[str]] = GENERAL | TARGETS | {"spread", "moment_weight"}
    moment_weight: float

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """Reads `moment_weight`."""
        return cls(moment_weight=config.moment_weight)

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Factors lambda C0, once for all batches."""
        solver = MomentSolver.from_moment(moment, self.moment_weight)
        return LayerState.begin(moment, solver=solver)

    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """Weighs the batch against the corpus; earlier batches do not count."""
        return solver_of(state).update(keys, residuals)


def solver_of(state: LayerState) -> MomentSolver:
    """The factored moment of a state.

    Raises:
        MomentsError: the state was begun by a method that keeps none.
    """
    if state.solver is None:
        raise MomentsError("expected a state with a factored moment, got none: start anew")
    return state.solver
