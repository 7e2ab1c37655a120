"""Pure mathematics on torch tensors: moments, projectors, closed-form solves."""

from __future__ import annotations

from langedit.linalg.angles import NullSpaceAngle, principal_angles
from langedit.linalg.compression import Compression, compress_update, key_metric
from langedit.linalg.growing import GrowingRows, rows_beyond
from langedit.linalg.moment_solver import MomentSolver, rome_update
from langedit.linalg.moments import MomentAccumulator, SecondMoment, gram
from langedit.linalg.projector import NullSpaceProjector, null_fraction
from langedit.linalg.recursive import RecursiveRidge
from langedit.linalg.regularise import keep_largest, spectral_excess
from langedit.linalg.running_moment import CORPUS_WEIGHT, pooled_moment, released_moment
from langedit.linalg.solves import memit_update, projected_update
from langedit.linalg.spectrum import Spectrum
from langedit.linalg.stored_updates import keep_edits, row_major, update_from, update_tensors
from langedit.linalg.updates import DenseUpdate, LowRankUpdate, Update

__all__ = [
    "CORPUS_WEIGHT",
    "Compression",
    "DenseUpdate",
    "GrowingRows",
    "LowRankUpdate",
    "MomentAccumulator",
    "MomentSolver",
    "NullSpaceAngle",
    "NullSpaceProjector",
    "RecursiveRidge",
    "SecondMoment",
    "Spectrum",
    "Update",
    "compress_update",
    "gram",
    "keep_edits",
    "keep_largest",
    "key_metric",
    "memit_update",
    "null_fraction",
    "pooled_moment",
    "principal_angles",
    "projected_update",
    "released_moment",
    "rome_update",
    "row_major",
    "rows_beyond",
    "spectral_excess",
    "update_from",
    "update_tensors",
]
