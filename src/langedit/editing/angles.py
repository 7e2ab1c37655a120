"""When a corpus is large enough: the null spaces of two halves of it lie near each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from langedit.errors import ConfigError, NumericalError
from langedit.linalg import NullSpaceAngle, NullSpaceProjector, SecondMoment, principal_angles
from langedit.parallel import ALONE, Processes

Halves = Mapping[int, tuple[SecondMoment, SecondMoment]]
"""Layer -> moments of two halves of a corpus."""

# A look costs two eigendecompositions a layer; sizes grow by this, so there are few.
_GROWTH = 1.5
# Fewer tokens than this, times the width, and a half's moment is singular or nearly so.
_FIRST_LOOK = 4


@dataclass(frozen=True, kw_only=True)
class AngleGoal:
    """What to wait for.

    Attributes:
        degrees: the mean of the principal angles between the null spaces of the two
            halves must be below this in every layer. The whole sample has twice the tokens of a
            half, and its null space is nearer to that of the language than the halves are to each
            other: by a factor of two where errors fall with the root of the number of tokens.
        null_share: share of the directions that are null, or
        null_threshold: eigenvalue below which they are. Give those that the editing will have.
        on_look: called with the number of tokens and the angle of each layer after each look.

    Raises:
        ConfigError: the angle is not within (0, 90), or not exactly one cut is given.
    """

    degrees: float
    null_share: float | None = None
    null_threshold: float | None = None
    on_look: Callable[[int, Mapping[int, NullSpaceAngle]], None] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.degrees) and 0 < self.degrees < 90):
            raise ConfigError(f"angle: expected degrees within (0, 90), got {self.degrees}")
        if (self.null_share is None) == (self.null_threshold is None):
            raise ConfigError(
                "angle: expected one of null_share and null_threshold, which say what the null "
                f"space is, got {self.null_share} and {self.null_threshold}"
            )

    def measure(
        self, first: SecondMoment, second: SecondMoment, device: torch.device | None = None
    ) -> NullSpaceAngle:
        """The angles between the null spaces of two halves, found on a device, else where they are.

        One of the matrices is there at a time.
        """
        projectors = [
            NullSpaceProjector.from_moment(
                moment.to(device), threshold=self.null_threshold, null_share=self.null_share
            )
            for moment in (first, second)
        ]
        degrees, largest = principal_angles(*projectors)
        return NullSpaceAngle(
            degrees=degrees,
            largest=largest,
            tokens=first.count + second.count,
            null_threshold=self.null_threshold,
            null_share=self.null_share,
        )


class AngleWatch:
    """Looks now and then, at sample sizes that grow by half each time."""

    def __init__(self, goal: AngleGoal, width: int, devices: Mapping[int, torch.device]) -> None:
        """Begin to watch.

        Args:
            goal: what is wanted.
            width: of the keys.
            devices: layer -> where its matrices are decomposed.
        """
        self._goal = goal
        self._devices = devices
        self._next = _FIRST_LOOK * width
        self._found: dict[int, NullSpaceAngle] = {}

    def is_due(self, tokens: int) -> bool:
        """Whether it is time for a look."""
        return tokens >= self._next

    def look(self, tokens: int, halves: Halves, processes: Processes = ALONE) -> bool:
        """Measure the angle of every layer; whether all of them are small enough.

        Args:
            tokens: how many there are in both halves.
            halves: layer -> the moments of both; the same in all processes.
            processes: each measures its share of the layers; all get the angles, and so decide
                alike. The first one tells the goal's `on_look`.

        Raises:
            NumericalError: products in float32 lost too much for the goal's null space; the
                message names the layer.
        """
        self._next = math.ceil(_GROWTH * tokens)
        if not halves:
            return False
        angles = processes.spread(
            list(halves), lambda own: [self._measure(layer, halves[layer]) for layer in own]
        )
        self._found = dict(zip(halves, angles, strict=True))
        if self._goal.on_look is not None and processes.is_first:
            self._goal.on_look(tokens, self._found)
        return all(angle.degrees < self._goal.degrees for angle in angles)

    def _measure(self, layer: int, halves: tuple[SecondMoment, SecondMoment]) -> NullSpaceAngle:
        try:
            return self._goal.measure(*halves, self._devices[layer])
        except NumericalError as error:
            raise NumericalError(f"layer {layer}: {error}") from error

    def last(
        self, tokens: int, halves: Callable[[], Halves], processes: Processes = ALONE
    ) -> dict[int, NullSpaceAngle]:
        """The angles of the whole sample, measured now if the last look was at fewer tokens."""
        if any(angle.tokens != tokens for angle in self._found.values()) or not self._found:
            self.look(tokens, halves(), processes)
        return self._found
