"""What works for which family in which precision, by doing it; `docs/families.md` is made of it.

PYTHONPATH=src:tests python tests/family_table.py     writes the page anew
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from cli_helpers import FACTS as ROWS
from cli_helpers import FAST, LAYERS, write_rows
from peft import PeftModel
from quantised import SCHEMES
from tiny import FAMILIES, SENTENCES, tiny_editable
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from langedit.cli.collect import CollectOptions, collect
from langedit.cli.export_job import ExportOptions, export_edits
from langedit.cli.job import EditOutcome, edit_model
from langedit.cli.plan import EditOptions
from langedit.errors import ModelError
from langedit.evaluation import score_facts
from langedit.models import load_model
from langedit.models.quantised import keep_stored_form, quantised_modules
from langedit.workspace.export import apply_delta

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
PLAIN = ("float32", "bfloat16", "float16")
PRECISIONS = (*PLAIN, *SCHEMES)

DONE = "edit, save, reload, export"
NOT_RUN = "refused: the library cannot run it on a CPU"
NOT_QUANTISED = "– (not quantised)"
NOT_INSTALLED = "not installed"

SETTINGS = FAST.replace(
    "value_steps = 3", "value_steps = 4\nvalue_lr = 2.0\nnorm_clamp = 8.0\nridge = 0.01"
)

HEAD = f"""# Families

Each cell is what a tiny random model of the family goes through on a CPU. The page is written by
`python tests/family_table.py`, whose checks raise when a step fails; a test compares every cell of
the libraries that are installed. Made with {{versions}}.

- *edit*: `langedit stats` and `langedit edit`: second moments of text, two batches in two
  languages, the change of earlier keys below 10⁻⁵ (relative).
- *save*, *reload*: the edited folder loads with plain transformers; its edited weights are equal
  bit for bit, its logits are those of the live model, and all scores are the same.
- *export*: `langedit export`. The original checkpoint and the delta make a checkpoint with the
  logits of the live model. The original checkpoint in peft with the adapter has them too: to 10⁻⁴
  in float32, and within a quarter of what the edits change where the base rounds (bfloat16,
  float16, and activations in the 8-bit modules of bitsandbytes).
- The other columns start from a checkpoint whose linear modules the library has quantised (weights
  of 8 bits; nf4 in blocks of 64 or int4 in groups of 16). *The edited projections are kept in high
  precision*: they are made plain, in the precision of the embeddings, and `report.json` says so;
  everything else stays quantised, also in the saved folder. An adapter leaves the base as it is.
- *{NOT_QUANTISED}*: the library leaves the modules of this family plain (`Conv1D`,
  `FalconLinear`).
- *{NOT_RUN}*: a `ModelError` when it is loaded, which
  says what to do.
- *{NOT_INSTALLED}*: where the page was made. None of these libraries is needed by langedit.

On processors with bfloat16 instructions, 4-bit modules of bitsandbytes pack themselves anew in
their first run, which rounds their scales, and cannot be saved after it. langedit turns that off
when it loads or opens a model (`support_avx512bf16_for_cpu`), so that a model gives the same logits
whether it has run or not; plain transformers gives those of rounded scales. A model that ran before
langedit saw it can be edited, but is refused when it is saved.

| family | {" | ".join(PRECISIONS)} |
|---{"|---" * len(PRECISIONS)}|
"""


def check(family: str, precision: str, folder: Path) -> str:
    """Go through all steps; the cell of the table.

    Raises:
        AssertionError: a step gives other numbers than it should.
        LangEditError: a step fails.
    """
    tiny_editable(family).tokenizer.save_pretrained(folder / "model")
    if precision in SCHEMES:
        if not SCHEMES[precision].installed:
            return NOT_INSTALLED
        if not _save_quantised(family, precision, folder):
            return NOT_QUANTISED
        try:
            load_model(folder / "model")
        except ModelError as error:
            if "cannot be run on cpu" not in str(error):
                raise
            return NOT_RUN
    else:
        tiny_editable(family, dtype=getattr(torch, precision)).model.save_pretrained(
            folder / "model"
        )
    outcome = _edit(folder)
    _check_reloaded(outcome, precision, folder)
    _check_exports(outcome, precision, folder)
    return DONE


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
    return HEAD.format(versions=_versions()) + "".join(f"{line}\n" for line in rows)


def row(family: str, cells: list[str]) -> str:
    return f"| {family} | {' | '.join(cells)} |"


def _versions() -> str:
    """Of the libraries at work here, as a list in words."""
    installed = {scheme.library for scheme in SCHEMES.values() if scheme.installed}
    return ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "peft", *sorted(installed))
    )


def _save_quantised(family: str, precision: str, folder: Path) -> int:
    """Write the checkpoint as its library quantises it; how many modules it has quantised."""
    tiny_editable(family).model.save_pretrained(folder / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "plain", quantization_config=SCHEMES[precision].make(), device_map="cpu"
    )
    count = len(quantised_modules(model))
    if count:
        model.save_pretrained(folder / "model")
    return count


def _edit(folder: Path) -> EditOutcome:
    """The commands stats and edit on a checkpoint on disk."""
    (folder / "texts").mkdir()
    (folder / "texts" / "en.txt").write_text("\n".join(SENTENCES[:2]), encoding="utf-8")
    (folder / "texts" / "zh.txt").write_text(SENTENCES[6], encoding="utf-8")
    (folder / "settings.toml").write_text(SETTINGS)
    collect(
        CollectOptions(
            model=str(folder / "model"),
            sources=(str(folder / "texts"),),
            layers=LAYERS,
            output=folder / "moments",
        )
    )
    outcome = edit_model(
        EditOptions(
            model=str(folder / "model"),
            facts=write_rows(folder / "facts.jsonl", ROWS),
            output=folder / "edited",
            config=str(folder / "settings.toml"),
            moments=folder / "moments",
        )
    )
    assert outcome.independence_max is not None
    assert outcome.independence_max < 1e-5
    return outcome


def _check_reloaded(outcome: EditOutcome, precision: str, folder: Path) -> None:
    """The edited folder is the live model, and what is quantised in it is what it should be."""
    live = outcome.editor.model
    edited = _load(folder / "edited")
    dtype = precision if precision in PLAIN else "float32"
    assert str(edited.dtype) == f"torch.{dtype}"
    torch.testing.assert_close(_logits(edited, folder), _logits(live.model, folder))
    again = load_model(folder / "edited")
    for layer in LAYERS:
        assert torch.equal(again.read_weight(layer), live.read_weight(layer))
    assert tuple(score_facts(again, outcome.plan.facts)) == outcome.after
    report = json.loads((folder / "edited" / "report.json").read_text(encoding="utf-8"))
    assert report["precision"]["edited_weights"] == dtype
    made_plain = {live.projection_name(layer) for layer in LAYERS if precision in SCHEMES}
    assert [int(layer) for layer in report["precision"]["dequantised"]] == sorted(
        layer for layer in LAYERS if live.projection_name(layer) in made_plain
    )
    original = quantised_modules(_load(folder / "model"))
    assert set(quantised_modules(edited)) == set(original) - made_plain
    assert made_plain <= set(original)


def _check_exports(outcome: EditOutcome, precision: str, folder: Path) -> None:
    """Delta and adapter make the live model of the original checkpoint."""
    for kind in ("delta", "adapter"):
        export_edits(ExportOptions(source=folder / "edited", output=folder / kind, kind=kind))
    apply_delta(str(folder / "model"), folder / "delta", folder / "merged")
    expected = _logits(outcome.editor.model.model, folder)
    torch.testing.assert_close(_logits(_load(folder / "merged"), folder), expected)
    base = _load(folder / "model")
    effect = (_logits(base, folder) - expected).abs().max()
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    gap = (_logits(adapted, folder) - expected).abs().max()
    rounded = precision in ("bfloat16", "float16", "bitsandbytes 8-bit")
    assert gap < (effect / 4 if rounded else 1e-4) < effect


def _load(folder: Path) -> PreTrainedModel:
    """As plain transformers loads it, but for the rounding of scales in the first run."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    keep_stored_form(model)
    return model


def _logits(model: nn.Module, folder: Path) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    with torch.no_grad():
        return model(**tokenizer("The capital of France is", return_tensors="pt")).logits.float()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    PAGE.write_text(page(), encoding="utf-8")
