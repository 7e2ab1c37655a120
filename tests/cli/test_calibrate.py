"""`langedit calibrate`: what it writes, and how mistakes end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import write_rows

from langedit.editing import EditConfig

ROWS = [
    {"language": "en", "prompt": "The capital of {} is", "subject": subject, "target": "Wien"}
    for subject in ("France", "Peru", "Vienna", "Rome", "Lily", "Anna")
]
START = "layers = [2]\nnull_share = 0.5\nvalue_steps = 2\nprefix_count = 1\nprefix_length = 2\n"


@pytest.fixture
def arguments(checkpoint: Path, moments: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a good `langedit calibrate`; keywords replace options, None leaves one out."""
    write_rows(tmp_path / "sample.jsonl", list(ROWS))
    (tmp_path / "start.toml").write_text(START, encoding="utf-8")

    def made(**changes: object) -> list[str]:
        options: dict[str, object] = {
            "model": checkpoint,
            "facts": tmp_path / "sample.jsonl",
            "moments": moments,
            "config": tmp_path / "start.toml",
            "trials": 1,
            "output": tmp_path / "calibrated",
        }
        options |= changes
        pairs = [(f"--{n.replace('_', '-')}", str(v)) for n, v in options.items() if v is not None]
        return ["calibrate", *(part for pair in pairs for part in pair)]

    return made


def test_it_writes_settings_that_an_edit_reads(langedit, arguments, tmp_path):
    out, err = langedit.ok(*arguments(against=tmp_path / "start.toml"))
    assert err == ""
    assert "settings were tried" in out
    assert "Not traced, because the model knows no fact of these: en" in out
    folder = tmp_path / "calibrated"
    config = EditConfig.from_toml(folder / "settings.toml")
    assert set(config.layers) <= {1, 2}
    text = (folder / "settings.toml").read_text(encoding="utf-8")
    assert text.startswith("# Written by `langedit calibrate --model")
    assert "--trials 1" in text
    assert sorted(path.suffix for path in folder.iterdir()).count(".png") == 3
    assert not list(tmp_path.glob(".*.partial"))


def test_a_profile_is_printed_and_kept_with_the_figures(langedit, arguments, tmp_path):
    out, _ = langedit.ok(*arguments(), "--profile")
    assert "Cost by stage" in out
    profile = json.loads((tmp_path / "calibrated" / "calibration.json").read_text())["profile"]
    assert {"spectra", "prefixes", "tracing", "reachability", "statistics"} < set(profile)
    assert {"open", "targets", "solve", "restore", "scores"} < set(profile)
    assert profile["reachability"]["flops"] > 0
    langedit.ok(*arguments(output=tmp_path / "plain"))
    assert "profile" not in json.loads((tmp_path / "plain" / "calibration.json").read_text())


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "budget": ({"trials": None, "budget": 0}, "--budget: expected minutes above 0, got 0"),
    "method": ({"method": "rome"}, "got rome: nothing is known to try of it"),
    "method alone": ({"config": None, "method": "ft"}, "got ft: nothing is known to try of it"),
    "settings": ({"config": "llama4"}, "--config: expected a .toml or .json file, or one of"),
    "compared": ({"against": "none.toml"}, "none.toml: expected a readable UTF-8 file"),
    "no moments": ({"moments": None}, "--layers 0-2 --output moments"),
    "depth": ({"config": "llama3-8b"}, "the model has 3 layers"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_end_with_one_message(langedit, arguments, tmp_path, changes, message):
    code, out, err = langedit(*arguments(**changes))
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "calibrated").exists()


def test_too_few_facts_and_moments_of_other_layers(langedit, arguments, tmp_path):
    (tmp_path / "start.toml").write_text(START.replace("[2]", "[0]"), encoding="utf-8")
    _, _, err = langedit(*arguments())
    assert "expected second moments of layers 0-2, got layers 1-2" in err
    write_rows(tmp_path / "sample.jsonl", ROWS[:2])
    _, _, err = langedit(*arguments())
    assert "expected at least 5 subjects in each language, better 30 or more" in err


def test_a_folder_with_files_is_refused(langedit, arguments, tmp_path):
    code, _, err = langedit(*arguments(output=tmp_path))
    assert code == 2
    assert "expected a new or empty folder" in err
