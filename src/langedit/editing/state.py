"""What an editor holds between two batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from langedit.editing.methods import LayerState
from langedit.editing.prefixes import Prefixes
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class EditorState:
    """Everything that a batch changes. Never changed itself: a batch makes another.

    Attributes:
        layers: layer -> what the method remembers.
        languages: language of every edit so far, aligned with the rows of the layers' histories.
        prefixes: context prefixes given, or used so far.
    """

    layers: Mapping[int, LayerState]
    languages: tuple[str, ...]
    prefixes: Prefixes


def stored_digest(model: EditableModel, layers: Iterable[int]) -> str:
    """SHA-256 of the weights of some layers as the model stores them."""
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(model.read_weight(layer).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
