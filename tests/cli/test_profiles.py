"""`--profile` in the commands of a workspace: what is printed, recorded, and given back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import FACTS, FAST, write_rows
from workspaces import contents

EDITOR = {"hash", "prepare", "targets", "keys", "solve", "advance", "report"}
BATCH = EDITOR | {"scores", "guards", "record"}
FIGURES = {"seconds", "flops", "peak_bytes", "calls", "share_of_peak"}


def said(langedit, *arguments: object) -> Any:
    return json.loads(langedit.ok(*arguments, "--json")[0])


@pytest.fixture
def empty(langedit, checkpoint, moments, tmp_path) -> Path:
    """A workspace with a guard rail and no batch, made without a profile."""
    (tmp_path / "guarded.toml").write_text(f"{FAST}\n[guards]\nmin_rank_left = 22\n")
    langedit.ok(
        "init", tmp_path / "ws", "--model", checkpoint, "--moments", moments,
        "--config", tmp_path / "guarded.toml",
    )  # fmt: skip
    return tmp_path / "ws"


def flops(profile: dict[str, Any], stages: set[str]) -> dict[str, int]:
    return {name: profile[name]["flops"] for name in stages}


def test_a_batch_keeps_its_own_profile(langedit, empty, tmp_path):
    facts = write_rows(tmp_path / "two.jsonl", [FACTS[0], FACTS[2]])
    whole = said(langedit, "apply", empty, facts, "--batch-size", "1", "--profile")["profile"]
    assert set(whole) == BATCH | {"open", "read", "restore"}
    listed = said(langedit, "log", empty)
    batches = [event["profile"] for event in listed]
    assert [set(own) for own in batches] == [BATCH, BATCH]
    assert all(set(cost) == FIGURES for own in batches for cost in own.values())
    for number, own in enumerate(batches, start=1):
        assert said(langedit, "show", empty, number)["figures"]["profile"] == own
        text = langedit.ok("show", empty, number)[0]
        assert all(name in text for name in ("Cost by stage", "GFLOP/s", *BATCH))
    stages = BATCH - {"hash"}  # hashing begins before the first batch
    parts = [flops(own, stages) for own in batches]
    assert flops(whole, stages) == {name: sum(own[name] for own in parts) for name in stages}
    assert min(own["targets"] for own in parts) > 0
    assert parts[0] != parts[1]  # control: they are not both the sum
    assert said(langedit, "verify", empty)["problems"] == []


def test_without_the_option_nothing_is_added_and_nothing_else_changes(langedit, empty, tmp_path):
    facts = write_rows(tmp_path / "one.jsonl", FACTS[:1])
    langedit.ok("archive", empty, tmp_path / "empty.langedit")
    langedit.ok("restore", tmp_path / "empty.langedit", tmp_path / "other")
    assert "profile" not in said(langedit, "apply", empty, facts)
    assert "profile" in said(langedit, "apply", tmp_path / "other", facts, "--profile")
    plain, profiled = contents(empty), contents(tmp_path / "other")
    (detail,) = profiled["tables"]["detail"]
    assert set(detail["figures"].pop("profile")) == BATCH
    assert plain == profiled
    assert "profile" not in said(langedit, "log", empty)[0]
    assert "profile" not in said(langedit, "status", empty)
    assert "Cost by stage" not in langedit.ok("show", empty, 1)[0]


def test_undo_and_verify_say_what_they_cost(langedit, empty, tmp_path):
    facts = write_rows(tmp_path / "two.jsonl", [FACTS[0], FACTS[2]])
    langedit.ok("apply", empty, facts, "--batch-size", "1")
    undone = said(langedit, "undo", empty, 1, "--by", "replay", "--profile")
    assert set(undone["profile"]) == BATCH - {"guards"} | {"open", "read", "restore"}
    undo, replayed = (said(langedit, "show", empty, n)["figures"]["profile"] for n in (3, 4))
    assert set(undo) == {"scores", "read", "restore", "hash"}
    assert undo["scores"]["calls"] == 2  # before and after
    assert set(replayed) == BATCH - {"guards"}
    assert undone["profile"]["scores"]["flops"] == sum(
        own["scores"]["flops"] for own in (undo, replayed)
    )
    out, _ = langedit.ok("undo", empty, "last", "--profile")
    assert "Cost by stage" in out
    found = said(langedit, "verify", empty, "--profile")
    assert found["problems"] == []
    assert {"files", "open", "read", "restore", "hash"} == set(found["profile"])
    assert set(said(langedit, "verify", empty, "--files-only", "--profile")["profile"]) == {"files"}
    assert "Cost by stage" in langedit.ok("verify", empty, "--profile")[0]
    langedit.ok("archive", empty, tmp_path / "ws.langedit")
    langedit.ok("restore", tmp_path / "ws.langedit", tmp_path / "again")
    assert said(langedit, "log", tmp_path / "again") == said(langedit, "log", empty)


def test_init_says_what_it_cost_and_status_gives_it_back(
    langedit, checkpoint, moments, config, tmp_path
):
    out, _ = langedit.ok(
        "init", tmp_path / "ws", "--model", checkpoint, "--moments", moments, "--config", config,
        "--profile",
    )  # fmt: skip
    assert all(name in out for name in ("Cost by stage", "open", "guards", "files", "hash"))
    profile = said(langedit, "status", tmp_path / "ws")["profile"]
    assert set(profile) == {"open", "guards", "files", "hash"}
    assert profile["open"]["flops"] > 0
    assert said(langedit, "verify", tmp_path / "ws")["problems"] == []
