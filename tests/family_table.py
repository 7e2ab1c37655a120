"""What works for which family in which precision, by doing it; `docs/families.md` is made of it.

PYTHONPATH=src:tests python tests/family_table.py     writes the page anew
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from cli_helpers import FACTS as ROWS
from cli_helpers import FAST, LAYERS, write_rows
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from quantised import quantise
from tiny import FAMILIES, SENTENCES, tiny_editable
from transformers import AutoModelForCausalLM, AutoTokenizer

from langedit.cli.collect import CollectOptions, collect
from langedit.cli.job import EditOutcome, edit_model
from langedit.cli.plan import EditOptions
from langedit.editing import Editor
from langedit.models import load_model
from langedit.models.quantised import quantised_modules

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
PRECISIONS = ("float32", "bfloat16", "int8 base")

HEAD = """# Families

Each cell is what a tiny random model of the family goes through. The page is written by
`python tests/family_table.py`, whose checks raise when a step fails; a test compares every cell.

- *edit*: second moments of text, two batches in two languages, the change of earlier keys below
  10⁻⁵ (relative).
- *save*, *reload*: the edited folder loads with plain transformers; its weights are equal bit for
  bit, and its logits are those of the live model.
- *export*: the original checkpoint plus the float32 factors of the updates, summed in order and
  rounded once, gives the edited weights bit for bit.
- *int8 base*: all linear modules of the layers keep int8 weights with scales, as libraries do that
  quantise. The edited projections are made plain, the others stay as they are. – where nothing in a
  family is quantised (`Conv1D`). With bitsandbytes (8-bit, 4-bit) or torchao installed,
  `tests/models/test_quantised_libraries.py` saves and reloads a Llama too. Modules of bitsandbytes
  0.50 with 4 bits that have run on a CPU cannot be saved, which is refused.

| family | float32 | bfloat16 | int8 base |
|---|---|---|---|
"""


def check(family: str, precision: str, folder: Path) -> str:
    """Go through all steps; the cell of the table.

    Raises:
        AssertionError: a step gives other numbers than it should.
        LangEditError: a step fails.
    """
    if precision == "int8 base":
        return _check_quantised(family)
    return _check_plain(family, precision, folder)


def page() -> str:
    """The whole page, from checks of every family in every precision."""
    rows = []
    for family in FAMILIES:
        cells = []
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(check(family, precision, Path(folder)))
        rows.append(row(family, cells))
        print(rows[-1], file=sys.stderr)
    return HEAD + "".join(f"{line}\n" for line in rows)


def row(family: str, cells: list[str]) -> str:
    return f"| {family} | {' | '.join(cells)} |"


def _check_plain(family: str, precision: str, folder: Path) -> str:
    outcome = _edit(family, precision, folder)
    live = outcome.editor.model
    independence = outcome.independence_max
    assert independence is not None
    assert independence < 1e-5
    edited = AutoModelForCausalLM.from_pretrained(folder / "edited").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "edited")
    assert str(edited.dtype) == f"torch.{precision}"
    original = load_model(folder / "model")
    again = load_model(folder / "edited")
    for layer in LAYERS:
        assert torch.equal(again.read_weight(layer), live.read_weight(layer))
        total = original.read_weight(layer)
        for report in outcome.editor.reports:
            total = total + report.updates[layer].dense()
        original.write_weight(layer, total)
        assert torch.equal(original.read_weight(layer), live.read_weight(layer))
    text = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        expected = live.model(**text).logits
        torch.testing.assert_close(edited(**text).logits, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(original.model(**text).logits, expected, rtol=1e-5, atol=1e-5)
        untouched = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
        assert (untouched(**text).logits - expected).abs().max() > 1e-3
    return "edit, save, reload, export"


def _edit(family: str, precision: str, folder: Path) -> EditOutcome:
    """The commands stats and edit on a checkpoint on disk."""
    tiny = tiny_editable(family, dtype=getattr(torch, precision))
    tiny.model.save_pretrained(folder / "model")
    tiny.tokenizer.save_pretrained(folder / "model")
    (folder / "texts").mkdir()
    (folder / "texts" / "en.txt").write_text("\n".join(SENTENCES[:2]), encoding="utf-8")
    (folder / "texts" / "zh.txt").write_text(SENTENCES[6], encoding="utf-8")
    (folder / "fast.toml").write_text(FAST)
    collect(
        CollectOptions(
            model=str(folder / "model"),
            sources=(str(folder / "texts"),),
            layers=LAYERS,
            output=folder / "moments",
        )
    )
    return edit_model(
        EditOptions(
            model=str(folder / "model"),
            facts=write_rows(folder / "facts.jsonl", ROWS),
            output=folder / "edited",
            config=str(folder / "fast.toml"),
            moments=folder / "moments",
        )
    )


def _check_quantised(family: str) -> str:
    model = quantise(tiny_editable(family), "int8")
    before = len(quantised_modules(model.model))
    if not before:
        return "–"
    editor = Editor(model, None, settings(), random_moments(model), PREFIXES)
    assert list(editor.dequantised) == [0, 1]
    assert len(quantised_modules(model.model)) == before - 2
    unedited = {layer: model.read_weight(layer) for layer in (0, 1)}
    editor.apply(FACTS)
    independence = editor.apply(LATER).independence_max
    assert independence is not None
    assert independence < 1e-5
    for layer, base in unedited.items():
        total = base
        for report in editor.reports:
            total = total + report.updates[layer].dense()
        assert torch.equal(model.read_weight(layer), total)
        assert not torch.equal(total, base)
    return "edit, export"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
