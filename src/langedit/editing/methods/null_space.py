"""Null space and ridge: the settings that the projecting methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langedit.editing.methods.base import LayerState
from langedit.errors import MomentsError, NumericalError
from langedit.linalg import NullSpaceProjector, SecondMoment

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


NULL_SPACE = frozenset({"null_threshold", "null_share", "ridge", "relative_ridge"})
"""Settings of null space and ridge."""


@dataclass(frozen=True, kw_only=True)
class NullSpaceCut:
    """Directions with eigenvalues below `threshold`, or the `share` with the smallest, are null."""

    threshold: float | None
    share: float | None

    @classmethod
    def from_config(cls, config: EditConfig) -> NullSpaceCut:
        """Reads `null_threshold` and `null_share`, of which the config holds exactly one."""
        return cls(threshold=config.null_threshold, share=config.null_share)

    def of(self, moment: SecondMoment) -> NullSpaceProjector:
        """The projector onto the null directions of a moment."""
        return NullSpaceProjector.from_moment(
            moment, threshold=self.threshold, null_share=self.share
        )


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Weight of the identity in a projected solve: `absolute`, or `relative` to a layer's keys."""

    absolute: float
    relative: float | None

    @classmethod
    def from_config(cls, config: EditConfig) -> Ridge:
        """Reads `relative_ridge`, and `ridge` where that is not given."""
        return cls(absolute=config.ridge, relative=config.relative_ridge)

    def of(self, moment: SecondMoment, projector: NullSpaceProjector) -> float:
        """The ridge of a layer; relative ones are multiples of `tr(P C0)`.

        Raises:
            NumericalError: the corpus's keys leave nothing in the null space, so that there is no
                length to be relative to.
        """
        if self.relative is None:
            return self.absolute
        mean = moment.mean.to(projector.basis)
        forbidden = ((mean @ projector.basis) * projector.basis).sum()
        left = float(mean.trace() - forbidden)
        if not left > 0:
            raise NumericalError(
                f"relative_ridge: expected corpus keys with a part in the null space, got {left}; "
                "use ridge, or a larger null_share"
            )
        return self.relative * left


def ridge_of(state: LayerState) -> float:
    """The ridge of a state.

    Raises:
        MomentsError: the state was begun by a method that has none.
    """
    if state.ridge is None:
        raise MomentsError("expected a state with a ridge, got one without: start anew")
    return state.ridge


def projector_of(state: LayerState) -> NullSpaceProjector:
    """The projector of a state.

    Raises:
        MomentsError: the state was begun by a method that keeps none.
    """
    if state.projector is None:
        raise MomentsError("expected a state with a projector, got one without: start anew")
    return state.projector


def corpus_moment(state: LayerState) -> SecondMoment:
    """The moment of a state.

    Raises:
        MomentsError: the state was begun by a method that keeps none.
    """
    if state.moment is None:
        raise MomentsError("expected a state with a second moment, got one without: start anew")
    return state.moment
