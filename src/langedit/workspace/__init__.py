"""What lasts: the run of a stream of batches, and the workspace that records it.

Names are imported when they are first used: reading a ledger needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langedit.workspace.applying import apply_work, plan_work
    from langedit.workspace.creation import ModelSource
    from langedit.workspace.guards import GuardSettings
    from langedit.workspace.ledger import Ledger
    from langedit.workspace.recorder import LedgerRecorder
    from langedit.workspace.stream import (
        StreamRecorder,
        StreamStep,
        Verdict,
        batch_efficacies,
        run_stream,
    )
    from langedit.workspace.workspace import Workspace

__all__ = [
    "GuardSettings",
    "Ledger",
    "LedgerRecorder",
    "ModelSource",
    "StreamRecorder",
    "StreamStep",
    "Verdict",
    "Workspace",
    "apply_work",
    "batch_efficacies",
    "plan_work",
    "run_stream",
]

_HOMES = {
    "GuardSettings": "guards",
    "Ledger": "ledger",
    "LedgerRecorder": "recorder",
    "ModelSource": "creation",
    "StreamRecorder": "stream",
    "StreamStep": "stream",
    "Verdict": "stream",
    "Workspace": "workspace",
    "apply_work": "applying",
    "batch_efficacies": "stream",
    "plan_work": "applying",
    "run_stream": "stream",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"langedit.workspace.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
