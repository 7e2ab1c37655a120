"""Every family in every precision: moments, edit, save, reload, export; and the page says so."""

from __future__ import annotations

import re

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from family_table import HEAD, NOT_INSTALLED, PAGE, PLAIN, PRECISIONS, SCHEMES, check, row
from quantised import Scheme, quantise
from tiny import FAMILIES, tiny_editable

from langedit.editing import Editor
from langedit.models.quantised import quantised_modules

# Of transformers, about a name that peft asks it for.
PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


def cells_in_page() -> dict[str, list[str]]:
    """Family -> cells, from the table in the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = HEAD.partition("{versions}")
    assert text.startswith(before)
    versions, _, table = text.removeprefix(before).partition(after)
    assert re.fullmatch(r"torch \S+, transformers \S+, peft \S+(, \w+ \S+)*", versions)
    cells = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:]
        for line in table.splitlines()
    }
    assert [row(family, own) for family, own in cells.items()] == table.splitlines()
    return cells


def test_the_page_lists_every_family_that_is_tested():
    assert tuple(cells_in_page()) == FAMILIES


@pytest.mark.filterwarnings(PEFT)
@pytest.mark.parametrize("precision", PLAIN)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_all_steps_as_the_page_says(family, precision, tmp_path):
    listed = cells_in_page()[family][PRECISIONS.index(precision)]
    assert check(family, precision, tmp_path) == listed


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("scheme", tuple(SCHEMES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_family_goes_through_all_steps_as_the_page_says(family, scheme, tmp_path):
    if not SCHEMES[scheme].installed:
        pytest.skip(f"{SCHEMES[scheme].library} is not installed")
    listed = cells_in_page()[family][PRECISIONS.index(scheme)]
    assert check(family, scheme, tmp_path) == listed


def test_a_library_that_is_not_installed_is_said_to_be_so(monkeypatch, tmp_path):
    scheme = next(iter(SCHEMES))
    monkeypatch.setitem(SCHEMES, scheme, Scheme("no_such_library", dict))
    assert check("llama", scheme, tmp_path) == NOT_INSTALLED


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_a_family_of_int8_modules_is_edited_where_it_was_made_plain(family):
    """Without any library; GPT-2's modules are all `Conv1D`."""
    model = quantise(tiny_editable(family), "int8")
    before = len(quantised_modules(model.model))
    editor = Editor(model, None, settings(), random_moments(model), PREFIXES)
    assert list(editor.dequantised) == [0, 1]
    assert len(quantised_modules(model.model)) == before - 2
    unedited = {layer: model.read_weight(layer) for layer in (0, 1)}
    editor.apply(FACTS)
    assert editor.apply(LATER).independence_max < 1e-5
    for layer, base in unedited.items():
        total = base
        for report in editor.reports:
            total = total + report.updates[layer].dense()
        assert torch.equal(model.read_weight(layer), total)
        assert not torch.equal(total, base)
