"""The command line under a launcher: the same results, said once; and never a hang."""

from __future__ import annotations

import json
import shutil

import pytest
from cli_helpers import FACTS, write_rows
from processes import JOBS, run_together, side_by_side, torchrun

from langedit.editing import Moments

FOUR = [*FACTS, {**FACTS[1], "subject": "Berlin", "id": "en-3"}]


def test_the_same_as_one_process_and_said_once(
    langedit, edit_arguments, checkpoint, texts, tmp_path
):
    """Moments, an edit, and an error that all processes meet, in one start of two processes.

    The second process is where the moments are not.
    """
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x" * 99)
    stats = ["stats", "--model", str(checkpoint), "--text", str(texts), "--layers", "1-2"]
    stats += ["--until-angle", "80deg", "--null-share", "0.5", "--output"]
    langedit.ok(*stats, tmp_path / "moments-1")
    langedit.ok(*edit_arguments(moments=tmp_path / "moments-1", output=tmp_path / "alone"))
    commands = [
        [*stats, str(tmp_path / "moments-2")],
        [*edit_arguments(moments="moments-1", output="two"), "--profile"],
        edit_arguments(model=tmp_path / "broken", output="none"),
    ]
    first, second = run_together(commands, tmp_path)
    assert [code for code, _, _ in first] == [0, 0, 2], first
    assert [code for code, _, _ in second] == [0, 0, 2], second
    assert all(out == "" for _, out, _ in second)

    assert "Second moments of layers 1-2" in first[0][1]
    assert "null spaces of two halves are" in first[0][2]
    assert second[0][2] == ""
    mine, theirs = (Moments.load(tmp_path / f"moments-{count}") for count in (1, 2))
    assert mine.corpus == theirs.corpus
    for layer, own in mine.layers.items():
        other = theirs.layers[layer]
        difference = (own.moment.mean - other.moment.mean).abs().max()
        assert difference <= 1e-14 * own.moment.mean.abs().max()
        assert own.angle.degrees == pytest.approx(other.angle.degrees, rel=1e-6)

    assert first[1][1].count("The edited model is in") == 1
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "two")]
    assert weights[0] == weights[1]
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("alone", "two")]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[0]["fact_scores"] == reports[1]["fact_scores"]

    assert first[2][2].count("langedit: cannot read the weights") == 1
    assert "langedit:" not in second[2][2]
    assert not (tmp_path / "none").exists()


def test_a_process_that_dies_ends_the_other(edit_arguments, tmp_path):
    """Nobody watches these two: the other one notices by itself."""
    facts = write_rows(tmp_path / "four.jsonl", FOUR)
    arguments = [*edit_arguments(facts=facts, output=tmp_path / "out"), "--batch-size", "2"]
    before = sorted(tmp_path.iterdir())
    ended = side_by_side(JOBS / "lose_one.py", *arguments, LOST="1")
    assert ended[0].code == 2, ended[0].err
    assert "langedit: another process of this run ended or fell silent" in ended[0].err
    assert ended[1].code == -9
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_process_that_dies_under_a_launcher_ends_the_run(edit_arguments, tmp_path):
    facts = write_rows(tmp_path / "four.jsonl", FOUR)
    arguments = [*edit_arguments(facts=facts, output=tmp_path / "out"), "--batch-size", "2"]
    before = sorted(tmp_path.iterdir())
    ended = torchrun(JOBS / "lose_one.py", *arguments, LOST="1")
    assert ended.code == 1, ended.err
    assert "Signal 9 (SIGKILL)" in ended.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("demo",), "stats, edit, apply and undo take several"),
        (("verify", "./kept"), "--device-map of langedit init"),
        (("stats", "pull", "here", "--output", "there"), "apply and undo take several"),
    ],
)
def test_other_commands_refuse_several_processes(langedit, monkeypatch, arguments, advice):
    """Before anything is opened: two writers never meet."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = langedit(*arguments)
    assert code == 2
    assert f"langedit {arguments[0]}" in err
    assert "runs as one process, but a launcher has started 2" in err
    assert advice in err
