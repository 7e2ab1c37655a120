"""Quantised modules are seen, hashed and made plain, whatever keeps their weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from dispatched import WAYS
from edits import random_moments, settings
from quantised import QUANTISERS, Int8Linear, quantise
from tiny import tiny_editable, tiny_tokenizer
from torch import nn
from transformers.pytorch_utils import Conv1D

from langedit.editing import Editor
from langedit.errors import ModelError, NumericalError
from langedit.models import (
    dequantise_projections,
    find_structure,
    require_runs,
    weights_hash,
)
from langedit.models.quantised import (
    dequantise,
    is_quantised,
    keep_stored_form,
    quantised_modules,
    require_savable,
)

KINDS = tuple(QUANTISERS)


def linear(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 32, bias=bias, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_modules_are_not_quantised(dtype):
    assert not is_quantised(linear(dtype=dtype))
    assert not is_quantised(Conv1D(32, 48))
    assert not is_quantised(nn.LayerNorm(4))
    assert not quantised_modules(tiny_editable("gpt2").model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_vectors_give_the_weight(kind, bias, dtype):
    module = QUANTISERS[kind](linear(bias))
    if bias:
        module.bias.data.mul_(1e4)  # would drown the weight if it took part in rounding
    assert is_quantised(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    plain = dequantise(module, dtype)
    assert not is_quantised(plain)
    assert torch.equal(plain.weight, module.true_weight().to(dtype))
    assert (plain.bias is not None) == bias
    if bias:
        assert torch.equal(plain.bias, module.bias.to(dtype))
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_cannot_be_run_or_is_not_finite_is_an_error():
    module = QUANTISERS["int8"](linear())
    module.scale[3] = float("inf")
    with pytest.raises(NumericalError, match="Int8Linear of int8"):
        dequantise(module, torch.float32)
    module.forward = lambda x: torch.mm(x, x)
    with pytest.raises(ModelError, match="cannot be run here"):
        dequantise(module, torch.float32)
    assert module.bias is not None


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_found_and_only_the_edited_layers_become_plain(kind):
    model = quantise(tiny_editable(), kind)
    assert find_structure(model.model) == model.structure
    before = len(quantised_modules(model.model))
    weights = [model.projection(i).true_weight() for i in (0, 1, 2)]
    with pytest.raises(ModelError):
        model.read_weight(1)
    done = dequantise_projections(model, (1, 2))
    assert list(done) == [1, 2]
    assert done[1] == {"int8": "Int8Linear of int8", "4-bit": "PackedLinear"}[kind]
    assert len(quantised_modules(model.model)) == before - 2
    assert torch.equal(model.read_weight(1), weights[1])
    assert torch.equal(model.projection(0).true_weight(), weights[0])
    assert dequantise_projections(model, (1, 2)) == {}


def test_a_plain_model_is_left_alone():
    model = tiny_editable()
    before = weights_hash(model.model)
    modules = [model.projection(i) for i in (0, 1)]
    assert dequantise_projections(model, (0, 1)) == {}
    assert [model.projection(i) for i in (0, 1)] == modules
    assert weights_hash(model.model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_sees_codes_and_scales(kind):
    model = quantise(tiny_editable(), kind)
    first = weights_hash(model.model)
    assert weights_hash(quantise(tiny_editable(), kind).model) == first
    scales = model.projection(1).scale if kind == "int8" else model.projection(1).scales
    scales[0] *= 1.001
    second = weights_hash(model.model)
    assert second != first
    codes = model.projection(1).weight if kind == "int8" else model.projection(1).qweight
    codes[0, 0] += 1
    assert weights_hash(model.model) not in (first, second)


@pytest.mark.parametrize("key", ["llm_int8_skip_modules", "modules_to_not_convert"])
@pytest.mark.parametrize("as_dict", [True, False])
def test_the_configuration_names_what_is_plain(key, as_dict):
    model = quantise(tiny_editable(), "int8")
    settings = {key: None, "bits": 8}
    model.model.config.quantization_config = settings if as_dict else SimpleNamespace(**settings)
    dequantise_projections(model, (1,))
    found = model.model.config.quantization_config
    assert (found[key] if as_dict else getattr(found, key)) == [
        "lm_head",
        "model.layers.1.mlp.down_proj",
    ]


def test_settings_that_cannot_name_it_are_an_error():
    model = quantise(tiny_editable(), "int8")
    model.model.config.quantization_config = {"bits": 8}
    with pytest.raises(ModelError, match="Edit the unquantised model"):
        dequantise_projections(model, (1,))


def test_a_module_that_reading_spoils_cannot_be_saved():
    model = quantise(tiny_editable(), "int8")
    require_savable(model.model)

    class Spoiled(Int8Linear):
        def state_dict(self, *args, **kwargs):
            self.scale.mul_(2)
            return super().state_dict(*args, **kwargs)

    model.model.set_submodule("model.layers.1.mlp.up_proj", Spoiled(linear(dtype=torch.float32)))
    scale = model.model.model.layers[1].mlp.up_proj.scale.clone()
    with pytest.raises(
        ModelError, match=r"layers.1.mlp.up_proj \(Spoiled of int8\) cannot be saved"
    ):
        require_savable(model.model)
    weights_hash(model.model)
    assert torch.equal(model.model.model.layers[1].mlp.up_proj.scale, scale)


def test_a_module_that_stood_for_a_transposed_one_becomes_that_again():
    plain = tiny_editable("gpt2")
    model = tiny_editable("gpt2")
    source = plain.projection(1)
    straight = nn.Linear(source.nx, source.nf)
    straight.weight.data.copy_(source.weight.T)
    straight.bias.data.copy_(source.bias)
    module = Int8Linear(straight)
    module.source_cls = Conv1D
    model.model.set_submodule(model.projection_name(1), module)
    assert list(dequantise_projections(model, (0, 1))) == [1]
    assert isinstance(model.projection(1), Conv1D)
    assert torch.equal(model.read_weight(1), module.true_weight())
    assert torch.equal(model.projection(1).bias, source.bias)
    ids = torch.tensor([[5, 9, 30]])
    expected = plain.model(input_ids=ids).logits
    assert 0 < (model.model(input_ids=ids).logits - expected).abs().max() < 0.2


def test_a_quantised_model_that_cannot_be_run_is_refused():
    model = quantise(tiny_editable(), "int8").model
    require_runs(model)

    def fail(_):
        raise NotImplementedError("no kernel\nfor cpu")

    model.get_submodule("model.layers.1.mlp.up_proj").forward = fail
    with pytest.raises(ModelError, match=r"q_proj: Int8Linear of int8.*on cpu: no kernel for cpu"):
        require_runs(model)
    with pytest.raises(ModelError, match="edit the unquantised model"):
        Editor(model, tiny_tokenizer(), settings(), random_moments(tiny_editable()))


class Forgetful(torch.autograd.Function):
    """Its backward needs what an offloaded module has lost by then."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        raise AttributeError("'NoneType' object has no attribute 'unsqueeze'")


def test_an_offloaded_model_that_gives_no_gradients_is_refused(tmp_path):
    def make(away: bool):
        model = quantise(tiny_editable(), "int8")
        module = model.projection(1)
        run = module.forward
        module.forward = lambda x: run(Forgetful.apply(x))
        return WAYS["memory"](model, tmp_path).model if away else model.model

    require_runs(make(away=False))  # at hand nothing is lost
    model = make(away=True)
    expected = r"q_proj: Int8Linear of int8\) and offloaded, and gives no gradients: 'NoneType'"
    with pytest.raises(ModelError, match=expected):
        require_runs(model)
    assert not model.get_input_embeddings()._forward_hooks
    require_runs(WAYS["memory"](quantise(tiny_editable(), "int8"), tmp_path).model)


def test_modules_that_would_pack_themselves_anew_are_told_not_to():
    model = quantise(tiny_editable(), "int8")
    module = model.projection(1)
    module.support_avx512bf16_for_cpu = True
    keep_stored_form(model.model)
    assert module.support_avx512bf16_for_cpu is False
    assert not hasattr(model.projection(2), "support_avx512bf16_for_cpu")
