"""Updates taken apart into tensors, put together again, and freed of single edits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from langedit.errors import NumericalError
from langedit.linalg import LowRankUpdate, keep_edits, row_major, update_from, update_tensors


def update(edits: int = 3) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(edits, 5, generator=generator).T  # not row by row
    return LowRankUpdate(left=left, right=torch.randn(edits, 7, generator=generator))


def test_there_and_back():
    given = update()
    kind, tensors = update_tensors(given)
    back = update_from(kind, tensors)
    assert torch.equal(back.left, given.left)
    assert torch.equal(back.right, given.right)


def test_laid_out_row_by_row_it_is_the_same_update():
    given = update()
    assert not given.left.is_contiguous()
    made = row_major(given)
    assert made.left.is_contiguous()
    assert torch.equal(made.left, given.left)


def test_without_some_edits_the_others_stay_and_the_parts_add_up():
    given = update()
    kept, gone = keep_edits(given, [0, 2], 3), keep_edits(given, [1], 3)
    assert kept.rank == 2
    torch.testing.assert_close(kept.dense() + gone.dense(), given.dense())
    assert keep_edits(given, [], 3).dense().abs().max() == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Other(LowRankUpdate):
    """An update of a kind that nobody has named."""


def test_what_cannot_be_told_apart_or_written_is_refused():
    with pytest.raises(NumericalError, match="factors of 2 edits"):
        keep_edits(update(), [0], 2)
    other = Other(left=torch.ones(2, 1), right=torch.ones(1, 2))
    with pytest.raises(NumericalError, match="got a Other: its edits"):
        keep_edits(other, [0], 1)
    with pytest.raises(NumericalError, match="cannot be recorded"):
        update_tensors(other)
    with pytest.raises(NumericalError, match="got 'dense' with left"):
        update_from("dense", {"left": torch.ones(1, 1)})
    with pytest.raises(NumericalError, match="got 'low-rank' with left"):
        update_from("low-rank", {"left": torch.ones(1, 1)})
