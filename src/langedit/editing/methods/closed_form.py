"""Methods that are one solve per layer: the spread over the layers that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from langedit.editing.batch import BatchEdit, BatchJob, LayerEdit
from langedit.editing.finite import naming_facts, require_finite_facts
from langedit.editing.keys import LayerWalk
from langedit.editing.methods.base import LayerState
from langedit.linalg import LowRankUpdate, SecondMoment, Update, null_fraction

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


class ClosedForm(ABC):
    """A rule that turns a batch's keys and residuals at one layer into an update.

    Without a rule of its own, a subclass has no settings and remembers the keys of all edits.
    """

    needs_null_space: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """The method with the settings it reads."""
        return cls()

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """The state before the first batch, from the corpus's second moment at this layer."""
        return LayerState.begin(moment)

    @abstractmethod
    def solve(self, state: LayerState, keys: Tensor, residuals: Tensor) -> LowRankUpdate:
        """The update for keys (n, d_in) and residuals (n, d_model), both float32."""

    def advance(self, state: LayerState, keys: Tensor) -> LayerState:
        """The state after a batch, whose keys (n, d_in) are those of the edited model."""
        return state.after(keys)

    def remember(self, state: LayerState, keys: Tensor, update: Update, base: Tensor) -> LayerState:
        """The state after a batch edited before: keys are all that it follows from."""
        return self.advance(state, keys)

    def edit(self, job: BatchJob) -> BatchEdit:
        """Find the targets, spread what is missing over the layers, and remember the keys."""
        with job.timed("targets"):
            targets, target_hidden = job.find_targets()
        edits = self.spread(job, target_hidden)
        kept: dict[int, Tensor] = {}
        with job.timed("advance"):
            states = job.remember(lambda: self._advanced(job, edits, kept))
        return BatchEdit(layers=edits, states=states, kept=kept, targets=targets)

    def _advanced(
        self, job: BatchJob, edits: Mapping[int, LayerEdit], kept: dict[int, Tensor]
    ) -> dict[int, LayerState]:
        """The new states; `kept` is filled as that of a `BatchEdit`."""
        states = {}
        for layer, edit in edits.items():
            with naming_facts(job.requests, layer):
                states[layer], left = self._advance_one(job, layer, edit.keys)
            if left is not None:
                kept[layer] = left
        return states

    def _advance_one(
        self, job: BatchJob, layer: int, keys: Tensor
    ) -> tuple[LayerState, Tensor | None]:
        """One layer's new state, and what projection leaves of its keys: no other layer is near.

        Where keys join a history and that is all, the state need not leave its place.
        """
        if type(self).advance is ClosedForm.advance and job.states[layer].projector is None:
            return job.states[layer].after(keys), None
        near = job.state(layer)
        state = job.parked(layer, self.advance(near, keys), near)
        return state, None if near.projector is None else null_fraction(near.projector, keys)

    def spread(self, job: BatchJob, target_hidden: Tensor) -> dict[int, LayerEdit]:
        """Solve and write one layer after the other (algorithm 1 of MEMIT).

        At each layer the keys, and what is missing to the targets at the last edited layer, are
        read from the model as edited so far; the layer takes its share of what is missing. Only
        layers below can change a layer's keys, and those are edited by then, so the keys are also
        those of the edited model.

        Args:
            job: the batch.
            target_hidden: (n, d_model) float32.

        Raises:
            NumericalError: a solve fails or a value is not finite; the message names the fact.
        """
        contexts = [request.prompts for request in job.requests]
        layers, limit = job.config.edited_layers, job.config.micro_batch_tokens
        with job.timed("keys"):
            walk = LayerWalk(job.model, contexts, layers[-1], max_tokens=limit)
        edits = {}

        def solve(done: int, layer: int) -> tuple[Tensor, LowRankUpdate]:
            with job.timed("keys"):
                keys, hidden = walk.read(layer)
                residuals = (target_hidden.to(hidden) - hidden) / (len(layers) - done)
                require_finite_facts("key", keys, job.requests, layer)
                require_finite_facts("residual", residuals, job.requests, layer)
            with job.timed("solve"), naming_facts(job.requests, layer):
                return keys, self.solve(job.state(layer), keys, residuals)

        for done, layer in enumerate(layers):
            keys, update = job.first(partial(solve, done, layer))
            with job.timed("solve"):
                edits[layer] = job.add(layer, keys, update)
        return edits
