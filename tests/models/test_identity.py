from __future__ import annotations

import hashlib

import pytest
import tiny
import torch
from torch import nn

from langedit.errors import ModelError, NumericalError
from langedit.models import identity, weights_hash


def plain_hash(model: nn.Module) -> str:
    """The definition, without chunks."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 22])
def test_chunks_do_not_change_the_hash(chunk, monkeypatch):
    monkeypatch.setattr(identity, "_CHUNK", chunk)
    model = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3))
    assert weights_hash(model) == plain_hash(model)


def test_one_value_changes_the_hash():
    model = tiny.tiny_model("gpt2")
    before = weights_hash(model)
    model.transformer.h[1].mlp.c_proj.weight[3, 4] += 1e-3
    assert weights_hash(model) != before
    model.transformer.h[1].mlp.c_proj.weight[3, 4] = (
        tiny.tiny_model("gpt2").transformer.h[1].mlp.c_proj.weight[3, 4]
    )
    assert weights_hash(model) == before


def test_stored_precision_does_not_matter():
    rounded = tiny.tiny_model("llama", dtype=torch.bfloat16)
    assert weights_hash(rounded) == weights_hash(rounded.float())
    assert weights_hash(rounded) != weights_hash(tiny.tiny_model("llama"))


def test_names_and_shapes_count():
    first = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False)})
    other_name = nn.ModuleDict({"b": nn.Linear(2, 3, bias=False)})
    other_shape = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)})
    for model in (first, other_name, other_shape):
        model.requires_grad_(False)
        for parameter in model.parameters():
            parameter.fill_(0.5)
    assert len({weights_hash(m) for m in (first, other_name, other_shape)}) == 3


def test_order_of_definition_does_not_matter():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert weights_hash(nn.ModuleDict({"a": a, "b": b})) == weights_hash(
        nn.ModuleDict([("b", b), ("a", a)])
    )


def test_tied_weights_count_once_and_buffers_not_at_all():
    model = tiny.tiny_model("gpt2")  # its head is its embedding
    assert model.lm_head.weight is model.transformer.wte.weight
    before = weights_hash(model)
    model.register_buffer("extra", torch.ones(3))
    assert weights_hash(model) == before == plain_hash(model)


def test_weights_without_values_are_refused():
    with pytest.raises(ModelError, match="meta device"):
        weights_hash(nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_have_no_name(value):
    model = tiny.tiny_model("llama")
    model.model.layers[1].self_attn.q_proj.weight[2, 3] = value
    name = "model.layers.1.self_attn.q_proj.weight: expected finite weights"
    with pytest.raises(NumericalError, match=f"^{name}"):
        weights_hash(model)
