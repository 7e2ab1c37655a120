"""Rows that grow in place."""

from __future__ import annotations

import pytest
import torch

from langedit.linalg import GrowingRows


@pytest.mark.parametrize(("most", "copies"), [(None, 8), (2000, 8)])
def test_few_storages_serve_many_rows(most: int | None, copies: int) -> None:
    rows = torch.randn(1000, 4)
    grown, places = GrowingRows.begin(rows[:0]), set()
    for start in range(0, 1000, 10):
        grown = grown.with_rows(start, rows[start : start + 10], most=most)
        places.add(grown.rows(start + 10).data_ptr())
    assert torch.equal(grown.rows(1000), rows)
    assert len(places) <= 3 * copies


def test_no_room_is_made_for_more_rows_than_there_can_be() -> None:
    grown = GrowingRows.begin(torch.zeros(6, 8)).with_rows(6, torch.ones(1, 8), most=8)
    assert grown.rows(8).untyped_storage().nbytes() == 8 * 8 * 4


def test_who_did_not_grow_last_gets_rows_of_its_own() -> None:
    first = GrowingRows.begin(torch.zeros(1, 2)).with_rows(1, torch.ones(1, 2))
    one = first.with_rows(2, torch.full((1, 2), 2.0))
    other = first.with_rows(2, torch.full((1, 2), 3.0))
    assert one.rows(3)[2, 0] == 2
    assert other.rows(3)[2, 0] == 3
    assert torch.equal(first.first(2).rows(2), other.rows(2))
