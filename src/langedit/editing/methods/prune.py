"""PRUNE (Ma et al. 2025): MEMIT, with the singular values of the whole change restrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from langedit.editing.batch import BatchEdit, BatchJob, LayerEdit, sum_updates
from langedit.editing.methods.base import LayerState
from langedit.editing.methods.memit import Memit, solver_of
from langedit.errors import MomentsError, NumericalError
from langedit.linalg import LowRankUpdate, SecondMoment, Update, row_major, spectral_excess

_ROUNDING = 1e-4
"""Relative difference of float32 sums that counts as rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeEdits:
    """A layer as MEMIT alone would have edited it.

    Attributes:
        weight: (d_out, d_in) the original weight plus all of MEMIT's updates.
        total: the sum of these updates.
        excess: what is taken away from the total in the model as it is.
        limit: largest singular value of the original weight.
    """

    weight: Tensor
    total: LowRankUpdate
    excess: LowRankUpdate
    limit: float


@dataclass(frozen=True, kw_only=True, eq=False)
class PruneState(LayerState):
    """What PRUNE remembers besides: `free`, which is `None` before the first batch."""

    free: FreeEdits | None = None

    def further(self) -> tuple[Tensor, ...]:
        """The weight without the restraint, and what the restraint takes away."""
        if self.free is None:
            return ()
        return self.free.weight, self.free.excess.left, self.free.excess.right


@dataclass(frozen=True, kw_only=True)
class Prune(Memit):
    """MEMIT's total update with its large singular values replaced by their logarithms.

    Those that exceed the largest singular value s of the original weight become
    `ln(sigma) - ln(s) + s`. The published method does so once, when all edits are done. Here the
    weights after every batch are what it would give if that batch were the last: targets and
    solves see the weights without the restraint, and what is added to the model is the difference
    of the restrained totals. Batches that need no restraint are MEMIT's, bit for bit.
    """

    reads: ClassVar[frozenset[str]] = Memit.reads

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """As MEMIT."""
        begun = super().start(layer, moment)
        return PruneState(history=begun.history, solver=solver_of(begun))

    def remember(self, state: LayerState, keys: Tensor, update: Update, base: Tensor) -> PruneState:
        """The state after a batch edited before; MEMIT's update comes first in the recorded one.

        Raises:
            NumericalError: the recorded restraint is that of other batches before this one.
        """
        own = _own(state)
        free, near = own.free, update.to(device=base.device)
        after, alike = None, False
        if isinstance(near, LowRankUpdate) and near.rank >= len(keys):
            left, right = near.left[:, : len(keys)], near.right[: len(keys)]
            plain = row_major(LowRankUpdate(left=left, right=right))
            weight = sum_updates(base if free is None else free.weight, [plain])
            after = _advanced(free, plain, weight, base)
            alike = _alike(_restrained(free, after, plain), near, after.total)
        if not alike:
            raise NumericalError(
                "prune: expected the batches with which this one was restrained, got others: each "
                "update restrains the change of all batches before it, so none of these can be "
                "taken out alone. Undo the last batch, or replay the later ones (--by replay)"
            )
        return replace(own.after(keys), free=after)

    def edit(self, job: BatchJob) -> BatchEdit:
        """Edit the model without restraint, then restrain its total change."""
        states = {layer: _own(state) for layer, state in job.states.items()}
        free = {layer: state.free for layer, state in states.items()}
        with job.timed("solve"):
            unrestrained = job.first(
                lambda: {layer: own.weight for layer, own in free.items() if own is not None}
            )
            weights = {
                layer: unrestrained.get(layer, weight).to(weight.device)
                for layer, weight in job.weights.items()
            }
            job.processes.together(lambda: _write(job, weights))
        with job.timed("targets"):
            targets, target_hidden = job.find_targets()
        plain = self.spread(replace(job, weights=weights), target_hidden)
        after: dict[int, FreeEdits] = {}

        def restrain() -> dict[int, LowRankUpdate]:
            for layer, edit in plain.items():
                base = job.base[layer]
                after[layer] = _advanced(free[layer], _low_rank(edit), edit.after, base)
            return {
                layer: _restrained(free[layer], after[layer], _low_rank(edit))
                for layer, edit in plain.items()
            }

        with job.timed("solve"):
            edits = job.add_all(job.first(restrain))
        with job.timed("advance"):
            advanced = job.remember(
                lambda: {
                    layer: replace(states[layer].after(edit.keys), free=after[layer])
                    for layer, edit in edits.items()
                }
            )
        return BatchEdit(layers=edits, states=advanced, targets=targets)


def _write(job: BatchJob, weights: Mapping[int, Tensor]) -> None:
    for layer, weight in weights.items():
        job.model.write_weight(layer, weight)


def _own(state: LayerState) -> PruneState:
    if not isinstance(state, PruneState):
        raise MomentsError("expected a state of prune, got that of another method: start anew")
    return state


def _low_rank(edit: LayerEdit) -> LowRankUpdate:
    assert isinstance(edit.update, LowRankUpdate)  # MEMIT gives no other
    return edit.update


def _advanced(
    free: FreeEdits | None, plain: LowRankUpdate, weight: Tensor, base: Tensor
) -> FreeEdits:
    """One batch of MEMIT more, which gives `weight`."""
    if free is None:
        total, limit = plain, float(torch.linalg.matrix_norm(base, ord=2))
    else:
        total, limit = LowRankUpdate.join([free.total, plain]), free.limit
    excess = spectral_excess(total, limit)
    return FreeEdits(weight=weight, total=total, excess=excess, limit=limit)


def _restrained(before: FreeEdits | None, after: FreeEdits, plain: LowRankUpdate) -> LowRankUpdate:
    """What a batch adds to the restrained weight: MEMIT's update, and the change of the excess."""
    parts = [plain]
    if before is not None and before.excess.rank:
        parts.append(before.excess)
    if after.excess.rank:
        parts.append(LowRankUpdate(left=-after.excess.left, right=after.excess.right))
    return LowRankUpdate.join(parts)


def _alike(ours: LowRankUpdate, recorded: LowRankUpdate, total: LowRankUpdate) -> bool:
    """Whether two updates differ by rounding only, beside the total change."""
    minus = LowRankUpdate(left=-recorded.left, right=recorded.right)
    return LowRankUpdate.join([ours, minus]).norm() <= _ROUNDING * total.norm()
