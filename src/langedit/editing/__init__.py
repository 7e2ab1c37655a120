"""From facts to updates of a model's weights."""

from __future__ import annotations

from langedit.editing.angles import AngleGoal
from langedit.editing.collect import collect_moments
from langedit.editing.config import EditConfig
from langedit.editing.editor import Editor
from langedit.editing.independence import Change
from langedit.editing.keys import compute_keys, lookup_hidden
from langedit.editing.methods import LayerState, Method, find_method, method_names
from langedit.editing.moments import LayerMoment, Moments
from langedit.editing.prefixes import Prefixes, generate_prefixes
from langedit.editing.record import EditedBatch, EditedLayer, EditedModelRecord
from langedit.editing.report import BatchReport, RankUse, UpdateNorm
from langedit.editing.requests import EditRequest, fact_name, prepare_request
from langedit.editing.targets import Targets, optimise_targets

__all__ = [
    "AngleGoal",
    "BatchReport",
    "Change",
    "EditConfig",
    "EditRequest",
    "EditedBatch",
    "EditedLayer",
    "EditedModelRecord",
    "Editor",
    "LayerMoment",
    "LayerState",
    "Method",
    "Moments",
    "Prefixes",
    "RankUse",
    "Targets",
    "UpdateNorm",
    "collect_moments",
    "compute_keys",
    "fact_name",
    "find_method",
    "generate_prefixes",
    "lookup_hidden",
    "method_names",
    "optimise_targets",
    "prepare_request",
]
