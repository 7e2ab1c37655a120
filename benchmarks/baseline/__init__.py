"""The straightforward implementation: what the published code does, step by step.

Written from the description of the methods and with none of the editor's shortcuts. It shares the
encoding of facts with the editor, so that both see the same tokens, and nothing else.
"""

from __future__ import annotations

from benchmarks.baseline.editor import BaselineBatch, BaselineEditor
from benchmarks.baseline.keys import baseline_keys, baseline_lookup_hidden
from benchmarks.baseline.solve import DenseLayer, dense_memit, dense_projected
from benchmarks.baseline.targets import BaselineTarget, baseline_target
from benchmarks.baseline.texts import baseline_answers, baseline_moments

__all__ = [
    "BaselineBatch",
    "BaselineEditor",
    "BaselineTarget",
    "DenseLayer",
    "baseline_answers",
    "baseline_keys",
    "baseline_lookup_hidden",
    "baseline_moments",
    "baseline_target",
    "dense_memit",
    "dense_projected",
]
