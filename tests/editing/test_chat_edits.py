"""Edits of a model that is asked in a chat: one text for requests, keys, targets and scores."""

from __future__ import annotations

import json

import pytest
import torch
from chat_templates import TEMPLATES, chat_model
from cli_helpers import FACTS as ROWS
from cli_helpers import FAST, LAYERS, write_rows
from edits import FACTS, PREFIXES, random_moments, settings
from oracles_targets import naive_target

from langedit.cli.collect import CollectOptions, collect
from langedit.cli.job import edit_model
from langedit.cli.plan import EditOptions
from langedit.editing import (
    EditConfig,
    Editor,
    Prefixes,
    compute_keys,
    lookup_hidden,
    optimise_targets,
    prepare_request,
)
from langedit.errors import ConfigError
from langedit.evaluation import encode_answer, score_facts
from langedit.models import ChatSettings, EditableModel, Recorder

STYLES = tuple(TEMPLATES)


@pytest.mark.parametrize("style", STYLES)
def test_requests_are_what_transformers_would_ask_and_answer(style):
    model = chat_model(style, ChatSettings())
    config = settings(chat=True)
    for fact in FACTS:
        request = prepare_request(model, fact, PREFIXES.of(fact.language), config)
        for prompt, before in zip(request.prompts, ("", *PREFIXES.of(fact.language)), strict=True):
            user = {"role": "user", "content": before + fact.text}
            answer = {"role": "assistant", "content": fact.target}
            pinned = {"day": "26 Jul 2024"}
            whole = model.tokenizer.apply_chat_template([user, answer], **pinned)["input_ids"]
            ids = (*prompt.ids, *request.target_ids)
            assert tuple(whole[: len(ids)]) == ids
            spelled = model.tokenizer.decode(prompt.ids[prompt.subject_start : prompt.lookup + 1])
            assert fact.subject in spelled


def test_keys_and_targets_are_those_of_the_chat():
    model = chat_model("llama", ChatSettings(system_prompt="Be {brief}."))
    config = settings(chat=True, system_prompt="Be {brief}.")
    request = prepare_request(model, FACTS[0], PREFIXES.of("en"), config)
    text = model.tokenizer.decode(request.prompts[0].ids)
    assert "Be {brief}." in text
    assert text.endswith("<|head|>assistant<|neck|>\n\n")
    expected = naive_target(model, request, config)
    found = optimise_targets(model, [request], config)
    torch.testing.assert_close(found.target_hidden[0], expected.target, rtol=1e-4, atol=1e-4)
    name = model.projection_name(1)
    rows = []
    for prompt in request.prompts:
        with torch.no_grad(), Recorder(model.model, inputs=[name]) as recorder:
            model.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
        rows.append(recorder.inputs[name][0, prompt.lookup])
    key = 0.5 * rows[0] + 0.5 * torch.stack(rows[1:]).mean(0)
    torch.testing.assert_close(compute_keys(model, [request.prompts], [1])[1][0], key)


def target_nll(model: EditableModel, fact) -> float:
    """Negative log-likelihood of the target's tokens, asked as the scores ask."""
    prompt, answer = encode_answer(model, fact.language, fact.text, fact.target)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    scores = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return -float(scores[torch.arange(len(answer)), list(answer)].mean())


@pytest.mark.parametrize("style", STYLES)
def test_an_edit_in_the_chat_is_found_in_the_chat(style):
    model = chat_model(style)
    config = settings(chat=True, layers=(1,), norm_clamp=5.0, null_share=0.97, ridge=1e-8)
    fact = FACTS[0]
    editor = Editor(model, None, config, random_moments(model), Prefixes({"en": []}))
    assert editor.model.chat == ChatSettings()
    assert editor.model.model is model.model
    before = target_nll(editor.model, fact)
    targets = editor.apply([fact]).targets
    # What is optimised is what is asked, and the edit is felt where it is asked.
    assert before == pytest.approx(float(targets.first.nll[0]), abs=1e-4)
    assert float(targets.last.nll[0]) < before
    request = prepare_request(editor.model, fact, (), config)
    reached = lookup_hidden(editor.model, request.prompts, 1)
    torch.testing.assert_close(reached, targets.target_hidden, rtol=1e-3, atol=1e-3)


def test_scores_ask_as_the_model_is_asked():
    plain = chat_model("qwen")
    chat = plain.with_chat(ChatSettings())
    prompt, answer = encode_answer(chat, "en", "The capital of France is", "Paris")
    assert chat.tokenizer.decode(prompt).startswith("<|head|>system\nBe kind.<|stop|>")
    assert chat.tokenizer.decode(answer) == "Paris"
    _, answer = encode_answer(plain, "en", "The capital of France is", "Paris")
    assert plain.tokenizer.decode(answer) == " Paris"


def test_two_runs_give_the_same_weights_whatever_the_day(monkeypatch):
    weights = []
    for _ in range(2):
        model = chat_model("llama")
        editor = Editor(model, None, settings(chat=True), random_moments(model), PREFIXES)
        editor.apply(FACTS[:2])
        weights.append(model.read_weight(1))
        monkeypatch.setattr("time.time", lambda: 4e9)
    assert torch.equal(*weights)


def test_settings_of_the_chat():
    config = settings(chat=True, system_prompt='say "no" {}\n', chat_date="2020-02-02")
    assert config.chat_settings == ChatSettings(system_prompt='say "no" {}\n', date="2020-02-02")
    assert settings().chat_settings is None
    with pytest.raises(ConfigError, match="expected chat = true"):
        settings(system_prompt="x")
    with pytest.raises(
        ConfigError, match="chat_date: expected a day as YYYY-MM-DD, got '2020-13-1'"
    ):
        settings(chat_date="2020-13-1")


def test_the_settings_of_the_chat_survive_toml(tmp_path):
    config = settings(chat=True, system_prompt='say "no" {}\n')
    (tmp_path / "edit.toml").write_text(config.to_toml(), encoding="utf-8")
    assert EditConfig.from_toml(tmp_path / "edit.toml") == config


def test_a_job_reports_scores_in_the_chat_and_as_plain_text(tmp_path):
    model = chat_model("mistral")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "en.txt").write_text("The capital of France is Paris.\n" * 4)
    (tmp_path / "chat.toml").write_text(FAST + "chat = true\nsystem_prompt = 'Be {brief}'\n")
    collect(
        CollectOptions(
            model=str(tmp_path / "model"),
            sources=(str(tmp_path / "en.txt"),),
            layers=LAYERS,
            output=tmp_path / "moments",
        )
    )
    outcome = edit_model(
        EditOptions(
            model=str(tmp_path / "model"),
            facts=write_rows(tmp_path / "facts.jsonl", ROWS[:2]),
            output=tmp_path / "edited",
            config=str(tmp_path / "chat.toml"),
            moments=tmp_path / "moments",
        )
    )
    facts = outcome.plan.facts
    live = outcome.editor.model
    assert outcome.after == tuple(score_facts(live, facts))
    assert outcome.plain_after == tuple(score_facts(live.with_chat(None), facts))
    report = json.loads((tmp_path / "edited" / "report.json").read_text())
    assert report["plain_scores"]["after"]["all"]["facts"] == 2
    assert report["plain_scores"].keys() == report["scores"].keys()
