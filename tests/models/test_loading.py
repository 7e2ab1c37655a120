from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from langedit.errors import ConfigError, ModelError, StructureError, TokenError
from langedit.models import load_model, loading, pad_batch, placement

WEIGHT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    editable = tiny.tiny_editable("llama", dtype=torch.bfloat16)
    editable.model.save_pretrained(folder)
    editable.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("auto", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("float32", torch.float32),
        ("float16", torch.float16),
    ],
)
def test_precisions(checkpoint, dtype, stored):
    editable = load_model(checkpoint, dtype=dtype)
    assert editable.dtype == stored
    assert not editable.model.training
    assert not any(p.requires_grad for p in editable.model.parameters())


def test_identity_of_a_checkpoint(checkpoint):
    made = tiny.tiny_editable("llama", dtype=torch.bfloat16).identity()
    for dtype in ("auto", "float32"):
        identity = load_model(str(checkpoint), dtype=dtype, revision="main").identity()
        assert identity.weights_hash == made.weights_hash
        assert identity.source == str(checkpoint)
        assert identity.revision == "main"


def test_device_map(checkpoint):
    pytest.importorskip("accelerate")
    editable = load_model(checkpoint, device_map="cpu")
    assert editable.device == torch.device("cpu")
    assert editable.logits(pad_batch([[5, 6]], 0)).shape[:2] == (1, 2)


def test_structure_can_be_named(checkpoint):
    editable = load_model(checkpoint, structure_overrides={"projection": "self_attn.o_proj"})
    assert editable.projection_name(0) == "model.layers.0.self_attn.o_proj"
    assert editable.structure.d_in == tiny.D_MODEL


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(change):
    def apply(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return apply


def remove(*names):
    def apply(folder):
        for name in names:
            (folder / name).unlink()

    return apply


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGE = {
    "no config": (remove("config.json"), "no config.json"),
    "config is not JSON": (write("config.json", "{"), "cannot read the configuration"),
    "config is empty": (write("config.json", "{}"), "cannot read the configuration"),
    "no weights": (remove("model.safetensors"), "cannot read the weights"),
    "weights cut off": (truncate, "cannot read the weights"),
    "weights are not weights": (write("model.safetensors", "x" * 999), "cannot read the weights"),
    "weights are empty": (write("model.safetensors", ""), "cannot read the weights"),
    "a weight is missing": (change_weights(lambda t: t.pop(WEIGHT)), f"such as {WEIGHT}"),
    "a weight is smaller": (
        change_weights(lambda t: t.update({WEIGHT: torch.zeros(3, 3)})),
        rf"such as {WEIGHT} \(3, 3\)",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
    "half a tokenizer": (remove("tokenizer.json"), "cannot read the tokenizer"),
    "tokenizer is not JSON": (write("tokenizer.json", "{"), "cannot read the tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoints(copy, name):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(ModelError, match=message) as error:
        load_model(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def test_encoder_decoder(tmp_path):
    tiny.tiny_t5().save_pretrained(tmp_path)
    with pytest.raises(StructureError, match=r"encoder-decoder \(t5\)"):
        load_model(tmp_path)


def test_mixture_of_experts(tmp_path):
    tiny.tiny_model("mixtral").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(StructureError, match="mixture of experts"):
        load_model(tmp_path)


@pytest.mark.parametrize("source", ["/no/such/folder", "./no", "a/b/c", "two words", ""])
def test_a_folder_that_does_not_exist(source):
    with pytest.raises(ModelError, match="no folder"):
        load_model(source)


def test_a_file_is_no_folder(checkpoint):
    with pytest.raises(ModelError, match="is a file"):
        load_model(checkpoint / "config.json")


def test_a_hub_model_that_cannot_be_fetched(monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="no folder of that name here") as error:
        load_model("someone/some-model")
    assert "couldn't connect to the hub" in str(error.value)


def test_a_slow_tokenizer(checkpoint, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(TokenError, match="slow tokenizer"):
        load_model(checkpoint)


def test_settings_are_checked_first(checkpoint, monkeypatch):
    with pytest.raises(ConfigError, match=r"one of auto, float32, bfloat16, float16, got 'int8'"):
        load_model(checkpoint, dtype="int8")
    monkeypatch.setattr(placement.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install accelerate"):
        load_model(checkpoint, device_map="auto")


def test_an_unrelated_weight_in_the_file_does_no_harm(copy):
    change_weights(lambda t: t.update({"extra.weight": torch.zeros(2)}))(copy)
    assert load_model(copy).structure.n_layers == tiny.N_LAYERS
    assert json.loads((copy / "config.json").read_text())["model_type"] == "llama"
