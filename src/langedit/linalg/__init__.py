"""Pure mathematics on torch tensors: moments, projectors, closed-form solves."""

from __future__ import annotations

from langedit.linalg.moments import MomentAccumulator, SecondMoment, gram
from langedit.linalg.projector import NullSpaceProjector, null_fraction
from langedit.linalg.running_moment import CORPUS_WEIGHT, pooled_moment, released_moment
from langedit.linalg.solves import MomentSolver, memit_update, projected_update
from langedit.linalg.stored_updates import keep_edits, row_major, update_from, update_tensors
from langedit.linalg.updates import LowRankUpdate

__all__ = [
    "CORPUS_WEIGHT",
    "LowRankUpdate",
    "MomentAccumulator",
    "MomentSolver",
    "NullSpaceProjector",
    "SecondMoment",
    "gram",
    "keep_edits",
    "memit_update",
    "null_fraction",
    "pooled_moment",
    "projected_update",
    "released_moment",
    "row_major",
    "update_from",
    "update_tensors",
]
