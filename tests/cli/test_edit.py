"""`langedit edit` from end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_helpers import LAYERS, write_rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from langedit.editing import method_names

STRONG = (
    "layers = [1, 2]\nnull_share = 0.5\nridge = 1e-2\nnorm_clamp = 8.0\nvalue_steps = 40\n"
    "value_lr = 0.5\nkl_weight = 0.0\nvalue_weight_decay = 0.0\nprefix_count = 0\n"
)
"""Settings with which a random model learns what comes right after a subject."""

SUBJECT_LAST = [
    {"language": "en", "prompt": "Who is {}", "subject": "Vienna", "target": "p", "id": "en"},
    {"language": "zh", "prompt": "首都是{}", "subject": "法国", "target": "z", "id": "zh"},
]


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_edit_raises_the_scores_and_records_the_run(langedit, edit_arguments, tmp_path):
    (tmp_path / "strong.toml").write_text(STRONG)
    write_rows(tmp_path / "last.jsonl", SUBJECT_LAST)
    arguments = edit_arguments(config=tmp_path / "strong.toml", facts=tmp_path / "last.jsonl")
    code, out, err = langedit(*arguments)
    assert (code, err) == (0, "")
    report = read_json(tmp_path / "edited" / "report.json")
    before, after = (report["scores"][when]["all"]["efficacy"] for when in ("before", "after"))
    assert before == 0.0
    assert after >= 0.5
    assert f"0.0 → {100 * after:.1f}" in out
    assert set(report["scores"]["after"]["by_language"]) == {"en", "zh"}
    assert [row["name"] for row in report["fact_scores"]] == ["en", "zh"]
    assert report["facts"]["edited"] == 2
    assert report["facts"]["rejected"] == []
    assert 0 < report["independence_max"] < 1e-5
    assert "within the guaranteed 1e-05" in out
    assert out.count("What the scores mean") == 1
    assert "Edited 2 facts in 2 batches; 0 rows were rejected." in out
    record = read_json(tmp_path / "edited" / "langedit.json")
    assert record["config"]["method"] == "langedit"
    assert [len(batch["facts"]) for batch in record["batches"]] == [1, 1]


def test_the_result_is_a_plain_checkpoint_that_differs_in_the_edited_layers_only(
    langedit, edit_arguments, checkpoint, tmp_path
):
    langedit.ok(*edit_arguments())
    old = load_file(checkpoint / "model.safetensors")
    new = load_file(tmp_path / "edited" / "model.safetensors")
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in LAYERS}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "edited")
    assert model(**tokenizer("法国的首都是", return_tensors="pt")).logits.isfinite().all()


def test_two_runs_give_identical_weights_and_another_seed_gives_others(
    langedit, edit_arguments, tmp_path
):
    weights = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        langedit.ok(*edit_arguments(output=tmp_path / name, seed=seed))
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(weights["a"][name], weights["b"][name])
    assert not torch.equal(weights["a"][name], weights["c"][name])


def test_bad_rows_are_reported_and_counted_and_the_good_ones_edited(
    langedit, edit_arguments, facts, tmp_path
):
    with facts.open("a", encoding="utf-8") as file:
        file.write('{"language": "en", "prompt": "no slot", "subject": "A", "target": "B"}\n')
    out, err = langedit.ok(*edit_arguments())
    assert f"rejected {facts}:4: prompt: expected exactly one {{}}" in err
    assert "Edited 3 facts in 2 batches; 1 row was rejected." in out
    (row,) = read_json(tmp_path / "edited" / "report.json")["facts"]["rejected"]
    assert (row["line"], row["field"]) == (4, "prompt")


@pytest.mark.parametrize("method", ["alphaedit", "memit", "memit-seq"])
def test_other_methods_promise_nothing(langedit, edit_arguments, tmp_path, method):
    out, _ = langedit.ok(*edit_arguments(method=method))
    assert "this method gives no guarantee" in out
    assert read_json(tmp_path / "edited" / "langedit.json")["config"]["method"] == method


def test_one_batch_has_no_earlier_edits(langedit, edit_arguments, facts):
    facts.write_text(facts.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    out, _ = langedit.ok(*edit_arguments())
    assert "one batch only" in out


def test_batches_have_the_size_asked_for(langedit, edit_arguments):
    assert "in 3 batches" in langedit.ok(*edit_arguments(batch_size=1))[0]


def test_given_prefixes_are_used(langedit, edit_arguments, tmp_path):
    texts = {"en": ["I say that. "], "zh": ["我说。"]}
    (tmp_path / "prefixes.json").write_text(json.dumps(texts))
    langedit.ok(*edit_arguments(prefixes=tmp_path / "prefixes.json"))
    assert read_json(tmp_path / "edited" / "langedit.json")["prefixes"] == texts


def test_without_settings_the_layers_are_those_of_the_moments(langedit, edit_arguments, tmp_path):
    _, err = langedit.ok(*edit_arguments(config=None))
    assert "no --config: editing layers 1-2, those of the moments, with null_share = 0.5" in err
    config = read_json(tmp_path / "edited" / "langedit.json")["config"]
    assert (config["layers"], config["null_share"]) == ([1, 2], 0.5)


def test_hyperparameters_of_other_projects_are_settings(langedit, edit_arguments, tmp_path):
    hparams = {"layers": [1, 2], "v_num_grad_steps": 3, "v_lr": 0.1, "nullspace_threshold": 1.0}
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    arguments = edit_arguments(config=tmp_path / "hparams.json", method="alphaedit")
    langedit.ok(*arguments)
    assert read_json(tmp_path / "edited" / "langedit.json")["config"]["value_steps"] == 3


def test_an_empty_output_folder_is_taken(langedit, edit_arguments, tmp_path):
    (tmp_path / "edited").mkdir()
    langedit.ok(*edit_arguments())
    assert (tmp_path / "edited" / "langedit.json").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_help_names_every_method(langedit):
    _, out, _ = langedit("edit", "--help")
    assert ", ".join(method_names()) in " ".join(out.split())
