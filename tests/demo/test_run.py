"""The demo on the bundled model, with fewer facts; the whole stream runs in `make demo`."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from langedit.demo import run
from langedit.demo.atlas import Atlas
from langedit.demo.bundled import bundled_folder, demo_config, load_bundled
from langedit.demo.recall import recall
from langedit.demo.run import run_demo


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    said: list[str] = []
    folder = tmp_path_factory.mktemp("demo") / "new"
    with pytest.MonkeyPatch.context() as patch:
        fewer = partial(run.bundled_moments, tokens=20_000)  # a third of the demo's, to save time
        patch.setattr(run, "bundled_moments", fewer)
        results = run_demo(
            folder, methods=("langedit",), batches=6, batch_size=4, on_progress=said.append
        )
    return results, folder, said


def test_the_bundled_model_knows_the_atlas():
    model, atlas = load_bundled(), Atlas.from_cldr()
    for language in atlas.languages:
        known = recall(model, atlas, language, every=60)
        assert known.efficacy is not None
        assert known.generalization is not None
        well = known.efficacy > 0.97 and known.generalization > 0.95
        # Whether it says the same again tells wrong weights or labels from one wrong pass.
        assert well, (language, known, recall(model, atlas, language, every=60))


def test_the_bundled_model_is_what_its_file_says():
    loaded = load_bundled().model.state_dict()
    with safe_open(bundled_folder() / "model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
        assert len(names) > 50
        for name in names:
            assert torch.equal(loaded[name], tensors.get_tensor(name).float()), name


def test_the_bundled_checkpoint_is_small_and_bf16():
    file = bundled_folder() / "model.safetensors"
    assert file.stat().st_size < 20_000_000
    with safe_open(file, framework="pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in list(tensors.keys())} == {"BF16"}


def test_edits_take_and_the_guarantee_holds(found):
    own = found[0].methods["langedit"]
    assert found[0].before.efficacy < 0.6
    assert own.scores.efficacy > 0.8
    assert own.scores.efficacy > found[0].before.efficacy + 0.3
    assert own.scores.specificity > 0.9
    assert own.perplexity_ratio < 1.1
    assert 0 < own.independence_max <= 1e-5
    assert [len(step) for step in own.retention] == [1, 2, 3, 4, 5, 6]


def test_results_file(found):
    results, folder, said = found
    written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert written["facts"] == 24
    assert written["batches"] == 6
    own = written["methods"]["langedit"]
    for name in ("efficacy", "generalization", "specificity", "first_batch"):
        assert 1 < own[name] <= 100  # percent
        assert set(own["by_language"]) == {"en", "de", "nl", "es", "fr", "zh"}
        assert all(name in row for row in own["by_language"].values())
    assert own["efficacy"] == pytest.approx(100 * results.methods["langedit"].scores.efficacy)
    assert {"perplexity_ratio", "independence_max", "seconds"} <= set(own)
    assert len(own["answers"]) == 18  # three facts in six languages
    assert all(answer["before"] for answer in own["answers"])
    assert (folder / "retention.png").read_bytes().startswith(b"\x89PNG")
    assert sum("batch" in line for line in said) == 6


def test_every_method_of_the_demo_has_its_own_settings():
    methods = ("langedit", "alphaedit", "memit", "memit-seq")
    configs = [demo_config(method) for method in methods]
    assert [config.method for config in configs] == list(methods)
    assert len({config.layers for config in configs}) == 1


class _SeenError(Exception):
    """Ends a run when its settings are known."""


def test_settings_of_ones_own_take_the_place_of_the_demos(monkeypatch, tmp_path):
    def see(_model, config, *_rest):
        raise _SeenError(config.method, config.value_steps)

    for name in ("_prepare", "_shown_prompts", "_answers"):
        monkeypatch.setattr(run, name, lambda *_: SimpleNamespace(facts=[]))
    monkeypatch.setattr(run, "score_facts", lambda *_: [])
    monkeypatch.setattr(run.Scores, "of", lambda _: None)
    monkeypatch.setattr(run, "_run_method", see)
    own = {"memit": demo_config("memit").replace(value_steps=3)}
    with pytest.raises(_SeenError) as seen:
        run_demo(tmp_path, methods=["memit"], batches=6, settings=own)
    assert seen.value.args == ("memit", 3)
    with pytest.raises(_SeenError) as seen:
        run_demo(tmp_path, methods=["langedit"], batches=6, settings=own)
    assert seen.value.args == ("langedit", demo_config("langedit").value_steps)
