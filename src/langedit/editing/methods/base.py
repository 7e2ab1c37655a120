"""What a method is, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

from langedit.linalg import (
    GrowingRows,
    MomentSolver,
    NullSpaceProjector,
    RecursiveRidge,
    SecondMoment,
    Update,
    rows_beyond,
)

if TYPE_CHECKING:
    from langedit.editing.batch import BatchEdit, BatchJob
    from langedit.editing.config import EditConfig

GENERAL = frozenset(
    {
        "layers", "target_joint", "prefix_count", "prefix_length", "seed_words", "seed",
        "structure", "states_on", "micro_batch_tokens", "chat", "system_prompt", "chat_date",
    }
)  # fmt: skip
"""Settings of every method: where it edits, and how prompts and keys are made."""

TARGETS = frozenset(
    {
        "norm_clamp", "value_steps", "value_lr", "kl_weight", "value_weight_decay", "stop_loss",
        "stop_margin", "merge_shared", "loss_layer", "kl_template",
    }
)  # fmt: skip
"""Settings of the search for targets of hidden states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerState:
    """What a method knows of one layer between two batches. Never changed: a batch makes another.

    A method that remembers more adds fields in a subclass; `after` keeps them.

    Attributes:
        history: (m, d_in) float32 keys of all edits so far, oldest first.
        projector: onto the directions the next update may use; `None` for methods without one.
        moment: second moment that the next refresh of the projector reads, if there is one.
        solver: the corpus's second moment, factored once, for MEMIT's solves.
        ridge: weight of the identity in projected solves; `None` for methods without them.
        memory: what solves that weigh the history know of it already; `None` for others, and once
            the history's system is too ill-conditioned for it.
        batches: number of batches so far.
    """

    history: Tensor
    projector: NullSpaceProjector | None = None
    moment: SecondMoment | None = None
    solver: MomentSolver | None = None
    ridge: float | None = None
    memory: RecursiveRidge | None = None
    batches: int = 0
    _grown: GrowingRows | None = field(default=None, repr=False)

    @classmethod
    def begin(
        cls,
        corpus: SecondMoment,
        *,
        projector: NullSpaceProjector | None = None,
        moment: SecondMoment | None = None,
        solver: MomentSolver | None = None,
        ridge: float | None = None,
        memory: RecursiveRidge | None = None,
    ) -> LayerState:
        """The state before the first batch: no keys, of the corpus's width and on its device."""
        history = torch.zeros(0, corpus.width, dtype=torch.float32, device=corpus.mean.device)
        return cls(
            history=history,
            projector=projector,
            moment=moment,
            solver=solver,
            ridge=ridge,
            memory=memory,
        )

    def after(self, keys: Tensor) -> Self:
        """The same with the keys (n, d_in) of one more batch in the history."""
        history, grown = self._longer(keys)
        return replace(self, history=history, batches=self.batches + 1, _grown=grown)

    def after_weighing(self, keys: Tensor, rows: Tensor) -> Self:
        """The same with one more batch in history and memory.

        Args:
            keys: (n, d_in) of the batch.
            rows: (n, width) the same as the solve has them.
        """
        memory = None if self.memory is None else self.memory.after(rows)
        return replace(self.after(keys), memory=memory)

    def forget(self) -> None:
        """Keep nothing that was worked out of the last batch's keys and is asked for no more."""
        for own in (self.projector, self.solver, self.memory):
            if own is not None:
                own.forget()

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.history.device

    def to(self, device: torch.device) -> Self:
        """The same on another device; this very state where it is there already."""
        if device == self.device:
            return self
        projector = None if self.projector is None else self.projector.to(device)
        return replace(
            self,
            history=self.history.to(device),
            _grown=None,
            projector=projector,
            moment=None if self.moment is None else self.moment.to(device),
            solver=None if self.solver is None else self.solver.to(device, projector),
            memory=None if self.memory is None else self.memory.to(device),
        )

    def beside(self, waiting: LayerState, near: LayerState) -> Self:
        """The same where another state waits, with what both have in common there once.

        What did not change is the waiting state's. Of what grew only the growth is brought there,
        and what was made anew as a whole. What only a subclass has goes as its `to` says.

        Args:
            waiting: the state that this one comes after.
            near: the waiting state on this one's device, from which this one was made.
        """
        if near is waiting:
            return self
        place, more = waiting.device, rows_beyond(near.history, self.history)
        if more is None:
            history, grown = self.history.to(place), None
        else:
            history, grown = waiting._longer(more)
        projector = _beside(self.projector, waiting.projector, near.projector, place)
        solver = self.solver
        if solver is not None and waiting.solver is not None and near.solver is not None:
            solver = solver.beside(waiting.solver, near.solver, projector)
        elif solver is not None:
            solver = solver.to(place, projector)
        moment = self.moment
        if moment is not None:
            moment = waiting.moment if moment is near.moment else moment.to(place)
        bare = replace(
            self,
            history=self.history[:0],
            projector=None,
            moment=None,
            solver=None,
            memory=None,
            _grown=None,
        )
        return replace(
            bare.to(place),
            history=history,
            projector=projector,
            moment=moment,
            solver=solver,
            memory=_beside(self.memory, waiting.memory, near.memory, place),
            _grown=grown,
        )

    def sharing(self, later: LayerState) -> Self:
        """The same, with keys and bases kept as the beginnings of those of a later state.

        What grew in a new place, because the old one was full, is then there once.
        """
        projector, solver, grown = self.projector, self.solver, later._grown
        memory = self.memory
        if memory is not None and later.memory is not None:
            memory = memory.sharing(later.memory)
        if projector is not None and later.projector is not None:
            projector = projector.sharing(later.projector)
        if solver is not None:
            own = projector if solver.projector is self.projector else solver.projector
            solver = solver.sharing(later.solver, own)
        if grown is None or self.device != later.device:
            return replace(self, projector=projector, solver=solver, memory=memory)
        count = len(self.history)
        return replace(
            self,
            history=later.history[:count],
            projector=projector,
            solver=solver,
            memory=memory,
            _grown=grown.first(count),
        )

    def further(self) -> tuple[Tensor, ...]:
        """What a subclass remembers of the batches beyond these attributes, and solves read."""
        return ()

    def past_keys(self) -> Tensor | None:
        """The history, or `None` before the first batch."""
        return self.history if len(self.history) else None

    def _longer(self, keys: Tensor) -> tuple[Tensor, GrowingRows]:
        """The history with keys (n, d_in) behind it, and what it is kept in."""
        known, more = len(self.history), keys.to(self.history)
        grown = (self._grown or GrowingRows.begin(self.history)).with_rows(known, more)
        return grown.rows(known + len(more)), grown


_Grows = TypeVar("_Grows", NullSpaceProjector, RecursiveRidge)


def _beside(
    own: _Grows | None, waiting: _Grows | None, near: _Grows | None, place: torch.device
) -> _Grows | None:
    """A part of a state where that of another state waits, if that has one."""
    if own is None or waiting is None or near is None:
        return None if own is None else own.to(place)
    return own.beside(waiting, near)


class Method(Protocol):
    """Edits batches. Most methods are a `ClosedForm`, which leaves them only the solve.

    Methods hold settings only; what changes from batch to batch is in the `LayerState`.
    """

    needs_null_space: ClassVar[bool]
    """Whether `null_threshold` or `null_share` must be given."""

    # A class may also say which settings it reads, in `reads: ClassVar[frozenset[str]]`: see
    # `settings_read`. It is no part of the protocol, so that a plug-in need not have one.

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """The method with the settings it reads.

        Raises:
            ConfigError: the settings do not suit the method.
        """
        ...

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """The state before the first batch, from the corpus's second moment at this layer."""
        ...

    def remember(self, state: LayerState, keys: Tensor, update: Update, base: Tensor) -> LayerState:
        """A layer's state after a batch that was edited before, as `edit` left it, bit for bit.

        A model is brought back from a record with this; batches before this one may have been
        taken out since.

        Args:
            state: before the batch.
            keys: (n, d_in) of the batch in the edited model.
            update: what was added to the layer's weight.
            base: (d_out, d_in) weight before the first batch.

        Raises:
            NumericalError: the update rests on batches that are not in the state.
        """
        ...

    def edit(self, job: BatchJob) -> BatchEdit:
        """Edit a batch: write the weights, and say what was added and what to remember.

        Raises:
            LangEditError: something cannot be edited; the editor restores the weights.
        """
        ...
