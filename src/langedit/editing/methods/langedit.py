"""LangEdit (ACL Findings 2025): the projector follows the edits.

Three readings of the method, named by the setting `projection`:

* `orthogonal`, what the paper promises: each batch's keys join the forbidden space, so that every
  later update leaves the outputs of all earlier keys as they are, up to rounding. With P S = 0 the
  history drops out of the solve.
* `pooled`, the paper's equation taken literally: P from the mean over corpus and edited keys.
* `released`, the original code: the mean is refreshed by a recursion that adds the whole sum of
  past keys again after every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from langedit.editing.methods.base import GENERAL, TARGETS, LayerState
from langedit.editing.methods.closed_form import ClosedForm
from langedit.editing.methods.null_space import (
    NULL_SPACE,
    NullSpaceCut,
    Ridge,
    corpus_moment,
    projector_of,
    ridge_of,
)
from langedit.linalg import (
    LowRankUpdate,
    MomentSolver,
    SecondMoment,
    gram,
    pooled_moment,
    projected_update,
    released_moment,
)

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class LangEdit(ClosedForm):
    """`dW^T = (P_t (K K^T + S) + L2 I)^-1 P_t K R^T` with a projector P_t of its own each batch."""

    needs_null_space: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = (
        GENERAL
        | TARGETS
        | NULL_SPACE
        | {"spread", "projection", "corpus_weight", "solve_history", "basis_tolerance"}
        | {"moment_count", "refresh_edits"}
    )
    projection: Literal["orthogonal", "pooled", "released"]
    cut: NullSpaceCut
    ridge: Ridge
    corpus_weight: float
    solve_history: bool
    basis_tolerance: float
    moment_count: int
    refresh_edits: int | None

    @classmethod
    def from_config(cls, config: EditConfig) -> LangEdit:
        """Reads the projection and its settings, the null space's cut, ridge and corpus weight."""
        return cls(
            projection=config.projection,
            cut=NullSpaceCut.from_config(config),
            ridge=Ridge.from_config(config),
            corpus_weight=config.corpus_weight,
            solve_history=config.solve_history,
            basis_tolerance=config.basis_tolerance,
            moment_count=config.moment_count,
            refresh_edits=config.refresh_edits,
        )

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Keeps the projector; the moment where it is refreshed; its factor where it is weighed."""
        moment = moment.decomposed()
        projector = self.cut.of(moment)
        ridge = self.ridge.of(moment, projector)
        if self.projection != "orthogonal":
            return LayerState.begin(
                moment, moment=moment.with_spectrum(None), projector=projector, ridge=ridge
            )
        solver = None
        if self.corpus_weight:
            weight = self.corpus_weight
            solver = MomentSolver.from_null_space(projector, moment, weight, ridge=ridge)
        return LayerState.begin(moment, projector=projector, ridge=ridge, solver=solver)

    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """The update inside the null space of this batch."""
        projector = projector_of(state)
        if state.solver is not None:  # orthogonal and weighed
            return state.solver.update(keys, residuals)
        orthogonal = self.projection == "orthogonal"
        weighed = self.corpus_weight > 0
        return projected_update(
            projector,
            keys,
            residuals,
            ridge=ridge_of(state),
            history=state.past_keys() if self.solve_history and not orthogonal else None,
            moment=corpus_moment(state) if weighed else None,
            moment_weight=self.corpus_weight if weighed else None,
        )

    def advance(self, state: LayerState, keys: Tensor) -> LayerState:
        """Forbid the batch's keys (orthogonal), or refresh moment and projector."""
        after = state.after(keys)
        if self.projection == "orthogonal":
            projector = projector_of(state).extend(keys, self.basis_tolerance)
            solver = None if state.solver is None else state.solver.within(projector)
            return replace(after, projector=projector, solver=solver)
        refreshed = self._refreshed(after, len(keys))
        projector = self.cut.of(refreshed)
        if self.projection == "pooled":  # always from the corpus, which stays in the state
            return replace(after, projector=projector)
        return replace(after, moment=refreshed, projector=projector)

    def _refreshed(self, after: LayerState, edits: int) -> SecondMoment:
        """The moment of corpus and edited keys; the last batch had `edits` of them."""
        moment = corpus_moment(after)
        past = gram(after.history)
        if self.projection == "released":
            return released_moment(
                moment,
                past,
                step=after.batches,
                batch_size=self.refresh_edits or edits,
                corpus_weight=self.moment_count,
            )
        counted = self.refresh_edits * after.batches if self.refresh_edits else len(after.history)
        return pooled_moment(moment, past, edits=counted, corpus_weight=self.moment_count)
