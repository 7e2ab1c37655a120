"""Every family in every precision: moments, edit, save, reload, export; and the page says so."""

from __future__ import annotations

import pytest
from family_table import HEAD, PAGE, PRECISIONS, check, row
from tiny import FAMILIES


def cells_in_page() -> dict[str, list[str]]:
    """Family -> cells, from the table in the page."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    rows = text.removeprefix(HEAD).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in rows}
    assert [row(family, own) for family, own in cells.items()] == rows
    return cells


def test_the_page_lists_every_family_that_is_tested():
    assert tuple(cells_in_page()) == FAMILIES


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_all_steps_as_the_page_says(family, precision, tmp_path):
    listed = cells_in_page()[family][PRECISIONS.index(precision)]
    assert check(family, precision, tmp_path) == listed
