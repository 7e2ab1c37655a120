from __future__ import annotations

import json

import pytest
import tiny
import torch
from dispatched import WAYS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from langedit.errors import ModelError, NumericalError
from langedit.models import (
    EditableModel,
    compute_device,
    find_structure,
    pad_batch,
    save_weights,
)
from langedit.models.offload import OffloadedWeight, find_offloaded

BATCH = pad_batch([[5, 6, 7], [8, 9]], 0)
FAMILIES = ["llama", "gpt2"]


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_offloaded_model_is_the_same_model(family, way, tmp_path):
    resident = tiny.tiny_editable(family)
    away = way(tiny.tiny_editable(family), tmp_path)
    assert away.projection(1).weight.is_meta
    assert find_offloaded(away.model, away.weight_name(1)) is not None
    assert away.identity().weights_hash == resident.identity().weights_hash
    assert torch.equal(away.logits(BATCH), resident.logits(BATCH))
    assert away.identity().weights_hash == resident.identity().weights_hash  # after a pass too
    assert away.device == away.projection_device(1) == torch.device("cpu")
    assert away.dtype == torch.float32
    for layer in range(tiny.N_LAYERS):
        assert torch.equal(away.read_weight(layer), resident.read_weight(layer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_used_and_saved(family, dtype, way, tmp_path):
    resident = tiny.tiny_editable(family, dtype=dtype)
    away = way(tiny.tiny_editable(family, dtype=dtype), tmp_path)
    before = away.logits(BATCH)
    for editable in (resident, away):
        weight = editable.read_weight(1)
        weight[3] += 2.5
        editable.write_weight(1, weight)
        assert torch.equal(editable.read_weight(1), weight.to(dtype).float())
    assert not torch.equal(away.logits(BATCH), before)
    # bfloat16 products depend on how a tensor lies in memory, by a few units in the last place
    tolerance = 0.0 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(
        away.logits(BATCH), resident.logits(BATCH), rtol=tolerance, atol=tolerance
    )
    assert away.projection(1).weight.is_meta
    save_weights(away.model, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto").eval()
    saved = EditableModel(again, away.tokenizer, find_structure(again))
    assert saved.identity().weights_hash == resident.identity().weights_hash


def test_files_that_were_read_from_stay_as_they_are(tmp_path):
    away = WAYS["device map"](tiny.tiny_editable(), tmp_path)
    files = sorted((tmp_path / "checkpoint").glob("*.safetensors"))
    before = [path.read_bytes() for path in files]
    away.write_weight(1, away.read_weight(1) + 1)
    assert [path.read_bytes() for path in files] == before
    index = json.loads((tmp_path / "checkpoint" / "model.safetensors.index.json").read_text())
    name = away.weight_name(1)
    stored = load_file(tmp_path / "checkpoint" / index["weight_map"][name])[name]
    assert torch.equal(away.read_weight(1), stored + 1)


def test_a_copy_is_read_and_a_copy_is_written(tmp_path):
    away = WAYS["memory"](tiny.tiny_editable(), tmp_path)
    weight = away.read_weight(0)
    weight += 1
    assert not torch.equal(away.read_weight(0), weight)
    away.write_weight(0, weight)
    weight += 1
    assert not torch.equal(away.read_weight(0), weight)


def test_nothing_is_written_that_is_not_finite(tmp_path):
    away = WAYS["disk"](tiny.tiny_editable(), tmp_path)
    weight = away.read_weight(0)
    with pytest.raises(NumericalError, match="nothing was written"):
        away.write_weight(0, weight * torch.inf)
    assert torch.equal(away.read_weight(0), weight)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_count_once_wherever_they_are(tied, way, tmp_path):
    resident = tiny.tiny_editable(tie_word_embeddings=tied)
    expected = resident.identity().weights_hash
    away = way(tiny.tiny_editable(tie_word_embeddings=tied), tmp_path)
    assert away.identity().weights_hash == expected
    away.logits(BATCH)  # a pass gives every module an empty parameter of its own
    assert away.identity().weights_hash == expected


def test_weights_that_were_never_loaded_are_refused(tmp_path):
    empty = tiny.tiny_model().to("meta")
    editable = EditableModel(empty, tiny.tiny_tokenizer(), find_structure(empty))
    with pytest.raises(ModelError, match="never loaded"):
        editable.read_weight(1)
    with pytest.raises(ModelError, match="never loaded"):
        editable.identity()
    with pytest.raises(ModelError, match="never loaded"):
        save_weights(empty, tmp_path)


def test_a_map_that_cannot_be_written_says_so():
    weight = OffloadedWeight((torch.zeros(2),), 0)
    with pytest.raises(ModelError, match=r"cannot be written \(tuple\)"):
        weight.write(torch.ones(2))


def test_without_hooks_modules_compute_where_their_weights_are():
    parts = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, device="meta"), "b": torch.nn.ReLU()})
    assert compute_device(parts, "a") == torch.device("meta")
    assert compute_device(parts, "b") == torch.device("cpu")
