from __future__ import annotations

import inspect

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from langedit.errors import ModelError, NumericalError
from langedit.models import EditableModel, Recorder, find_structure, pad_batch, weights_hash

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def changed_weight(editable, layer):
    """The weight of a layer plus a dense change of about its own size."""
    weight = editable.read_weight(layer)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return weight, weight + noise * weight.std()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weight_is_out_by_in_and_survives_a_round_trip(family):
    editable = tiny.tiny_editable(family)
    structure = editable.structure
    before = weights_hash(editable.model)
    for layer in range(structure.n_layers):
        weight = editable.read_weight(layer)
        assert weight.shape == (structure.d_model, structure.d_in)
        assert weight.dtype == torch.float32
        editable.write_weight(layer, weight)
        stored = editable.model.state_dict()[editable.weight_name(layer)]
        assert stored.shape == weight.shape or stored.T.shape == weight.shape
    assert weights_hash(editable.model) == before


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_reading_gives_a_copy(family):
    editable = tiny.tiny_editable(family)
    before = weights_hash(editable.model)
    editable.read_weight(1).zero_()
    assert weights_hash(editable.model) == before


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_written_change_acts_as_the_dense_update(family):
    """The projection's output moves by ΔW k at every token, the logits move, nothing else does."""
    editable = tiny.tiny_editable(family)
    batch = pad_batch([ROWS[0]], editable.pad_id)
    projection = editable.projection_name(1)
    old, new = changed_weight(editable, 1)
    others = {k: v.clone() for k, v in editable.model.state_dict().items()}
    with Recorder(editable.model, inputs=[projection], outputs=[projection]) as record:
        before = editable.logits(batch)
    editable.write_weight(1, new)
    with Recorder(editable.model, inputs=[projection], outputs=[projection]) as edited:
        after = editable.logits(batch)
    keys = record.inputs[projection].reshape(-1, editable.structure.d_in)
    assert torch.equal(edited.inputs[projection], record.inputs[projection])
    moved = (edited.outputs[projection] - record.outputs[projection]).reshape(len(keys), -1)
    expected = keys @ (new - old).T
    # float32 products over d_in terms: rounding is below 1e-5 of the largest
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(before, after, atol=1e-3)
    differing = {k for k, v in editable.model.state_dict().items() if not torch.equal(v, others[k])}
    assert differing == {editable.weight_name(1)}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_edited_model_reloads_in_plain_transformers(family, tmp_path):
    editable = tiny.tiny_editable(family)
    editable.write_weight(1, changed_weight(editable, 1)[1])
    editable.model.save_pretrained(tmp_path)
    batch = pad_batch(ROWS, editable.pad_id)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = reloaded(**editable.inputs(batch)).logits
    assert torch.equal(logits, editable.logits(batch))
    assert weights_hash(reloaded) == weights_hash(editable.model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_writing_rounds_once(dtype):
    editable = tiny.tiny_editable("gpt2", dtype=dtype)
    weight = editable.read_weight(0) + 1 / 3
    editable.write_weight(0, weight)
    assert editable.dtype == dtype
    assert torch.equal(editable.read_weight(0), weight.to(dtype).float())


def test_double_precision_is_read_as_it_is():
    editable = tiny.tiny_editable("llama", dtype=torch.float64)
    weight = editable.read_weight(0) + 1 / 3
    editable.write_weight(0, weight)
    assert torch.equal(editable.read_weight(0), weight)


def test_refused_writes_leave_the_weight_alone():
    editable = tiny.tiny_editable("gpt2", dtype=torch.float16)
    before = editable.read_weight(1)
    with pytest.raises(ModelError, match=r"\(d_out, d_in\) = \(32, 48\), got \(48, 32\)"):
        editable.write_weight(1, before.T)
    too_large = before.clone()
    too_large[0, 0] = 1e6  # finite in float32, not in float16
    with pytest.raises(NumericalError, match="nothing was written"):
        editable.write_weight(1, too_large)
    assert torch.equal(editable.read_weight(1), before)


@pytest.mark.parametrize("layer", [-1, 3])
def test_layers_out_of_range_are_refused(layer):
    editable = tiny.tiny_editable()
    for ask in (editable.layer, editable.projection, editable.read_weight, editable.weight_name):
        with pytest.raises(ModelError, match=f"from 0 to 2, got {layer}"):
            ask(layer)


def replace_weight(editable, weight):
    editable.projection(1).weight = torch.nn.Parameter(weight, requires_grad=False)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(32, 48, dtype=torch.int8), "quantised"),
        (torch.zeros(32 * 24, 1, dtype=torch.uint8), "quantised"),
        (torch.zeros(32, 48, dtype=torch.float8_e4m3fn), "quantised"),
        (torch.zeros(32, 48, device="meta"), "never loaded"),
    ],
)
def test_weights_that_cannot_be_edited_say_why(weight, message):
    editable = tiny.tiny_editable("llama")
    replace_weight(editable, weight)
    with pytest.raises(ModelError, match=message):
        editable.read_weight(1)
    with pytest.raises(ModelError, match=message):
        editable.write_weight(1, torch.zeros(32, 48))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_names_lead_to_the_modules(family):
    editable = tiny.tiny_editable(family)
    modules = dict(editable.model.named_modules())
    assert modules[editable.layer_name(2)] is editable.layer(2)
    assert modules[editable.projection_name(2)] is editable.projection(2)
    parameters = dict(editable.model.named_parameters())
    assert parameters[editable.weight_name(2)] is editable.projection(2).weight


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_does_not_change_a_rows_logits(family, side):
    editable = tiny.tiny_editable(family)
    batch = pad_batch(ROWS, editable.pad_id, side=side)
    together = editable.logits(batch)
    for row, sequence in enumerate(ROWS):
        alone = editable.logits(pad_batch([sequence], editable.pad_id))[0]
        start = int(batch.starts[row])
        # another shape of batch, another order of float32 sums: logits are of order 1
        torch.testing.assert_close(
            together[row, start : start + len(sequence)], alone, rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_position_ids_go_only_where_they_are_taken(family):
    editable = tiny.tiny_editable(family)
    named = "position_ids" in inspect.signature(editable.model.forward).parameters
    assert ("position_ids" in editable.inputs(pad_batch(ROWS, 0))) is named
    assert named is (family != "bloom")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_at_places_are_those_of_the_whole_pass(family):
    editable = tiny.tiny_editable(family)
    batch = pad_batch([[5, 6, 7, 8], [9, 10]], editable.pad_id)
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([3, 1, 1])
    whole = editable.logits(batch)[rows, columns]
    assert torch.allclose(editable.logits_at(batch, rows, columns), whole, atol=1e-5)
    assert torch.equal(editable.logits(batch)[rows, columns], whole)  # the hook is gone


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_run_gives_what_the_head_takes_and_computes_no_logits(family):
    editable = tiny.tiny_editable(family)
    batch = pad_batch(ROWS, editable.pad_id)
    head, layer = editable.structure.head, editable.layer_name(1)
    with Recorder(editable.model, inputs=[head], outputs=[layer]) as whole:
        editable.logits(batch)
    with Recorder(editable.model, inputs=[head], outputs=[layer]) as record:
        hidden = editable.run(batch)
    assert torch.equal(hidden, whole.inputs[head])
    assert torch.equal(record.outputs[layer], whole.outputs[layer])
    assert head not in record.inputs


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_at_chosen_columns(family):
    editable = tiny.tiny_editable(family)
    batch = pad_batch(ROWS, editable.pad_id)
    columns = torch.tensor([0, 2])
    with Recorder(editable.model, inputs=[editable.structure.head]) as record:
        chosen = editable.logits(batch, columns=columns)
    # the same sums in matrices of another shape; logits are of order 1
    torch.testing.assert_close(chosen, editable.logits(batch)[:, columns], rtol=0, atol=1e-5)
    assert record.inputs[editable.structure.head].shape[1] == 2


def test_a_model_that_is_all_backbone_says_so():
    model = tiny.tiny_model()
    model.base_model_prefix = "absent"
    editable = EditableModel(model, tiny.tiny_tokenizer(), find_structure(model))
    with pytest.raises(ModelError, match="no separate head"):
        editable.run(pad_batch(ROWS, 0))


def test_training_mode_is_refused():
    model = tiny.tiny_model().train()
    with pytest.raises(ModelError, match=r"call model\.eval"):
        EditableModel(model, tiny.tiny_tokenizer(), find_structure(model))


def test_pad_id_falls_back():
    editable = tiny.tiny_editable()
    editable.tokenizer.pad_token = "<s>"
    assert editable.pad_id == editable.tokenizer.convert_tokens_to_ids("<s>") != 0
    editable.tokenizer.pad_token = None
    editable.tokenizer.eos_token = "<s>"
    assert editable.pad_id == editable.tokenizer.convert_tokens_to_ids("<s>")
    editable.tokenizer.eos_token = None
    assert editable.pad_id == 0


def test_identity_follows_the_weights():
    editable = tiny.tiny_editable()
    before = editable.identity()
    assert before.weights_hash == weights_hash(editable.model)
    assert (before.revision, before.source) == (None, "in memory")
    editable.write_weight(0, editable.read_weight(0) * 2)
    assert editable.identity().weights_hash != before.weights_hash
    assert editable.device == torch.device("cpu")
