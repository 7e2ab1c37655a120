"""The command line under a launcher: the same results, said once; and never a hang."""

from __future__ import annotations

import json
import shutil

import pytest
from cli_helpers import FACTS, write_rows
from processes import JOBS, side_by_side, torchrun

from langedit.editing import Moments

FOUR = [*FACTS, {**FACTS[1], "subject": "Berlin", "id": "en-3"}]


@pytest.fixture
def four(tmp_path):
    return write_rows(tmp_path / "four.jsonl", FOUR)


def test_stats_and_edit(langedit, edit_arguments, checkpoint, texts, tmp_path):
    arguments = ["--model", checkpoint, "--text", texts, "--layers", "1-2", "--output"]
    langedit.ok("stats", *arguments, tmp_path / "moments-1")
    ended = torchrun("-m", "langedit", "stats", *arguments, tmp_path / "moments-2")
    assert ended.code == 0, ended.err
    assert ended.out.count("Second moments of layers 1-2") == 1
    mine, theirs = (Moments.load(tmp_path / f"moments-{count}") for count in (1, 2))
    assert mine.corpus == theirs.corpus
    for layer, own in mine.layers.items():
        difference = (own.moment.mean - theirs.layers[layer].moment.mean).abs().max()
        assert difference <= 1e-14 * own.moment.mean.abs().max()

    given = {"moments": tmp_path / "moments-1"}
    langedit.ok(*edit_arguments(**given, output=tmp_path / "alone"))
    ended = torchrun("-m", "langedit", *edit_arguments(**given, output=tmp_path / "two"))
    assert ended.code == 0, ended.err
    assert ended.out.count("The edited model is in") == 1
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "two")]
    assert weights[0] == weights[1]
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("alone", "two")]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[0]["fact_scores"] == reports[1]["fact_scores"]


def test_an_error_is_said_once(edit_arguments, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x" * 99)
    arguments = edit_arguments(model=tmp_path / "broken", output=tmp_path / "none")
    ended = side_by_side("-m", "langedit", *arguments)
    assert [one.code for one in ended] == [2, 2]
    assert ended[0].err.count("langedit: cannot read the weights") == 1
    assert "langedit:" not in ended[1].err


def test_a_process_that_dies_ends_the_other(edit_arguments, four, tmp_path):
    """Nobody watches these two: the other one notices by itself."""
    arguments = [*edit_arguments(facts=four, output=tmp_path / "out"), "--batch-size", "2"]
    before = sorted(tmp_path.iterdir())
    ended = side_by_side(JOBS / "lose_one.py", *arguments)
    assert ended[0].code == 2, ended[0].err
    assert "langedit: another process of this run ended or fell silent" in ended[0].err
    assert ended[1].code == -9
    assert sorted(tmp_path.iterdir()) == before


def test_torchrun_ends_with_an_error_when_a_process_dies(edit_arguments, four, tmp_path):
    arguments = [*edit_arguments(facts=four, output=tmp_path / "out"), "--batch-size", "2"]
    before = sorted(tmp_path.iterdir())
    ended = torchrun(JOBS / "lose_one.py", *arguments)
    assert ended.code not in (0, None)
    assert "SIGKILL" in ended.err or "Signal 9" in ended.err
    assert sorted(tmp_path.iterdir()) == before


def test_other_commands_refuse_several_processes(langedit, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = langedit("demo")
    assert code == 2
    assert "langedit demo runs as one process" in err
