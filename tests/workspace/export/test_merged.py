"""A merged export is the base's files with other bytes in the edited weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exports import LAYOUTS, edit_base, edited, logits, plain, save_base
from safetensors.torch import load_file, save_file
from tiny import tiny_editable
from transformers import AutoTokenizer, GenerationConfig

from langedit.errors import LangEditError, ModelError, OutputError, RecordError
from langedit.workspace.export import BaseSource, export_merged
from langedit.workspace.export.checkpoint import overwrite_tensor

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("family", LAYOUTS)
def test_plain_transformers_says_what_the_live_model_says(tmp_path: Path, family: str) -> None:
    made = edited(tmp_path, family)
    export_merged(made.record, tmp_path / "out")
    found = logits(plain(tmp_path / "out"))
    assert torch.equal(found, made.logits)
    assert not torch.allclose(found, logits(plain(made.base)), atol=1e-2)  # the edit is seen
    AutoTokenizer.from_pretrained(tmp_path / "out")
    GenerationConfig.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", LAYOUTS)
def test_only_edited_weights_differ_and_they_are_the_sum_rounded_once(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    made = edited(tmp_path, family, dtype)
    export_merged(made.record, tmp_path / "out")
    old, new = (load_file(folder / "model.safetensors") for folder in (made.base, tmp_path / "out"))
    assert old.keys() == new.keys()
    layers = made.record.layers
    names = {layers[layer].weight_name: layer for layer in layers}
    for name, value in old.items():
        assert new[name].dtype == value.dtype == dtype
        if name not in names:
            assert torch.equal(new[name], value)
            continue
        layer = names[name]
        transposed = layers[layer].transposed
        total = (value.T if transposed else value).float()
        rounded_each_time = total
        for update in made.record.updates(layer):
            total = total + update.left @ update.right
            rounded_each_time = (rounded_each_time + update.left @ update.right).to(dtype).float()
        stored = new[name].T if transposed else new[name]
        assert torch.equal(stored, total.to(dtype))
        if dtype == torch.bfloat16:  # the control: rounding after every batch is another result
            assert not torch.equal(stored.float(), rounded_each_time)
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


def test_a_sharded_source_stays_sharded_byte_for_byte(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama", shard="40KB")
    index = json.loads((made.base / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 3
    outcome = export_merged(made.record, tmp_path / "out")
    assert not outcome.rewritten
    edited_shards = {
        index["weight_map"][layer.weight_name] for layer in made.record.layers.values()
    }
    for name in [*shards, "model.safetensors.index.json", "config.json", "tokenizer.json"]:
        same = (made.base / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        assert same == (name not in edited_shards)
        assert (made.base / name).stat().st_size == (tmp_path / "out" / name).stat().st_size
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    made = edited(tmp_path, "gpt2")
    export_merged(made.record, tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    model = plain(tmp_path / "out")
    assert model.lm_head.weight is model.transformer.wte.weight


def test_weights_may_be_named_without_the_models_prefix(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "gpt2", torch.float32)
    stored = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): value.clone() for name, value in stored.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    made = edit_base(base)
    assert not export_merged(made.record, tmp_path / "out").rewritten
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == bare.keys()
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


def test_a_source_without_safetensors_is_written_anew(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "gptj", torch.float32)
    (base / "model.safetensors").unlink()
    torch.save(tiny_editable("gptj").model.state_dict(), base / "pytorch_model.bin")
    made = edit_base(base)
    outcome = export_merged(made.record, tmp_path / "out")
    assert outcome.rewritten
    assert "written anew" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("*.bin"))  # it would hold the weights before the edit
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [(torch.bfloat16, "float32"), (torch.float32, "bfloat16")],
)
def test_a_model_edited_in_another_precision_is_exported_as_it_was(
    tmp_path: Path, stored: torch.dtype, loaded: str
) -> None:
    made = edit_base(save_base(tmp_path / "base", "llama", stored), load_as=loaded)
    outcome = export_merged(made.record, tmp_path / "out")
    assert outcome.rewritten
    model = plain(tmp_path / "out")
    assert str(model.dtype) == f"torch.{loaded}"
    assert torch.equal(logits(model), made.logits)


def test_the_files_of_a_hub_model_come_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "hub" / "models--owner--tiny"
    save_base(home / "snapshots" / COMMIT, "llama", torch.float32, shard="40KB")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for module in ("transformers.utils.hub.constants", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = edit_base(Path("owner/tiny"))
    assert made.record.base.source == "owner/tiny"
    outcome = export_merged(made.record, tmp_path / "out")
    assert not outcome.rewritten
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)
    assert 'base_model: "owner/tiny"' in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_files_of_no_use_stay_behind(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama")
    for name in ("pytorch_model.bin", "optimizer.pt", "README.md", "langedit.json", "run.py"):
        (made.base / name).write_text("not wanted")
    (made.base / "LICENSE").write_text("kept")
    export_merged(made.record, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {
        "LICENSE",
        "README.md",
        "config.json",
        "facts.jsonl",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "not wanted" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_another_base_is_refused_with_both_hashes(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama")
    other = tiny_editable("llama", seed=1)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(RecordError) as caught:
        export_merged(
            made.record, tmp_path / "out", base=BaseSource(source=str(tmp_path / "other"))
        )
    assert made.record.base.weights_hash in str(caught.value)
    assert other.identity().weights_hash in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other"]


def test_a_base_that_moved(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama")
    made.base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="no folder"):
        export_merged(made.record, tmp_path / "out")
    export_merged(made.record, tmp_path / "out", base=BaseSource(source=str(tmp_path / "moved")))
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


def test_an_output_that_is_there_is_kept(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="new or empty"):
        export_merged(made.record, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = edited(tmp_path, "llama")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("langedit.workspace.export.checkpoint.overwrite_tensor", full)
    with pytest.raises(OutputError, match="No space left"):
        export_merged(made.record, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_index_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama", shard="40KB")
    path = made.base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = made.record.layers[0].weight_name
    shard = index["weight_map"][name]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / shard).write_bytes((made.base / shard).read_bytes())
    index["weight_map"] = {
        key: f"../outside/{file}" if file == shard else file
        for key, file in index["weight_map"].items()
    }
    path.write_text(json.dumps(index))
    with pytest.raises(LangEditError, match="outside"):
        export_merged(made.record, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_that_names_other_parts(tmp_path: Path) -> None:
    made = edited(tmp_path, "llama")
    layers = dict(made.record.layers)
    layers[0] = replace(layers[0], weight_name="model.layers.0.mlp.up_proj.weight")
    with pytest.raises(RecordError, match="names other parts"):
        export_merged(replace(made.record, layers=layers), tmp_path / "out")


def test_bytes_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4)}, path)
    before = path.read_bytes()
    for name, values in (
        ("a", torch.ones(3, 2)),
        ("b", torch.ones(4).half()),
        ("c", torch.ones(1)),
    ):
        with pytest.raises(ModelError, match="expected"):
            overwrite_tensor(path, name, values)
    assert path.read_bytes() == before
    overwrite_tensor(path, "a", torch.full((2, 3), 7.0))
    assert torch.equal(load_file(path)["a"], torch.full((2, 3), 7.0))
    assert torch.equal(load_file(path)["b"], torch.ones(4))
