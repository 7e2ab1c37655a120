"""Minutes to spend, how many are left, and what they went into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from langedit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Wall-clock time from now on.

    Attributes:
        minutes: how many there are; `None`: as many as it takes, so that a run does not depend on
            the speed of the machine.
        clock: seconds.
        begun: when the budget was made.

    Raises:
        ConfigError: the minutes are not above 0.
    """

    minutes: float | None
    clock: Callable[[], float] = monotonic
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"--budget: expected minutes above 0, got {self.minutes}")
        object.__setattr__(self, "begun", self.clock())

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.clock() - self.begun

    def allows(self, share: float, more: float = 0.0) -> bool:
        """Whether `more` seconds still end before a share of the budget is used."""
        return self.minutes is None or self.spent + more <= 60 * self.minutes * share


class Stages:
    """Wall-clock time of one stage after another, the first from when the budget was made."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._ended = 0.0
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """What was done since the end of the last stage was this one."""
        spent = self._budget.spent
        self.seconds[name] = spent - self._ended
        self._ended = spent
