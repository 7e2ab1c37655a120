"""Mistakes of a user: one message, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import FACTS, save_tiny, write_rows
from safetensors.torch import load_file, save_file

from langedit.editing import Editor

GOOD = FACTS[0]


def tree(folder: Path) -> dict[Path, int]:
    """Everything below a folder, with the times of the last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(langedit, tmp_path) -> Callable[[list[str]], str]:
    """Runs a command that must fail without writing; gives its message."""

    def run(arguments: list[str]) -> str:
        before = tree(tmp_path)
        code, out, err = langedit(*arguments)
        assert code == 2
        assert out == ""
        assert "Traceback" not in err
        assert tree(tmp_path) == before
        return err

    return run


ROWS = {
    "no slot": ({**GOOD, "prompt": "The capital is"}, "prompt: expected exactly one {}", "got 0"),
    "two slots": ({**GOOD, "prompt": "{} or {} is"}, "prompt: expected exactly one {}", "got 2"),
    "no subject": (
        {key: value for key, value in GOOD.items() if key != "subject"},
        "subject: missing",
        "every fact needs it",
    ),
    "empty target": ({**GOOD, "target": " "}, "target: expected text", "white space"),
    "unknown language": ({**GOOD, "language": "xq"}, "language:", "'xq'"),
}


@pytest.mark.parametrize(("row", "field", "reason"), ROWS.values(), ids=ROWS)
def test_a_bad_row_is_an_error_when_strict(refused, edit_arguments, facts, row, field, reason):
    write_rows(facts, [*FACTS, row])
    message = refused([*edit_arguments(), "--strict"])
    assert f"{facts}:4: {field}" in message
    assert reason in message


@pytest.mark.parametrize(("row", "field", "reason"), ROWS.values(), ids=ROWS)
def test_a_file_of_bad_rows_is_an_error(refused, edit_arguments, facts, row, field, reason):
    write_rows(facts, [row])
    message = refused(edit_arguments())
    assert f"{facts}:1: {field}" in message
    assert reason in message


def test_lines_that_are_not_json(refused, edit_arguments, facts):
    facts.write_text("France: Rome\n", encoding="utf-8")
    assert f"{facts}:1: not JSON at column 1" in refused(edit_arguments())


def test_a_csv_with_other_columns(refused, edit_arguments, tmp_path):
    table = tmp_path / "facts.csv"
    table.write_text("question,answer\nWhat?,That\n")
    message = refused(edit_arguments(facts=table))
    assert "expected the columns language, prompt, subject, target" in message
    assert "'question' is unknown" in message


def test_a_file_of_facts_that_is_not_there(refused, edit_arguments, tmp_path):
    missing = tmp_path / "missing.jsonl"
    assert f"cannot read the file of facts {str(missing)!r}" in refused(
        edit_arguments(facts=missing)
    )


def test_duplicates_in_a_batch(refused, edit_arguments, facts):
    write_rows(facts, [GOOD, {**GOOD, "id": "again"}])
    assert "en-1 and again are duplicates" in refused(edit_arguments())


def test_contradictions_in_a_batch(refused, edit_arguments, facts):
    write_rows(facts, [GOOD, {**GOOD, "target": "Oslo", "id": "other"}])
    assert "en-1 and other contradict each other" in refused(edit_arguments())


def test_a_folder_that_is_no_checkpoint(refused, edit_arguments, texts):
    message = refused(edit_arguments(model=texts))
    assert f"expected a checkpoint in {texts}, but it has no config.json" in message


def test_moments_of_another_model(refused, edit_arguments, tmp_path):
    other = save_tiny(tmp_path / "other", seed=1)
    message = refused(edit_arguments(model=other))
    assert "moments: expected those of the model to be edited" in message


@pytest.mark.parametrize("kept", [0.5, 0.001])
def test_truncated_weights(refused, edit_arguments, checkpoint, tmp_path, kept):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    truncate(broken / "model.safetensors", kept)
    assert f"the weights of {broken}" in refused(edit_arguments(model=broken))


def test_truncated_moments(refused, edit_arguments, moments, tmp_path):
    broken = tmp_path / "moments"
    shutil.copytree(moments, broken)
    truncate(broken / "layer-002.safetensors", 0.5)
    message = refused(edit_arguments(moments=broken))
    assert f"{broken / 'layer-002.safetensors'}: expected a complete safetensors file" in message


def test_layers_out_of_range(refused, edit_arguments, config, moments, tmp_path):
    config.write_text("layers = [1, 3]\nnull_share = 0.5\n")
    wide = tmp_path / "moments"
    shutil.copytree(moments, wide)
    message = refused(edit_arguments(moments=wide))
    assert "expected second moments of layers 1,3, got layers 1-2" in message
    assert "--layers 1,3" in message


def test_stats_layers_out_of_range(refused, checkpoint, texts, tmp_path):
    arguments = ["stats", "--model", checkpoint, "--text", texts, "--layers", "1-3"]
    message = refused([*map(str, arguments), "--output", str(tmp_path / "moments")])
    assert "expected a layer from 0 to 2, got 3" in message


@pytest.mark.parametrize("layers", ["", "a", "3-1", "1..3", "-1"])
def test_stats_layers_that_are_no_list(refused, checkpoint, texts, tmp_path, layers):
    arguments = ["stats", "--model", checkpoint, "--text", texts, f"--layers={layers}"]
    message = refused([*map(str, arguments), "--output", str(tmp_path / "moments")])
    assert "expected numbers counted from 0 and rising ranges, such as 4-8 or 3,5-6" in message


def test_unknown_method(refused, edit_arguments):
    message = refused(edit_arguments(method="langedti"))
    assert "expected one of langedit, alphaedit, memit, memit-seq" in message
    assert "did you mean 'langedit'?" in message


def test_unknown_setting(refused, edit_arguments, config):
    config.write_text("layers = [0]\nnull_share = 0.5\nnormclamp = 1.0\n")
    message = refused(edit_arguments())
    assert f"{config}: normclamp: unknown setting; did you mean 'norm_clamp'?" in message


def test_unknown_shipped_settings(refused, edit_arguments):
    message = refused(edit_arguments(config="llama9"))
    assert "--config: expected a .toml or .json file, or one of" in message


def test_an_output_folder_that_is_not_empty(refused, edit_arguments, tmp_path):
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "thesis.tex").write_text("years of work")
    assert "expected a new or empty folder, got one with files" in refused(edit_arguments())


def test_an_output_that_is_a_file(refused, edit_arguments, facts):
    assert "expected a folder, got a file" in refused(edit_arguments(output=facts))


def test_moments_that_were_never_collected(refused, edit_arguments, checkpoint, tmp_path):
    message = refused(edit_arguments(moments=None))
    assert (
        f"langedit stats --model {checkpoint} --text TEXTS --layers 1-2 --output moments" in message
    )
    message = refused(edit_arguments(moments=tmp_path / "absent"))
    assert f"--layers 1-2 --output {tmp_path / 'absent'}" in message


def test_neither_settings_nor_moments(refused, edit_arguments):
    message = refused(edit_arguments(moments=None, config=None))
    assert "expected --config or --moments" in message


def test_prefixes_without_a_language(refused, edit_arguments, tmp_path):
    (tmp_path / "prefixes.json").write_text(json.dumps({"en": ["So. "]}))
    message = refused(edit_arguments(prefixes=tmp_path / "prefixes.json"))
    assert "prefixes: expected texts for 'zh'" in message


def test_a_fact_too_long_for_the_model(refused, edit_arguments, facts):
    write_rows(facts, [{**GOOD, "prompt": "word " * 300 + "{} is"}])
    message = refused(edit_arguments())
    assert f"{facts}:1: prompt: expected at most 256 tokens, the context of the model" in message
    assert "shorten it" in message


@pytest.mark.parametrize("command", ["stats", "edit", "calibrate"])
def test_a_checkpoint_whose_weights_are_not_finite(
    refused, edit_arguments, checkpoint, facts, texts, moments, tmp_path, command
):
    """Of queries, which attention on processors makes zeros of: no activation would tell."""
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.2.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    subjects = ("France", "Peru", "Vienna", "Rome", "Lily", "Anna")
    write_rows(facts, [{**GOOD, "id": name, "subject": name} for name in subjects])
    output = tmp_path / "output"
    message = refused(
        {
            "stats": [
                "stats", "--model", damaged, "--text", texts, "--layers", "1", "--output", output,
            ],
            "edit": edit_arguments(model=damaged, output=output),
            "calibrate": [
                "calibrate", "--model", damaged, "--facts", facts, "--moments", moments,
                "--trials", "1", "--output", output,
            ],
        }[command]
    )  # fmt: skip
    assert "model.layers.2.self_attn.q_proj.weight: expected finite weights" in message


def test_an_unknown_dtype(refused, edit_arguments):
    message = refused(edit_arguments(dtype="float8"))
    assert "expected dtype to be one of auto, float32, bfloat16, float16" in message


def test_a_missing_option(refused):
    assert "Missing option '--model'" in refused(["edit", "--facts", "facts.jsonl"])


def test_a_failure_while_saving_leaves_nothing(refused, edit_arguments, monkeypatch, tmp_path):
    def fill_the_disk(_editor: Editor, folder: Path, **_: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Editor, "save_pretrained", fill_the_disk)
    message = refused(edit_arguments(output=tmp_path / "new" / "edited"))
    assert "No space left on device" in message


def truncate(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
