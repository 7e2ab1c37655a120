"""How a batch becomes updates: one method a file, over the solves of `linalg`.

A method outside of the package subclasses `ClosedForm` or implements `Method`: docs/methods.md.
"""

from __future__ import annotations

from langedit.editing.batch import BatchEdit, BatchJob, LayerEdit
from langedit.editing.methods.base import LayerState, Method
from langedit.editing.methods.closed_form import ClosedForm
from langedit.editing.methods.registry import find_method, settings_read
from langedit.method_points import method_names

__all__ = [
    "BatchEdit",
    "BatchJob",
    "ClosedForm",
    "LayerEdit",
    "LayerState",
    "Method",
    "find_method",
    "method_names",
    "settings_read",
]
