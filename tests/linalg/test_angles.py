"""Principal angles between null spaces, against angles made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from langedit.errors import NumericalError
from langedit.linalg import NullSpaceProjector, SecondMoment, principal_angles


def turned(*angles: float, d: int = 8) -> NullSpaceProjector:
    """Forbids e0, e1 ..., each turned by an angle (degrees) towards an axis of its own."""
    basis = torch.zeros(d, len(angles), dtype=torch.float64)
    for i, angle in enumerate(angles):
        basis[i, i] = math.cos(math.radians(angle))
        basis[d - 1 - i, i] = math.sin(math.radians(angle))
    return NullSpaceProjector(basis=basis)


def test_angles_by_hand() -> None:
    mean, largest = principal_angles(turned(0, 0, 0), turned(1, 5, 10))
    assert mean == pytest.approx(16 / 3)
    assert largest == pytest.approx(10)
    assert principal_angles(turned(0, 0), turned(0, 0)) == (0.0, 0.0)
    assert principal_angles(turned(0), turned(1e-7))[1] == pytest.approx(1e-7)  # no cosines


def test_a_space_that_is_larger_counts_90_degrees() -> None:
    mean, largest = principal_angles(turned(0, 0), turned(0, 0, 0))
    assert largest == 90.0
    assert mean == pytest.approx(30)


def test_the_angles_are_those_of_the_null_spaces_too() -> None:
    generator = torch.Generator().manual_seed(0)
    spaces = []
    for _ in range(2):
        q, _ = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64, generator=generator))
        spaces.append((NullSpaceProjector(basis=q[:, :6]), NullSpaceProjector(basis=q[:, 6:])))
    forbidden = principal_angles(spaces[0][0], spaces[1][0])
    null = principal_angles(spaces[0][1], spaces[1][1])
    assert forbidden == pytest.approx(null)


def test_the_mean_falls_with_the_sample_and_the_largest_need_not() -> None:
    """Equal eigenvalues at the cut: one direction stays undecided however many keys there are."""
    d = 60
    scale = torch.logspace(0, -2, d, dtype=torch.float64)
    scale[29] = scale[30]
    found = []
    for count in (300, 100_000):
        projectors = []
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed + count)
            keys = torch.randn(count, d, dtype=torch.float64, generator=generator) * scale
            moment = SecondMoment(count=count, mean=keys.T @ keys / count)
            projectors.append(NullSpaceProjector.from_moment(moment, null_share=0.5))
        found.append(principal_angles(*projectors))
    assert found[1][0] < found[0][0] / 2
    assert found[1][1] > 3 * found[1][0]


def test_widths_must_agree() -> None:
    with pytest.raises(NumericalError, match="one width"):
        principal_angles(turned(0), turned(0, d=9))
