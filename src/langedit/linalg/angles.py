"""How far two null spaces lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from langedit.errors import NumericalError
from langedit.linalg.projector import NullSpaceProjector


@dataclass(frozen=True, kw_only=True)
class NullSpaceAngle:
    """Principal angles between the null spaces of two halves of a sample.

    Attributes:
        degrees: mean of the angles that can differ from zero.
        largest: the largest angle, in degrees.
        tokens: size of the sample.
        null_threshold: eigenvalue below which a direction was null, if that was given.
        null_share: share of null directions, if that was given.
    """

    degrees: float
    largest: float
    tokens: int
    null_threshold: float | None = None
    null_share: float | None = None


def principal_angles(first: NullSpaceProjector, second: NullSpaceProjector) -> tuple[float, float]:
    """Return the mean and the largest principal angle of two null spaces, in degrees.

    They are computed between the forbidden spaces, which have the same angles but for zeros. Where
    one space is larger than the other, each dimension more counts as 90 degrees. The mean is over
    as many angles as can differ from zero, `min(larger rank, d - smaller rank)`.

    The mean says which part of the null space is in doubt. The largest angle is near 90 degrees
    whenever two eigenvalues beside the cut are nearly equal, however large the sample, and so
    decides nothing; a root mean square is held up by those few too.

    Raises:
        NumericalError: When the widths differ.
    """
    if first.d_in != second.d_in:
        raise NumericalError(
            f"angle of null spaces: expected one width, got {first.d_in} and {second.d_in}"
        )
    small, large = sorted((first.rank, second.rank))
    count = min(large, first.d_in - small)
    if count == 0:
        return 0.0, 0.0
    # Sines, not cosines: the part of one space outside the other is exact for small angles.
    lesser, other = sorted((first, second), key=lambda projector: projector.rank)
    outside = other.settle(lesser.basis.T)
    sines = torch.linalg.svdvals(outside) if lesser.rank else outside.new_zeros(0)
    angles = torch.rad2deg(sines.clamp(max=1.0).asin())
    total = float(angles.sum()) + 90.0 * (large - small)
    largest = 90.0 if large > small else float(angles.max())
    return total / count, largest
