"""Rows that grow in place."""

from __future__ import annotations

import pytest
import torch

from langedit.linalg import GrowingRows, rows_beyond


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


def test_rows_beyond_those_that_are_known() -> None:
    rows = torch.arange(12.0).reshape(4, 3)
    for known in (rows[:2], rows[:2].clone()):
        found = rows_beyond(known, rows)
        assert found is not None
        assert torch.equal(found, rows[2:])
        assert found.data_ptr() == rows[2:].data_ptr()
    none, all_rows = rows_beyond(rows, rows), rows_beyond(rows[:0], rows)
    assert none is not None
    assert all_rows is not None
    assert (len(none), len(all_rows)) == (0, 4)
    assert rows_beyond(rows, rows[:2]) is None
    assert rows_beyond(rows[:2] + 1, rows) is None
    assert rows_beyond(rows[:2], rows[:, :2]) is None
