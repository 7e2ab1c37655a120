"""The demo's tables, from results made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from langedit.demo.run import Answer, DemoResults, MethodResult
from langedit.evaluation import Scores

ANSWER = Answer(
    language="zh", prompt="冰岛的货币是", target="泰铢", before="冰岛克朗", after="泰铢"
)


def method(efficacy: float, answers: tuple[Answer, ...] = ()) -> MethodResult:
    scores = Scores(facts=2, efficacy=efficacy, generalization=0.875, specificity=None)
    return MethodResult(
        scores=scores,
        languages={"zh": scores},
        first_batch=0.5,
        first_batches={"zh": 0.25},
        subjects={"new": Scores(facts=2, efficacy=efficacy, generalization=0.5)},
        perplexity={"zh": 1.25},
        perplexity_ratio=1.5,
        independence_max=3.2e-9,
        seconds=12.4,
        retention=((1.0,), (0.5, 1.0)),
        answers=answers,
    )


@pytest.fixture
def results(tmp_path: Path) -> DemoResults:
    return DemoResults(
        methods={"langedit": method(0.99, (ANSWER,)), "memit": method(0.01)},
        before=Scores(facts=2, efficacy=0.0, generalization=0.0, specificity=1.0),
        facts=2,
        batches=2,
        model="f00",
        figure=tmp_path / "retention.png",
        file=tmp_path / "results.json",
    )


def test_the_command_prints_tables_answers_and_files(langedit, monkeypatch, results, tmp_path):
    asked = {}

    def run_demo(output: Path, *, seed: int, profile: bool, on_progress) -> DemoResults:
        assert not profile
        asked.update(output=output, seed=seed)
        on_progress("batch 1/2")
        return results

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("langedit.demo.run.run_demo", run_demo)
    code, out, err = langedit("demo", "--output", tmp_path / "out", "--seed", "3")
    assert (code, err) == (0, "batch 1/2")
    assert asked == {"output": tmp_path / "out", "seed": 3}
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    cells = [[cell for cell in row if cell] for row in rows]
    assert ["zh", "99.0", "87.5", "–", "25.0", "1.250"] in cells
    assert ["all", "1.0", "87.5", "–", "50.0", "1.500"] in cells
    assert ["new", "2", "99.0", "1.0"] in cells
    assert ["zh", "冰岛的货币是", "冰岛克朗", "泰铢"] in cells
    assert "langedit: largest |ΔW k|/|W k| over earlier edits 3.2e-09, 12 s of editing" in out
    assert out.count("What the scores mean") == 1
    assert str(results.file) in out
    assert str(results.figure) in out
