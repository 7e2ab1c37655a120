"""The same with the libraries themselves, where they are installed: edit, save, load again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dispatched import WAYS
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from quantised import SCHEMES
from tiny import tiny_editable
from transformers import AutoModelForCausalLM, PreTrainedModel

from langedit.editing import Editor
from langedit.errors import ModelError
from langedit.models import (
    EditableModel,
    find_structure,
    load_model,
    require_runs,
    save_weights,
    weights_hash,
)
from langedit.models.quantised import dequantise, is_quantised, quantised_modules

pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}  # block sizes of 4-bit formats


def quantised_llama(
    scheme: str, folder: Path, **config: bool
) -> tuple[EditableModel, PreTrainedModel]:
    """A plain model, and the same as its library loads it quantised."""
    settings_of = SCHEMES[scheme]
    if not settings_of.installed:
        pytest.skip(f"{settings_of.library} is not installed")
    source = tiny_editable(**WIDTHS, **config)
    source.model.save_pretrained(folder)
    inner = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings_of.make(), device_map="cpu", dtype="float32"
    )
    return source, inner.eval().requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", tuple(SCHEMES))
def test_a_model_quantised_while_it_is_loaded_is_edited_saved_and_loaded(scheme, bias, tmp_path):
    source, inner = quantised_llama(scheme, tmp_path / "plain", mlp_bias=bias)
    model = EditableModel(inner, source.tokenizer, find_structure(inner))
    before = len(quantised_modules(inner))
    assert before == 3 * 7
    ids = torch.tensor([source.tokenizer("The capital of France is")["input_ids"]])
    first = weights_hash(inner)
    inner(input_ids=ids)
    assert weights_hash(inner) == first  # running the model has not changed what it stores
    plain = dequantise(model.projection(1), torch.float32)
    near = (plain.weight - source.projection(1).weight).norm() / plain.weight.norm()
    assert 0 < near < 0.15
    own_bias = model.projection(1).bias.clone() if bias else None
    editor = Editor(model, None, settings(), random_moments(model), PREFIXES)
    assert list(editor.dequantised) == [0, 1]
    editor.apply(FACTS)
    assert editor.apply(LATER).independence_max < 1e-5
    live = inner(input_ids=ids).logits
    editor.save_pretrained(tmp_path / "edited")
    again = load_model(tmp_path / "edited", device_map="cpu")
    assert not is_quantised(again.projection(0))
    assert is_quantised(again.projection(2))
    assert len(quantised_modules(again.model)) == before - 2
    assert torch.equal(again.read_weight(1), model.read_weight(1))
    assert torch.equal(again.model(input_ids=ids).logits, live)
    if own_bias is not None:
        assert torch.equal(again.projection(1).bias, own_bias)
        assert torch.equal(own_bias, source.projection(1).bias)


WORKING = [
    ("bitsandbytes 8-bit", "whole layers"),
    ("torchao 8-bit", "memory"),
    ("torchao 4-bit", "memory"),
]


@pytest.mark.parametrize(("scheme", "way"), WORKING)
def test_offloaded_projections_with_a_bias_are_edited_as_those_at_hand(scheme, way, tmp_path):
    models = []
    for name in ("at hand", "away"):
        source, inner = quantised_llama(scheme, tmp_path / name, mlp_bias=True)
        require_runs(inner)
        models.append(EditableModel(inner, source.tokenizer, find_structure(inner)))
    at_hand, away = models
    moments = random_moments(at_hand)
    away = WAYS[way](away, tmp_path)
    require_runs(away.model)
    assert weights_hash(away.model) == weights_hash(at_hand.model)
    for model in (at_hand, away):
        editor = Editor(model, None, settings(), moments, PREFIXES)
        editor.apply(FACTS)
        assert editor.apply(LATER).independence_max < 1e-5
    for layer in (0, 1):
        assert torch.equal(away.read_weight(layer), at_hand.read_weight(layer))
    ids = torch.tensor([[5, 6, 7]])
    for _ in range(2):
        assert torch.equal(away.model(input_ids=ids).logits, at_hand.model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("scheme", "match"),
    [("bitsandbytes 8-bit", "gives no gradients"), ("bitsandbytes 4-bit", "cannot be run on cpu")],
)
def test_what_the_library_cannot_offload_is_refused(scheme, match, tmp_path):
    source, inner = quantised_llama(scheme, tmp_path / "plain", mlp_bias=True)
    model = EditableModel(inner, source.tokenizer, find_structure(inner))
    away = WAYS["memory"](model, tmp_path)
    with pytest.raises(ModelError, match=match):
        require_runs(away.model)


def test_a_model_that_has_packed_itself_anew_cannot_be_saved(tmp_path):
    """As it does when it is run before anything here sees it, on a processor made for that."""
    source, inner = quantised_llama("bitsandbytes 4-bit", tmp_path / "plain")
    ids = torch.tensor([source.tokenizer("The capital of France is")["input_ids"]])
    inner(input_ids=ids)
    packed = inner.get_submodule("model.layers.0.mlp.up_proj").weight.quant_state
    if not getattr(packed, "packing_format_for_cpu", False):
        pytest.skip("this processor does not pack them anew")
    with pytest.raises(ModelError, match="Save the quantised model before its first run"):
        save_weights(inner, tmp_path / "edited")
