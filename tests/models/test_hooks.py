from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from langedit.errors import StructureError
from langedit.models import Recorder, find_structure, hidden_of, replace_output

IDS = torch.tensor([[5, 6, 7, 8]])


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def names(model):
    structure = find_structure(model)
    layer = f"{structure.layers}.1"
    return layer, f"{layer}.{structure.projection}"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_recorder_sees_what_the_model_computes(family):
    model = tiny.tiny_model(family)
    layer, projection = names(model)
    model(input_ids=IDS, output_hidden_states=True)  # transformers leaves hooks of its own here
    hooks = hook_count(model)
    with Recorder(model, inputs=[projection, layer], outputs=[projection, layer]) as record:
        assert hook_count(model) == hooks + 4
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert torch.equal(record.inputs[layer], states[1])
    assert torch.equal(record.outputs[layer], states[2])
    keys = record.inputs[projection].reshape(4, -1)
    values = record.outputs[projection].reshape(4, -1)
    module = model.get_submodule(projection)
    assert keys.shape == (4, find_structure(model).d_in)
    assert torch.equal(module(keys), values)  # also where the layer adds to its output in place
    assert hook_count(model) == hooks


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_stop_after_runs_nothing_more(family):
    model = tiny.tiny_model(family)
    structure = find_structure(model)
    layer, projection = names(model)
    later = f"{structure.layers}.2"
    with Recorder(model, outputs=[layer]) as whole:
        model(input_ids=IDS)
    ended = False
    with Recorder(model, inputs=[projection, later], outputs=[layer], stop_after=layer) as record:
        model(input_ids=IDS)
        ended = True
    assert not ended
    assert torch.equal(record.outputs[layer], whole.outputs[layer])
    assert projection in record.inputs
    assert later not in record.inputs
    assert hook_count(model) == 0


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_stop_before_records_the_input_and_does_not_run_the_module(family):
    model = tiny.tiny_model(family)
    _, projection = names(model)
    with Recorder(model, inputs=[projection]) as whole:
        model(input_ids=IDS)
    ran = tiny.count_calls(model.get_submodule(projection))
    ended = False
    with Recorder(model, inputs=[projection], stop_before=projection) as record:
        model(input_ids=IDS)
        ended = True
    assert not ended
    assert torch.equal(record.inputs[projection], whole.inputs[projection])
    assert ran == []
    assert hook_count(model) == 0
    with Recorder(model, inputs=[projection], stop_after=projection):  # control
        model(input_ids=IDS)
    assert len(ran) == 1


def test_nested_recorders_stop_only_at_their_own_signal():
    model = tiny.tiny_model()
    first, last = "model.layers.0", "model.layers.2"
    with Recorder(model, outputs=[first, last]) as outer:
        with Recorder(model, inputs=[first], stop_after=first) as inner:
            model(input_ids=IDS)
        assert first in outer.outputs
        assert last not in outer.outputs
        model(input_ids=IDS)
        assert last in outer.outputs
    assert first in inner.inputs
    passed_inner = False
    with Recorder(model, outputs=[first], stop_after=first) as outer:
        with Recorder(model, outputs=[last]) as inner:
            model(input_ids=IDS)
        passed_inner = True
    assert not passed_inner
    assert last not in inner.outputs
    assert hook_count(model) == 0


def _fail_with_hooks(model):
    assert hook_count(model) > 0
    raise ZeroDivisionError


def test_hooks_are_gone_after_an_exception():
    model = tiny.tiny_model()
    recorder = Recorder(model, inputs=["lm_head"], stop_after="model.layers.2")
    replacing = replace_output(model.model.layers[0], lambda hidden: hidden)
    for context in (recorder, replacing):
        with pytest.raises(ZeroDivisionError), context:
            _fail_with_hooks(model)
        assert hook_count(model) == 0

    def fail(_hidden):
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        Recorder(model, outputs=["lm_head"]),
        replace_output(model.model.layers[0], fail),
    ):
        model(input_ids=IDS)
    assert hook_count(model) == 0


def test_recorder_can_be_used_again_but_not_inside_itself():
    model = tiny.tiny_model()
    recorder = Recorder(model, outputs=["lm_head"])
    for _ in range(2):
        with recorder:
            model(input_ids=IDS)
    with recorder, pytest.raises(RuntimeError, match="in use"):
        recorder.__enter__()
    assert hook_count(model) == 0


def test_names_are_checked_before_anything_runs():
    model = tiny.tiny_model()
    with pytest.raises(StructureError, match=r"no module 'model\.layers\.9'"):
        Recorder(model, outputs=["model.layers.9"])


def test_recorded_tensors_are_detached_unless_asked_for():
    model = tiny.tiny_model()
    layer = "model.layers.1"
    embedded = model.get_input_embeddings()(IDS).requires_grad_()
    with Recorder(model, inputs=[layer], outputs=[layer]) as record:
        model(inputs_embeds=embedded)
    assert not record.outputs[layer].requires_grad
    with Recorder(model, outputs=[layer], gradients=True) as record:
        logits = model(inputs_embeds=embedded).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), record.outputs[layer])
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_replaced_output_reaches_the_next_layer(family):
    model = tiny.tiny_model(family)
    structure = find_structure(model)
    layer, following = (f"{structure.layers}.{i}" for i in (1, 2))
    before = model(input_ids=IDS).logits
    shift = torch.linspace(-1, 1, structure.d_model)
    with (
        Recorder(model, inputs=[following], outputs=[layer]) as record,
        replace_output(model.get_submodule(layer), lambda hidden: hidden + shift),
    ):
        changed = model(input_ids=IDS).logits
    torch.testing.assert_close(record.inputs[following], record.outputs[layer] + shift)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(model(input_ids=IDS).logits, before)


class Pair(nn.Module):
    """A layer as older versions have it: the hidden state first in a tuple or list."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, hidden):
        return self.kind((hidden, "cache"))


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_stays_a_tuple_with_its_other_parts(kind):
    layer, hidden = Pair(kind), torch.ones(2, 3)
    with replace_output(layer, lambda h: 2 * h):
        output = layer(hidden)
    assert type(output) is kind
    assert output[1] == "cache"
    assert torch.equal(hidden_of(output), 2 * hidden)
    with Recorder(nn.ModuleDict({"layer": layer}), inputs=["layer"], outputs=["layer"]) as record:
        layer(hidden=hidden)
    assert torch.equal(record.inputs["layer"], hidden)
    assert torch.equal(record.outputs["layer"], hidden)


def test_a_replacement_of_another_shape_is_refused():
    layer = Pair(tuple)
    with (
        replace_output(layer, lambda h: h[:1]),
        pytest.raises(ValueError, match=r"shape \(2, 3\), fn returned \(1, 3\)"),
    ):
        layer(torch.ones(2, 3))


@pytest.mark.parametrize("output", [None, {}, (), ("text", torch.ones(1))])
def test_an_output_without_a_hidden_state_is_refused(output):
    with pytest.raises(StructureError, match="tuple that begins with one"):
        hidden_of(output)


def test_a_module_without_tensor_arguments_cannot_be_recorded():
    class Silent(nn.Module):
        def forward(self, flag):
            return flag

    parts = nn.ModuleDict({"silent": Silent()})
    with (
        Recorder(parts, inputs=["silent"]),
        pytest.raises(StructureError, match="without a tensor argument"),
    ):
        parts["silent"](True)
