"""The same with the libraries themselves, where they are installed: edit, save, load again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable
from transformers import AutoModelForCausalLM

from langedit.editing import Editor
from langedit.errors import ModelError
from langedit.models import EditableModel, find_structure, load_model, weights_hash
from langedit.models.quantised import dequantise, is_quantised, quantised_modules

pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}  # block sizes of 4-bit formats


def bitsandbytes_8bit() -> Any:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_4bit() -> Any:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def torchao_8bit() -> Any:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def saved(editor: Editor, folder: Path) -> bool:
    """Whether the library can write the model as it is, on this processor."""
    try:
        editor.save_pretrained(folder)
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("make", [bitsandbytes_8bit, bitsandbytes_4bit, torchao_8bit])
def test_a_quantised_checkpoint_is_edited_saved_and_loaded(make, tmp_path):
    config = make()
    source = tiny_editable(**WIDTHS)
    source.model.save_pretrained(tmp_path / "plain")
    inner = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=config, device_map="cpu", dtype="float32"
    )
    inner.eval().requires_grad_(False)
    model = EditableModel(inner, source.tokenizer, find_structure(inner))
    before = len(quantised_modules(inner))
    assert before == 3 * 7
    ids = torch.tensor([source.tokenizer("The capital of France is")["input_ids"]])
    inner(input_ids=ids)  # 4-bit modules of bitsandbytes round their scales in their first run
    first = weights_hash(inner)
    plain = dequantise(model.projection(1), torch.float32)
    near = (plain.weight - source.projection(1).weight).norm() / plain.weight.norm()
    assert 0 < near < 0.15
    assert weights_hash(inner) == first  # running the module has not changed what it stores
    editor = Editor(model, None, settings(), random_moments(model), PREFIXES)
    assert list(editor.dequantised) == [0, 1]
    editor.apply(FACTS)
    assert editor.apply(LATER).independence_max < 1e-5
    live = inner(input_ids=ids).logits
    if not saved(editor, tmp_path / "edited"):  # the library would spoil the file
        assert make is bitsandbytes_4bit
        return
    again = load_model(tmp_path / "edited", device_map="cpu")
    assert not is_quantised(again.projection(0))
    assert is_quantised(again.projection(2))
    assert len(quantised_modules(again.model)) == before - 2
    assert torch.equal(again.read_weight(1), model.read_weight(1))
    torch.testing.assert_close(again.model(input_ids=ids).logits, live, rtol=1e-3, atol=1e-3)
