"""A workspace of an instruct model: scores through the template, and the same as plain text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import chat_model
from cli_helpers import FACTS, FAST, LAYERS, write_rows
from workspaces import without_triggers

from langedit.cli.collect import CollectOptions, collect
from langedit.cli.export_job import ExportOptions, export_edits
from langedit.errors import RecordError
from langedit.evaluation import mean_or_none, mean_scores, score_facts
from langedit.facts import read_facts
from langedit.models import ChatSettings, EditableModel, load_model
from langedit.workspace import Workspace
from langedit.workspace.export import load_base

CHAT = "chat = true\nsystem_prompt = 'Be {brief}'\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has a chat template, second moments, and two facts."""
    folder = tmp_path_factory.mktemp("chat")
    model = chat_model("mistral")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    (folder / "en.txt").write_text("The capital of France is Paris.\n" * 4)
    collect(
        CollectOptions(
            model=str(folder / "model"),
            sources=(str(folder / "en.txt"),),
            layers=LAYERS,
            output=folder / "moments",
        )
    )
    write_rows(folder / "facts.jsonl", [FACTS[0], FACTS[2]])
    return folder


def make(langedit, source: Path, folder: Path, settings: str) -> Path:
    """A workspace with the two facts, each a batch."""
    (folder / "edit.toml").write_text(settings)
    langedit.ok(
        "init", folder / "ws", "--model", source / "model", "--moments", source / "moments",
        "--config", folder / "edit.toml",
    )  # fmt: skip
    langedit.ok("apply", folder / "ws", source / "facts.jsonl", "--batch-size", "1")
    return folder / "ws"


@pytest.fixture
def workspace(langedit, source, tmp_path) -> Path:
    return make(langedit, source, tmp_path, FAST + CHAT)


def edited(workspace: Path, source: Path) -> EditableModel:
    with Workspace.open(workspace) as opened:
        return opened.load_editor(load_model(source / "model")).model


def said(langedit, *arguments: object):
    return json.loads(langedit.ok(*arguments, "--json")[0])


def test_both_are_recorded_and_shown(langedit, workspace, source):
    facts = read_facts(source / "facts.jsonl").facts
    model = edited(workspace, source)
    assert model.chat == ChatSettings(system_prompt="Be {brief}")
    own = score_facts(model, facts[1:])
    plain = score_facts(model.with_chat(None), facts[1:])
    batch = said(langedit, "show", workspace, 2)
    assert batch["facts"][0]["efficacy"] == own[0].efficacy
    assert batch["figures"]["plain_scores"] == {"after": mean_scores(plain)}
    assert batch["summary"]["efficacy"] == own[0].efficacy
    assert batch["summary"]["plain_efficacy"] == mean_or_none(score.efficacy for score in plain)
    out, _ = langedit.ok("show", workspace, 2)
    percent = f"{100 * plain[0].efficacy:.1f}"
    assert f"As plain text, without the chat template, in percent: efficacy {percent}" in out
    log = said(langedit, "log", workspace)
    assert log[1]["summary"]["plain_efficacy"] == plain[0].efficacy
    assert "as text" in langedit.ok("log", workspace)[0]


def test_the_two_ways_of_asking_differ(workspace, source):
    """The control of the others: a model asked in plain text says something else."""
    (fact, _) = read_facts(source / "facts.jsonl").facts
    model = edited(workspace, source)
    kinds = ("target_probability",)
    in_chat, plain = (score_facts(m, [fact], kinds=kinds) for m in (model, model.with_chat(None)))
    assert in_chat != plain


def test_a_model_edited_in_plain_text_has_one_kind_of_score(langedit, source, tmp_path):
    workspace = make(langedit, source, tmp_path, FAST)
    batch = said(langedit, "show", workspace, 1)
    assert batch["figures"]["plain_scores"] is None
    assert batch["summary"]["plain_efficacy"] is None
    assert "plain text" not in langedit.ok("show", workspace, 1)[0]
    assert "as text" not in langedit.ok("log", workspace)[0]


def test_an_export_is_asked_as_the_model_was_edited(langedit, workspace, source, tmp_path):
    facts = read_facts(source / "facts.jsonl").facts
    outcome = export_edits(
        ExportOptions(source=workspace, output=tmp_path / "merged", kind="merged")
    )
    assert outcome.scores == tuple(score_facts(edited(workspace, source), facts))
    assert load_base(outcome.record).chat == ChatSettings(system_prompt="Be {brief}")
    wrong = {**outcome.record.settings, "system_prompt": 7}
    with pytest.raises(RecordError, match="expected text as system_prompt and chat_date, got 7"):
        load_base(replace(outcome.record, settings=wrong))
    unasked = {**outcome.record.settings, "chat": False}
    assert load_base(replace(outcome.record, settings=unasked)).chat is None


def test_a_workspace_from_before_they_were_recorded_goes_on(langedit, workspace, source, tmp_path):
    with without_triggers(workspace / "ledger.sqlite") as connection:
        connection.execute("UPDATE event SET summary = json_remove(summary, '$.plain_efficacy')")
        connection.execute("UPDATE detail SET figures = json_remove(figures, '$.plain_scores')")
    assert "plain text" not in langedit.ok("show", workspace, 1)[0]
    assert "as text" not in langedit.ok("log", workspace)[0]
    langedit.ok("apply", workspace, write_rows(tmp_path / "more.jsonl", [FACTS[1]]))
    log = said(langedit, "log", workspace)
    old, new = log[0]["summary"], log[2]["summary"]
    assert old["plain_efficacy"] is None
    assert new["plain_efficacy"] is not None
    assert "–" in langedit.ok("log", workspace)[0]
    assert said(langedit, "verify", workspace)["replayed"] == 3
