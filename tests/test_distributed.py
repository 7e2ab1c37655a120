"""Two processes against one on the bundled model: the page's own commands, as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pages import blocks_of, run_blocks


def read_report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_two_processes_give_the_weights_and_scores_of_one(tmp_path):
    *blocks, (_, said) = blocks_of("docs/distributed.md", "Two processes against one")
    assert [language for language, _ in blocks] == ["python", "sh", "python"]
    printed = run_blocks(blocks, tmp_path)
    assert said.partition(";")[0] in printed
    # Said here too, so that no change of the page makes the trial an empty one.
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    reports = [read_report(tmp_path / name) for name in ("one", "two")]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[0]["fact_scores"] == reports[1]["fact_scores"]
    assert len(reports[0]["fact_scores"]) == 24
    assert reports[0]["batches"] == 6
    before, after = (reports[0]["scores"][when]["all"]["efficacy"] for when in ("before", "after"))
    assert after > before + 0.3
