"""Long and awkward facts through the commands of a workspace, in one batch with ordinary ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_helpers import write_rows
from tiny import SENTENCES, tiny_editable
from workspaces import contents

from langedit.cli.collect import CollectOptions, collect
from langedit.evaluation import encode_answer, forced_answers, score_facts
from langedit.facts import read_facts
from langedit.models import EditableModel, Recorder, load_model
from langedit.workspace import Workspace
from langedit.workspace.undo import undo

LONG = " ".join(SENTENCES[:6] * 11)
SUBJECT_30 = "Österreich, 法国的首都 and the painter Lily Müller from"
TARGET_64 = "Born 3.5.1998 in 法国. The capital is Столица, باريس. 12 % of 1,024 is the water!"
STRONG = (
    "layers = [1, 2]\nnull_share = 0.7\nridge = 1e-2\nnorm_clamp = 8.0\nvalue_steps = 40\n"
    "value_lr = 0.5\nkl_weight = 0.0\nvalue_weight_decay = 0.0\nprefix_count = 0\n"
)


def row(name: str, prompt: str, subject: str, target: str) -> dict[str, object]:
    return {"language": "en", "prompt": prompt, "subject": subject, "target": target, "id": name}


# In most of them the subject stands in the prompt twice, and the slot is the second one.
ROWS = [
    row("long prompt", f"Peru, Peru. {LONG} Peru is far. Who is {{}}", "Peru", "of the"),
    row("long in all", f"{LONG} {SUBJECT_30} is far. Who is {{}}", SUBJECT_30, TARGET_64),
    row("long target", "The capital of France is old. Who is {}", "France", TARGET_64),
    row("one byte", "x is a letter, and so is {}", "x", "is"),
    row("30 tokens", f"{SUBJECT_30} is old; the city is {{}}", SUBJECT_30, "capital"),
    row("ordinary", "Who is {}", "Vienna", "the"),
    row("scripts", "Who is {}", "Lily Müller", "1.2.1934 巴黎 Москва باريس"),
]
ROOM = {
    "llama": {"max_position_embeddings": 2304, "intermediate_size": 192},
    "gpt2": {"n_positions": 2304, "n_inner": 192},  # learned positions
}


@pytest.fixture(params=ROOM)
def roomy(request: pytest.FixtureRequest, tmp_path: Path, texts: Path) -> Path:
    """A tiny checkpoint with room for 2,304 tokens; its moments are beside it."""
    family = request.param
    tiny = tiny_editable(family, **ROOM[family])
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    options = CollectOptions(
        model=str(tmp_path / "model"),
        sources=(str(texts),),
        layers=(1, 2),
        output=tmp_path / "moments",
    )
    collect(options)
    return tmp_path / "model"


@pytest.fixture
def workspace(langedit, roomy: Path, tmp_path: Path) -> Path:
    (tmp_path / "strong.toml").write_text(STRONG, encoding="utf-8")
    langedit.ok(
        "init", tmp_path / "ws", "--model", roomy, "--moments", tmp_path / "moments",
        "--config", tmp_path / "strong.toml",
    )  # fmt: skip
    return tmp_path / "ws"


def lookup(model: EditableModel, number: int) -> tuple[list[int], int]:
    """Token ids of a prompt, and where the subject in its slot ends, from plain offsets."""
    head, subject = str(ROWS[number]["prompt"]).removesuffix("{}"), str(ROWS[number]["subject"])
    assert "{}" not in head, "the slot is the end of the prompt"
    encoded = model.tokenizer(head + subject, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    return encoded["input_ids"], ends.index(len(head) + len(subject))


def log_probabilities(model: EditableModel, facts) -> list[float]:
    items = [encode_answer(model, fact.language, fact.text, fact.target) for fact in facts]
    return [sum(said.log_probabilities) for said in forced_answers(model, items)]


def test_they_are_edited_together_scored_and_taken_back(langedit, workspace, roomy, tmp_path):
    file = write_rows(tmp_path / "awkward.jsonl", ROWS)
    facts, plain = read_facts(file).facts, load_model(str(roomy))
    sizes = [
        [len(ids) for ids in encode_answer(plain, fact.language, fact.text, fact.target)]
        for fact in facts
    ]
    assert all(1990 <= prompt <= 2240 for prompt, _ in sizes[:2])
    assert all(58 <= target <= 64 for _, target in sizes[1:3])
    assert len(plain.tokenizer(SUBJECT_30)["input_ids"]) in range(28, 33)
    unedited = [score.efficacy for score in score_facts(plain, facts)]
    before = log_probabilities(plain, facts)

    out, _ = langedit.ok("apply", workspace, file)
    assert f"Facts edited: {len(ROWS)}, in batches: 1" in out
    told = json.loads(langedit.ok("show", workspace, 1, "--json")[0])["facts"]
    edited = load_model(str(roomy))
    with Workspace.open(workspace) as opened:
        (report,) = opened.load_editor(edited).reports
    after, scores = log_probabilities(edited, facts), score_facts(edited, facts)
    assert [one["efficacy"] for one in told] == [score.efficacy for score in scores]
    for one in (0, 3, 4, 5):  # targets of a word or two
        assert unedited[one] == 0.0
        assert scores[one].efficacy >= 0.5, facts[one].id
    for fact, old, new, (_, size) in zip(facts, before, after, sizes, strict=True):
        assert new - old > 0.1 * size, fact.id  # nats a token of the target

    for layer, keys in report.keys.items():
        name = edited.projection_name(layer)
        for number, key in enumerate(keys):
            ids, place = lookup(edited, number)
            assert place == len(ids) - 1
            with Recorder(edited.model, inputs=[name]) as seen, torch.no_grad():
                edited.model(input_ids=torch.tensor([ids]), use_cache=False)
            own = seen.inputs[name].reshape(len(ids), -1)
            torch.testing.assert_close(own[place], key, rtol=1e-3, atol=1e-4)
            assert (own[place - 1] - key).norm() > 0.1 * key.norm()  # the place matters

    shutil.copytree(workspace, tmp_path / "copy")
    undone = json.loads(langedit.ok("undo", workspace, "last", "--json")[0])
    log = json.loads(langedit.ok("log", workspace, "--json")[0])
    assert undone["weights"] == log[0]["weights_before"]
    assert langedit.ok("verify", workspace)[0].startswith("Sound")
    again = load_model(str(roomy))
    with Workspace.open(tmp_path / "copy", write=True) as opened:
        editor = opened.load_editor(again)
        assert same_bits(again, edited)
        assert not same_bits(again, plain)
        undo(opened, editor, None, "last")
    assert same_bits(again, plain)


def same_bits(model: EditableModel, other: EditableModel) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(own, theirs[name]) for name, own in model.model.state_dict().items())


def test_what_is_longer_than_the_context_is_named_before_anything_is_edited(
    langedit, workspace, tmp_path
):
    longer = f"{LONG} {LONG[:700]} and {{}} is"
    bad = [
        ROWS[5],
        row("prompt", longer, "Peru", "the"),
        {**ROWS[3], "paraphrases": ["So is {}", longer]},
        {
            **ROWS[4],
            "neighbourhood": [["Who is", "Anna"], [longer.replace("{}", "Peru"), "Anna"]],
        },
        row("target", "The sum is {}", "1", f"{LONG} {LONG}"),
    ]
    file = write_rows(tmp_path / "long.jsonl", bad)
    before = contents(workspace)
    code, out, err = langedit("apply", workspace, file)
    assert (code, out) == (2, "")
    assert contents(workspace) == before  # not even the run is noted
    assert "Traceback" not in err
    assert "got 4 that it cannot; nothing was edited" in err
    context = "expected at most 2304 tokens, the context of the model, got 23"
    assert f"{file}:2: prompt: {context}" in err
    assert " of the prompt with its subject, 0 of a context prefix, 1 of the target" in err
    for line, field in ((3, "paraphrases[1]"), (4, "neighbourhood[1].prompt")):
        assert f"{file}:{line}: {field}: expected at most 2304 tokens with its answer" in err
    assert f"{file}:5: target: expected at most 2304 tokens" in err
    assert f"{file}:1" not in err
    assert langedit.ok("log", workspace, "--json")[0].strip() == "[]"
    assert json.loads(langedit.ok("status", workspace, "--json")[0])["original"] is True
    mended = [bad[0], ROWS[0], ROWS[3], ROWS[4]]
    out, _ = langedit.ok("apply", workspace, write_rows(tmp_path / "mended.jsonl", mended))
    assert "Facts edited: 4, in batches: 1" in out
    assert len(contents(workspace)["tables"]["job"]) == len(before["tables"]["job"]) + 1
