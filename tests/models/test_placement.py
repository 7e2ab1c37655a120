from __future__ import annotations

import json

import pytest
import tiny

from langedit.errors import ConfigError
from langedit.models import load_model
from langedit.models.placement import Placement


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_what_is_given_goes_to_transformers():
    assert Placement.of(None).arguments() == {"device_map": None}
    assert Placement.of("cuda:1").arguments() == {"device_map": "cuda:1"}
    places = {"model": 0, "lm_head": "disk"}
    assert Placement.of(places).arguments() == {"device_map": places}


def test_a_file_of_places(tmp_path):
    path = write(tmp_path / "map.json", {"model.layers.0": 1, "lm_head": "0", "model.norm": "cpu"})
    expected = {"model.layers.0": 1, "lm_head": 0, "model.norm": "cpu"}
    assert Placement.of(path).arguments() == {"device_map": expected}


def test_a_file_with_limits(tmp_path):
    content = {
        "device_map": "auto",
        "max_memory": {"0": "20GiB", "cpu": "60GiB"},
        "offload_folder": "away",
    }
    assert Placement.of(write(tmp_path / "map.json", content)).arguments() == {
        "device_map": "auto",
        "max_memory": {0: "20GiB", "cpu": "60GiB"},
        "offload_folder": "away",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected an object, got list"),
        ({"model": None}, "expected module names to devices"),
        ({"device_map": 3}, "expected module names to devices"),
        ({"device_map": "auto", "memory": {}}, "memory is not known"),
        ({"device_map": "auto", "max_memory": 3}, "a value is not known"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Placement.of(write(tmp_path / "map.json", content))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "map.json").write_text("{", encoding="utf-8")
    for name in ("map.json", "none.json"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read as a device map"):
            Placement.of(str(tmp_path / name))


def test_a_model_is_loaded_by_a_file(tmp_path):
    editable = tiny.tiny_editable()
    editable.model.save_pretrained(tmp_path / "model")
    editable.tokenizer.save_pretrained(tmp_path / "model")
    places = {"model": "cpu", "lm_head": "disk"}
    loaded = load_model(tmp_path / "model", device_map=write(tmp_path / "map.json", places))
    assert loaded.model.lm_head.weight.is_meta
    assert loaded.identity().weights_hash == editable.identity().weights_hash
