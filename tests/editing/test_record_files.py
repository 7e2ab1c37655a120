"""Records are read as they were written, and refused when anything about them is odd."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langedit.editing import EditedBatch, EditedLayer, EditedModelRecord, record_files
from langedit.editing.record_files import read_record, write_record
from langedit.editing.tensor_file import read_tensor_file, write_tensor_file
from langedit.errors import LangEditError, OutputError, RecordError
from langedit.facts import Fact
from langedit.linalg import LowRankUpdate
from langedit.models import ModelIdentity

FACTS = (
    Fact("en", "The {} {braces}", "a|b\n<i>", "'; DROP TABLE facts; --", id="x"),
    Fact("zh-Hant", "{}的首都是", "法國", "巴黎", ("{}?",), ({"prompt": "p", "answer": "a"},)),
)
SCORES = ({"efficacy": 1.0, "generalization": None, "specificity": 0.25},) * 2


def record() -> EditedModelRecord:
    generator = torch.Generator().manual_seed(0)
    layers = {
        layer: EditedLayer(
            weight_name=f"model.layers.{layer}.mlp.down_proj.weight", transposed=False
        )
        for layer in (4, 11)
    }
    updates = {
        layer: LowRankUpdate(
            left=torch.randn(3, 2, generator=generator),
            right=torch.randn(2, 5, generator=generator),
        )
        for layer in layers
    }
    keys = {layer: torch.randn(2, 5, generator=generator) for layer in layers}
    batch = EditedBatch(
        number=7, facts=FACTS, updates=updates, rows=(0, 1), keys=keys, scores=SCORES
    )
    return EditedModelRecord(
        base=ModelIdentity(weights_hash="a" * 64, revision="main", source="owner/model"),
        dtype="bfloat16",
        layers=layers,
        method="memit",
        structure={"head": "lm_head"},
        settings={"seed": 3},
        batches=(batch,),
        selection="2 of 9 facts",
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "edits.safetensors"
    whole = record()
    write_record(path, whole, keys=True)
    found = read_record(path)
    for name in ("base", "dtype", "layers", "method", "structure", "settings", "selection"):
        assert getattr(found, name) == getattr(whole, name)
    assert found.facts == FACTS
    assert found.scores == SCORES
    assert found.batches[0].number == 7
    keys = found.batches[0].keys
    assert keys is not None
    for layer, update in whole.batches[0].updates.items():
        assert torch.equal(found.batches[0].updates[layer].left, update.left)
        assert torch.equal(found.batches[0].updates[layer].right, update.right)
        assert whole.batches[0].keys is not None
        assert torch.equal(keys[layer], whole.batches[0].keys[layer])
    write_record(path, whole, keys=False)
    assert read_record(path).batches[0].keys is None
    with pytest.raises(RecordError, match="expected keys to write"):
        write_record(path, read_record(path), keys=True)


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change manifest or tensors of a file, with a checksum that fits: as a stranger could."""
    metadata, tensors = read_tensor_file(path, record_files._KIND)
    manifest = json.loads(metadata.pop("manifest"))
    metadata.pop("format")
    change(manifest, tensors)
    write_tensor_file(
        path, record_files._KIND, tensors, {**metadata, "manifest": json.dumps(manifest)}
    )


def put(*place: str | int, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        inner: Any = manifest
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value

    return change


def tensor(name: str, value: torch.Tensor) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda manifest, tensors: tensors.update({name: value})


LEFT = "batch-00000.layer-004.left"
WEIGHT = ("layers", "4", "weight_name")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(*WEIGHT, value="../../etc/passwd"), "name of a weight"),
        (put(*WEIGHT, value="/etc/passwd.weight"), "name of a weight"),
        (put(*WEIGHT, value="a..weight"), "name of a weight"),
        (put(*WEIGHT, value="model.layers.11.mlp.down_proj.weight"), "one weight for each"),
        (put("layers", value={}), "no others"),
        (put("layers", "../4", value={"weight_name": "a.weight", "transposed": True}), "numbers"),
        (put("layers", "-1", value={"weight_name": "a.weight", "transposed": True}), "numbers"),
        (put("layers", "٤", value={"weight_name": "a.weight", "transposed": True}), "numbers"),
        (put("dtype", value="int8"), "dtype"),
        (put("extra", value=1), "extra"),
        (put("base", "weights_hash", value="short"), "weights_hash"),
        (put("base", "source", value="\x1b[2J"), "printable"),
        (put("selection", value="x" * 9999), "printable"),
        (put("batches", value=[]), "no others"),
        (put("batches", 0, "number", value=-1), "number"),
        (put("batches", 0, "number", value="1"), "number"),
        (put("batches", 0, "scores", 0, "efficacy", value=7.0), "efficacy"),
        (put("batches", 0, "scores", value=[]), "scores for each fact"),
        (put("batches", 0, "facts", value=[]), "at least one fact"),
        (put("batches", 0, "facts", 0, "path", value="/etc/passwd"), "other fields"),
        (put("batches", 0, "facts", 0, "prompt", value="no slot"), "prompt"),
        (put("batches", 0, "facts", 0, "language", value="../en"), "language"),
        (put("keys", value=False), "no others"),
        (put("batches", 0, "rows", value=[0, 2]), "a row, from 0, for each of 2 facts"),
        (put("batches", 0, "rows", value=[0]), "a row, from 0, for each of 2 facts"),
        (put("batches", 0, "dense", value=[4]), "no others"),
        (tensor(LEFT, torch.full((3, 2), torch.nan)), "finite"),
        (tensor(LEFT, torch.zeros(3, 1)), "update"),
        (tensor(LEFT, torch.zeros(3, 2).double()), "float32"),
        (tensor("batch-00000.layer-004.keys", torch.zeros(1, 5)), "keys of shape"),
        (tensor("../evil", torch.zeros(1)), "no others"),
        (lambda manifest, tensors: manifest.clear(), "Field required"),
    ],
)
def test_odd_records_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "edits.safetensors"
    write_record(path, record(), keys=True)
    rewrite(path, lambda manifest, tensors: None)
    read_record(path)  # the control: written again as it was, it is read
    rewrite(path, change)
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "not used" in str(caught.value)


@pytest.mark.parametrize("manifest", ["", "[]", "null", "[" * 100_000, '{"base": NaN}', "1" * 5000])
def test_manifests_that_are_none(tmp_path: Path, manifest: str) -> None:
    path = tmp_path / "edits.safetensors"
    write_tensor_file(path, record_files._KIND, {"a": torch.zeros(1)}, {"manifest": manifest})
    with pytest.raises(RecordError, match="manifest"):
        read_record(path)


def test_a_changed_byte_is_found_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "edits.safetensors"
    write_record(path, record(), keys=True)
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RecordError):
            read_record(path)
    path.write_bytes(whole)
    read_record(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.safetensors"
    path.write_bytes(content)
    with pytest.raises(LangEditError):
        read_record(path)


def test_facts_too_long_for_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "_LARGEST_MANIFEST", 500)
    with pytest.raises(OutputError, match="at most 500 bytes"):
        write_record(tmp_path / "edits.safetensors", record(), keys=True)
    assert list(tmp_path.iterdir()) == []


def test_parts_that_contradict_one_another() -> None:
    whole = record()
    (batch,) = whole.batches
    assert batch.keys is not None
    for batches, message in (
        ((batch, batch), "each number once"),
        ((replace(batch, updates={4: batch.updates[4]}),), r"layers \[4, 11\], got \[4\]"),
        ((replace(batch, keys={4: batch.keys[4]}),), "got None"),
    ):
        with pytest.raises(RecordError, match=message):
            replace(whole, batches=batches)
