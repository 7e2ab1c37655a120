"""The commands of a workspace from end to end on a tiny model."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import FACTS, FAST, write_rows
from exports import logits, plain

from langedit.cli import apply, init, inspect, keeping, undo
from langedit.models import load_model
from langedit.workspace import Workspace

EXAMPLES = {
    "init": (init.EXAMPLES, "langedit.cli.workspace_job", "init_workspace"),
    "apply": (apply.EXAMPLES, "langedit.cli.workspace_job", "apply_file"),
    "undo": (undo.EXAMPLES, "langedit.cli.workspace_job", "undo_batch"),
    "verify": (keeping.EXAMPLES["verify"], "langedit.cli.workspace_job", "verify_workspace"),
    "archive": (keeping.EXAMPLES["archive"], "langedit.workspace.archive", "archive"),
    "restore": (keeping.EXAMPLES["restore"], "langedit.workspace.archive", "restore"),
    **{
        name: (text, "langedit.workspace.ledger", "Ledger.open")
        for name, text in inspect.EXAMPLES.items()
    },
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_has_examples_that_the_command_understands(langedit, monkeypatch, name):
    said, module, body = EXAMPLES[name]
    text = re.sub(r"\\\n\s*", " ", said)
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("langedit")]
    assert len(examples) >= 2
    _, out, _ = langedit(name, "--help")
    assert " ".join(examples[0].split()[:3]) in " ".join(out.split())
    owner = importlib.import_module(module)
    *path, last = body.split(".")
    for part in path:
        owner = getattr(owner, part)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, last, stop)
    for example in examples:
        assert langedit(*shlex.split(example)[1:])[0] == 130


@pytest.fixture
def workspace(langedit, checkpoint, moments, tmp_path) -> Path:
    """A workspace with three batches of one fact, the second in Chinese."""
    (tmp_path / "guarded.toml").write_text(f"{FAST}\n[guards]\nmin_rank_left = 22\n")
    langedit.ok(
        "init", tmp_path / "ws", "--model", checkpoint, "--moments", moments,
        "--config", tmp_path / "guarded.toml",
    )  # fmt: skip
    facts = write_rows(tmp_path / "two.jsonl", [FACTS[0], FACTS[2]])
    out, _ = langedit.ok("apply", tmp_path / "ws", facts, "--batch-size", "1", "--profile")
    assert all(stage in out for stage in ("Cost by stage", "targets", "scores", "GFLOP/s"))
    assert "Facts edited: 2, in batches: 2; batches refused: 0; rows rejected: 0." in out
    return tmp_path / "ws"


def said(langedit, *arguments: object):
    return json.loads(langedit.ok(*arguments, "--json")[0])


def test_from_init_to_the_original_weights(langedit, workspace, checkpoint, tmp_path):
    status = said(langedit, "status", workspace)
    assert status["languages"] == {"en": 1, "zh": 1}
    assert status["model"]["source"] == str(checkpoint)
    assert (status["original"], status["batches"], status["writer"]) == (False, [1, 2], None)
    assert set(status["rank_left"]) == {"1", "2"}
    log = said(langedit, "log", workspace)
    assert [(row["number"], row["kind"], row["in_model"]) for row in log] == [
        (1, "batch", True), (2, "batch", True),
    ]  # fmt: skip
    assert log[1]["weights_before"] == log[0]["weights_after"]
    batch = said(langedit, "show", workspace, 1)
    assert batch["facts"][0]["subject"] == "France"
    assert batch["figures"]["software"]["langedit"]
    (found,) = said(langedit, "find", workspace, "FRANCE")
    assert (found["batch"], found["state"]) == (1, "in the model")
    difference = said(langedit, "diff", workspace, 1, 2)
    assert [fact["language"] for fact in difference["added"]] == ["zh"]
    undone = said(langedit, "undo", workspace, "last")
    assert undone["weights"] == log[0]["weights_after"]
    undone = said(langedit, "undo", workspace, "all")
    assert undone["weights"] == log[0]["weights_before"]
    assert said(langedit, "status", workspace)["original"] is True
    assert said(langedit, "verify", workspace)["replayed"] == 4


def test_tables_for_people(langedit, workspace):
    out, _ = langedit.ok("status", workspace)
    assert "Facts    2 (en 1, zh 1)" in out
    assert "Guards   min_rank_left" in out
    out, _ = langedit.ok("log", workspace)
    assert "2 of 2 events; batches in the model: 2." in out
    out, _ = langedit.ok("show", workspace, 2)
    assert "法国的首都是" in out
    assert "Guard rail min_rank_left held: 22, limit 22 (layer 1)" in out
    out, _ = langedit.ok("find", workspace, "法")
    assert "1 fact has a subject with '法' in it." in out
    out, _ = langedit.ok("diff", workspace, 0, 2)
    assert "Facts that came: 2, went: 0, changed: 0." in out
    out, _ = langedit.ok("undo", workspace, 1, "--by", "removal")
    assert "Took back 1 (removal); its facts: 1" in out
    assert "Later facts: 1" in out
    out, _ = langedit.ok("verify", workspace)
    assert out.startswith("Sound: 3 events, 4 files, 3 events summed again")


def test_a_guard_rail_ends_the_run_with_exit_code_2(langedit, workspace, tmp_path):
    facts = write_rows(tmp_path / "more.jsonl", [FACTS[1]])
    code, out, _ = langedit("apply", workspace, facts)
    assert code == 2
    assert "Batch 3 was taken back: min_rank_left: expected 22, got 21 (layer 1)" in out
    assert "Stopped at a guard rail" in out
    code, out, _ = langedit("apply", workspace, facts, "--on-breach", "skip")
    assert code == 0
    assert "batches refused: 1" in out
    assert said(langedit, "status", workspace)["refused"] == 2


def test_a_contradiction_needs_supersede(langedit, workspace, tmp_path):
    facts = write_rows(tmp_path / "new.jsonl", [{**FACTS[0], "target": "Wien"}])
    code, _, err = langedit("apply", workspace, facts)
    assert code == 2
    assert "batch 1 says 'Rome'" in err
    langedit.ok("apply", workspace, facts, "--supersede")
    states = {row["target"]: row["state"] for row in said(langedit, "find", workspace, "france")}
    assert states == {"Rome": "replaced", "Wien": "in the model"}
    changed = said(langedit, "diff", workspace, 2, 3)["changed"]
    assert [[fact["target"] for fact in pair] for pair in changed] == [["Rome", "Wien"]]


def test_archive_and_restore_with_the_model_elsewhere(langedit, workspace, checkpoint, tmp_path):
    langedit.ok("archive", workspace, tmp_path / "ws.langedit")
    shutil.rmtree(workspace)
    langedit.ok("restore", tmp_path / "ws.langedit", tmp_path / "back")
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    out, _ = langedit.ok("verify", tmp_path / "back", "--model", moved)
    assert "2 events summed again" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "{tmp}/none"], "expected the ledger of a workspace"),
        (["log", "{tmp}"], "name a folder made by langedit init"),
        (["show", "{ws}", "9"], "expected the number of an event, from 1 to 2, got 9"),
        (["diff", "{ws}", "0", "9"], "up to 2, got 9"),
        (["undo", "{ws}", "1"], "take it back with --by removal"),
        (["undo", "{ws}", "first"], "expected a number, last or all"),
        (["undo", "{ws}", "last", "--by", "replay"], "leave it out"),
        (["undo", "{ws}", "1", "--by", "magic"], "expected removal or replay"),
        (["apply", "{ws}", "{tmp}/none.jsonl"], "cannot read the file of facts"),
        (["apply", "{ws}", "{tmp}/two.jsonl", "--on-breach", "cry"], "one of stop, skip, split"),
        (["verify", "{ws}", "--model", "{tmp}"], "it has no config.json"),
        (["restore", "{tmp}/two.jsonl", "{tmp}/back"], "expected an archive of a workspace"),
        (["archive", "{tmp}/none", "{tmp}/a"], "expected the ledger of a workspace"),
    ],
)
def test_mistakes_end_with_one_message(langedit, workspace, tmp_path, arguments, message):
    given = [part.format(tmp=tmp_path, ws=workspace) for part in arguments]
    code, _, err = langedit(*given)
    assert code == 2
    assert err.startswith("langedit: ")
    assert message in err


def test_a_damaged_workspace_is_not_sound(langedit, workspace):
    next(workspace.rglob("*.safetensors")).write_bytes(b"rubbish")
    code, out, _ = langedit("verify", workspace, "--files-only")
    assert code == 2
    assert out.startswith("PROBLEM")
    assert "NOT SOUND" in out


def test_control_characters_do_not_reach_the_terminal(langedit, workspace, tmp_path):
    evil = {**FACTS[0], "subject": "[bold]\x1b[31mPeru", "target": "\x9b2J"}
    facts = write_rows(tmp_path / "evil.jsonl", [evil])
    langedit("apply", workspace, facts, "--on-breach", "skip")
    for arguments in (["find", "peru"], ["find", "peru", "--json"], ["show", "3"]):
        out, _ = langedit.ok(arguments[0], workspace, *arguments[1:])
        assert "\x1b" not in out
        assert "\x9b" not in out
    assert "[bold]" in out


def test_readers_need_no_torch():
    code = (
        "import sys\nfrom pathlib import Path\n"
        "import langedit.cli.show_workspace, langedit.workspace.queries\n"
        "from langedit.workspace import Ledger\n"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_workspace_is_exported_in_every_form(langedit, workspace, checkpoint, tmp_path):
    langedit.ok("export", workspace, tmp_path / "merged", "--as", "merged")
    langedit.ok("export", workspace, tmp_path / "delta", "--as", "delta")
    langedit.ok("apply-delta", checkpoint, tmp_path / "delta", tmp_path / "applied")
    with Workspace.open(workspace) as opened:
        model = load_model(str(checkpoint))
        opened.load_editor(model)
    wanted = logits(model.model)
    assert torch.equal(logits(plain(tmp_path / "merged")), wanted)
    assert torch.equal(logits(plain(tmp_path / "applied")), wanted)
    assert not torch.equal(logits(plain(checkpoint)), wanted)
    newest = max(row["number"] for row in said(langedit, "log", workspace))
    out, _ = langedit.ok(
        "export", workspace, tmp_path / "last", "--as", "adapter", "--batches", newest
    )
    assert "1 fact" in out
    assert "as adapter of rank 1" in out


def test_a_workspace_without_batches_has_nothing_to_export(langedit, workspace, tmp_path):
    langedit.ok("undo", workspace, "all")
    code, _, err = langedit("export", workspace, tmp_path / "out", "--as", "delta")
    assert code == 2
    assert "expected a batch in the model, got none: edit with langedit apply" in err
    assert not (tmp_path / "out").exists()
