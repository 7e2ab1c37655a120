"""What a calibration may use, and what it says while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from langedit.calibration.budget import Budget
from langedit.calibration.start import Start
from langedit.editing import EditConfig

Report = Callable[[str, int], None]
"""Told what is done, and how many of it are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a calibration may use.

    Attributes:
        start: settings that the search begins with, and that are kept if nothing better is found.
        budget: minutes.
        trials: runs of the search after the start; `None`: as many as the budget allows.
        batch_size: facts in a batch.
        against: name -> settings that are scored on the confirmation facts, too.
        seed: of noise and search.
    """

    start: Start
    budget: Budget
    trials: int | None
    batch_size: int
    against: Mapping[str, EditConfig]
    seed: int = 0
