"""Two processes on a workspace: the same rows and files as one writes, and either goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import FACTS, FAST, write_rows
from processes import JOBS, accelerate_launch, run_together, side_by_side, torchrun
from workspaces import contents, without_times

from langedit.workspace.lock import read_owner

GUARDS = """
[guards]
min_rank_left = 21
max_specificity_loss = 1.0
max_perplexity_ratio = 1000.0
texts = ["text.txt"]
"""

MORE = [{**FACTS[1], "subject": place, "id": place} for place in ("Berlin", "Rome")]
EARLY = [*FACTS[:2], *MORE]
CORRECTED = [{**FACTS[0], "target": "Wien"}, {**FACTS[2], "prompt": "{}在"}]

FIRST = [
    ["apply", "WS", "early.jsonl", "--batch-size", "2", "--on-breach", "split", "--json"],
    ["apply", "WS", "corrected.jsonl", "--json"],
    ["undo", "WS", "2", "--json"],
]
THEN = [
    ["apply", "WS", "corrected.jsonl", "--supersede", "--batch-size", "1", "--json"],
    ["undo", "WS", "1", "--by", "replay", "--json"],
    ["apply", "WS", "late.jsonl", "--on-breach", "skip", "--json"],
    ["undo", "WS", "last", "--json"],
    ["apply", "WS", "late.jsonl", "--json"],
]


def commands(steps: list[list[str]], name: str) -> list[list[str]]:
    return [[name if part == "WS" else part for part in step] for step in steps]


@pytest.fixture
def workspace(langedit, checkpoint, moments, tmp_path, monkeypatch) -> Path:
    """A workspace without batches, and files of facts, in the folder where the test works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Paris is in France.\nWien ist in Peru.\nRome is.\n")
    (tmp_path / "edit.toml").write_text(f"{FAST}micro_batch_tokens = 12\n{GUARDS}")
    write_rows(tmp_path / "early.jsonl", EARLY)
    write_rows(tmp_path / "corrected.jsonl", CORRECTED)
    write_rows(tmp_path / "late.jsonl", [{**FACTS[1], "subject": "Peru", "id": "late"}])
    langedit.ok(
        "init", "ws", "--model", checkpoint, "--moments", moments, "--config", "edit.toml"
    )  # fmt: skip
    return tmp_path / "ws"


def test_two_processes_write_what_one_writes_and_either_goes_on(langedit, workspace, tmp_path):
    """The second process is where there is neither a workspace nor a file of facts."""
    for name in ("one", "two", "two, then one", "one, then two"):
        shutil.copytree(workspace, tmp_path / name)
    alone = [langedit(*step) for step in commands([*FIRST, *THEN], "one")]
    for step in commands(FIRST, "one, then two"):
        langedit(*step)
    first, second = run_together(
        [
            *commands([*FIRST, *THEN], "two"),
            *commands(FIRST, "two, then one"),
            *commands(THEN, "one, then two"),
        ],
        tmp_path,
    )
    for step in commands(THEN, "two, then one"):
        langedit(*step)

    wanted = contents(tmp_path / "one")
    events = wanted["tables"]["event"]
    kinds = "batch refused batch refused batch refused undo batch batch batch undo batch"
    assert " ".join(row["kind"] for row in events) == kinds
    assert [row["place"] for row in events[:4]] == ["0", "1", "1.0", "1.1"]
    assert events[4]["superseded"] == [[1, 0]]
    assert [row["replays"] for row in events[6:9]] == [None, 3, 5]
    for name in ("two", "two, then one", "one, then two"):
        assert contents(tmp_path / name) == wanted, name
        assert langedit.ok("verify", name)[0].startswith("Sound: 12 events, 8 files, 12 events")
        assert read_owner(tmp_path / name) is None

    assert [code for code, _, _ in first] == [code for code, _, _ in second]
    assert [code for code, _, _ in alone] == [0, 2, 2, 2, 0, 0, 0, 0]
    for (code, out, err), (same_code, same_out, same_err) in zip(alone, first, strict=False):
        assert (code, figures(out)) == (same_code, figures(same_out))
        assert err == " ".join(same_err.split())
    assert all(out == "" and "langedit:" not in err for _, out, err in second)


def figures(said: str) -> object:
    return without_times(json.loads(said)) if said else None


def test_accelerate_launch_starts_them_too(langedit, workspace, tmp_path):
    arguments = ["early.jsonl", "--batch-size", "1", "--on-breach", "skip"]
    shutil.copytree(workspace, "whole")
    langedit.ok("apply", "whole", *arguments)
    settings = str(tmp_path / "nobody's settings of accelerate")
    command = ("-m", "langedit", "apply", "ws", *arguments)
    ended = accelerate_launch(*command, logs=tmp_path / "logs", HF_HOME=settings)
    assert ended.code == 0, ended.err
    said = {path.parent.name: path.read_text() for path in tmp_path.glob("logs/**/stdout.log")}
    assert set(said) == {"0", "1"}
    assert "Facts edited: 3, in batches: 3; batches refused: 1" in said["0"]
    assert said["1"] == ""
    assert contents(workspace) == contents(tmp_path / "whole")


def lost(how: Callable[..., Any], **more: str) -> Any:
    """How processes ended of which something became in the second batch."""
    arguments = ["apply", "ws", "early.jsonl", "--batch-size", "1", "--on-breach", "skip"]
    begun = time.monotonic()
    ended = how(JOBS / "lose_one.py", *arguments, **more)
    assert time.monotonic() - begun < 60, "they waited for each other"
    return ended


def goes_on(langedit: Any, workspace: Path, *, batches: int = 1) -> None:
    """A run that was cut short left whole batches; it is finished as if it had not been."""
    assert langedit.ok("verify", workspace)[0].startswith(f"Sound: {batches} events")
    arguments = ["early.jsonl", "--batch-size", "1", "--on-breach", "skip"]
    langedit.ok("apply", workspace, *arguments)
    langedit.ok("apply", "whole", *arguments)
    assert contents(workspace) == contents(workspace.with_name("whole"))
    assert langedit.ok("verify", workspace)[0].startswith("Sound: 4 events")
    assert read_owner(workspace) is None


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("killed", -9, ""),
        pytest.param("error", 2, "langedit: here alone\n", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_is_gone_ends_the_other_and_leaves_the_workspace_whole(
    langedit, workspace, how, code, said
):
    """Nobody watches these two: the one that writes notices by itself."""
    shutil.copytree(workspace, "whole")
    writer, other = lost(side_by_side, LOST="1", HOW=how)
    assert writer.code == 2, writer.err
    assert "langedit: another process of this run ended or fell silent" in writer.err
    assert other.code == code
    assert said in other.err
    assert read_owner(workspace) is None
    goes_on(langedit, workspace)


@pytest.mark.slow
def test_the_lock_of_a_writer_that_dies_ends_with_it(langedit, workspace):
    shutil.copytree(workspace, "whole")
    writer, other = lost(side_by_side, LOST="0")
    assert writer.code == -9
    assert other.code == 2
    assert "langedit: another process of this run ended or fell silent" in other.err
    assert read_owner(workspace) is not None
    goes_on(langedit, workspace)


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_dies_under_a_launcher_leaves_the_workspace_whole(langedit, workspace, rank):
    shutil.copytree(workspace, "whole")
    ended = lost(torchrun, LOST=rank)
    assert ended.code == 1, ended.err
    assert "Signal 9 (SIGKILL)" in ended.err
    goes_on(langedit, workspace)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "said"),
    [("early.jsonl", "Stopped at a guard rail"), ("clash.jsonl", "langedit: expected each fact")],
)
def test_the_writer_closes_and_speaks_before_a_launcher_stops_it(workspace, facts, said):
    write_rows(workspace.parent / "clash.jsonl", [FACTS[0], FACTS[0]])
    ended = torchrun(JOBS / "slow_writer.py", "apply", "ws", facts)
    assert ended.code == 1
    assert (ended.out + ended.err).count(said) == 1, ended.err
    assert read_owner(workspace) is None


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_interrupt_ends_all_and_leaves_the_workspace_whole(langedit, workspace, rank):
    shutil.copytree(workspace, "whole")
    ended = lost(torchrun, LOST=rank, HOW="interrupt")
    assert ended.code == 1, ended.err
    assert "SIGINT" in ended.err
    assert "forcefully" not in ended.err
    assert read_owner(workspace) is None
    goes_on(langedit, workspace)
