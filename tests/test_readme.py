"""Every command and every example of the README runs, in order and in one folder."""

from __future__ import annotations

import json
import re

from pages import ROOT, blocks_of, run_blocks

AS_TRIED_HERE = (
    (re.compile(r"^make (\w+)$", re.MULTILINE), rf"make --dry-run --directory '{ROOT}' \1"),
    (
        re.compile(r"^(python -m pip install) -c (\S+) \.$", re.MULTILINE),
        rf"\1 --quiet --dry-run --no-deps --no-build-isolation -c '{ROOT}/\2' '{ROOT}'",
    ),
)
"""Installing and make are tried without doing it; the rest runs as it stands."""


def tried(command: str) -> str:
    for pattern, replacement in AS_TRIED_HERE:
        command = pattern.sub(replacement, command)
    return command


def test_every_block_runs(tmp_path):
    blocks = blocks_of("README.md")
    assert {language for language, _ in blocks} == {"sh", "python"}
    run_blocks(blocks, tmp_path, tried)
    assert (tmp_path / "edited-from-python" / "model.safetensors").is_file()
    report = json.loads((tmp_path / "edited" / "report.json").read_text(encoding="utf-8"))
    before, after = (report["scores"][when]["all"] for when in ("before", "after"))
    assert before["efficacy"] < 0.5
    assert after["efficacy"] > 0.9
    assert after["specificity"] >= before["specificity"]


def test_no_command_is_left_out_of_the_trial():
    """What `tried` changes is what may not run in a test, and nothing else."""
    commands = [
        line
        for language, block in blocks_of("README.md")
        if language == "sh"
        for line in block.splitlines()
    ]
    changed = {line.split()[0] for line in commands if tried(line) != line}
    assert changed == {"make", "python"}


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
