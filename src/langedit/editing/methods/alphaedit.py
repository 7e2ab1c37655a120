"""AlphaEdit (Fang et al., ICLR 2025): one fixed projector from the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from langedit.editing.methods.base import GENERAL, TARGETS, LayerState
from langedit.editing.methods.closed_form import ClosedForm
from langedit.editing.methods.null_space import (
    NULL_SPACE,
    NullSpaceCut,
    Ridge,
    projector_of,
    ridge_of,
)
from langedit.linalg import (
    LowRankUpdate,
    MomentSolver,
    RecursiveRidge,
    SecondMoment,
    projected_update,
)

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class AlphaEdit(ClosedForm):
    """`dW^T = (P (K K^T + S) + L2 I)^-1 P K R^T`, P from the corpus and never refreshed."""

    needs_null_space: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = (
        GENERAL | TARGETS | NULL_SPACE | {"spread", "corpus_weight", "solve_history"}
    )
    cut: NullSpaceCut
    ridge: Ridge
    corpus_weight: float
    solve_history: bool = True

    @classmethod
    def from_config(cls, config: EditConfig) -> AlphaEdit:
        """Reads the null space's cut, the ridge, `corpus_weight` and `solve_history`."""
        return cls(
            cut=NullSpaceCut.from_config(config),
            ridge=Ridge.from_config(config),
            corpus_weight=config.corpus_weight,
            solve_history=config.solve_history,
        )

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Keeps the projector, and the factored moment where the corpus is weighed."""
        moment = moment.decomposed()
        projector = self.cut.of(moment)
        ridge = self.ridge.of(moment, projector)
        solver = None
        if self.corpus_weight:
            weight = self.corpus_weight
            solver = MomentSolver.from_null_space(projector, moment, weight, ridge=ridge)
        memory = None
        if self.solve_history:
            width, weight = (projector.d_in, ridge) if solver is None else (solver.width, 1.0)
            memory = RecursiveRidge.begin(width, weight, projector.basis.device)
        return LayerState.begin(
            moment, projector=projector, solver=solver, ridge=ridge, memory=memory
        )

    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """Earlier edits weigh against the batch inside the null space of the corpus."""
        history = state.past_keys() if self.solve_history else None
        if state.solver is not None:
            return state.solver.update(keys, residuals, history=history, memory=state.memory)
        return projected_update(
            projector_of(state),
            keys,
            residuals,
            ridge=ridge_of(state),
            history=history,
            memory=state.memory,
        )

    def advance(self, state: LayerState, keys: Tensor) -> LayerState:
        """Later batches weigh against this one, too."""
        if state.memory is None:
            return state.after(keys)
        if state.solver is not None:
            return state.after_weighing(keys, state.solver.coordinates(keys))
        return state.after_weighing(keys, projector_of(state).project_keys(keys))
