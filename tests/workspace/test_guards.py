"""Guard rails: what a batch breaks takes it back, bit for bit, and is written down."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from workspaces import FACTS, PROMPT, answer, apply, canary, model, new_workspace, weights

from langedit.cli.settings import read_guards
from langedit.errors import ConfigError, NumericalError
from langedit.facts import Probe
from langedit.workspace import GuardSettings, Ledger
from langedit.workspace.probes import Reading, spread
from langedit.workspace.verify import verify

STRONG = {"value_steps": 20, "value_lr": 0.5, "norm_clamp": 20.0, "null_share": 0.9, "ridge": 1e-4}


def events(folder):
    with Ledger.open(folder) as ledger:
        return ledger.events()


def test_a_batch_within_all_limits_is_kept_and_all_are_measured(tmp_path):
    limits = {
        "canaries": [canary()],
        "texts": ["given below"],
        "max_perplexity_ratio": 100.0,
        "max_specificity_loss": 1.0,
        "max_update_norm": 10.0,
        "min_rank_left": 1,
        "min_retention": 0.0,
    }
    gentle = {"value_lr": 1e-4, "value_steps": 2}
    folder = new_workspace(
        tmp_path, guards=GuardSettings.of(limits), texts=["Die Stadt Wien."], **gentle
    )
    fact = replace(FACTS[0], language="zh", neighbourhood=(Probe(PROMPT, answer()),))
    (step,) = apply(folder, [fact])
    assert step.kept
    with Ledger.open(folder) as ledger:
        readings = {r["name"]: r for r in ledger.figures(1)["guards"]}
    assert not any(reading["broken"] for reading in readings.values())
    assert readings["canaries"]["value"] == 1.0
    assert readings["max_perplexity_ratio"]["value"] == pytest.approx(1, abs=0.1)
    assert readings["max_specificity_loss"]["value"] == 0.0
    assert readings["max_update_norm"]["value"] > 0
    assert readings["min_rank_left"]["value"] > 1
    assert readings["min_retention"]["value"] is None, "there is no earlier batch"
    assert len(readings) == 6


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"texts": ["t"], "max_perplexity_ratio": 1e-9}, "max_perplexity_ratio: expected 1e-09"),
        ({"max_update_norm": 1e-9}, "max_update_norm: expected 1e-09, got"),
        ({"min_rank_left": 10_000}, "min_rank_left: expected 10000, got"),
    ],
)
def test_a_batch_that_breaks_a_limit_is_refused(tmp_path, limits, said):
    folder = new_workspace(
        tmp_path, guards=GuardSettings.of(limits), texts=["Wien."] if "texts" in limits else ()
    )
    before = weights(folder)
    (step,) = apply(folder, FACTS[:2])
    assert not step.kept
    (event,) = events(folder)
    assert event.kind == "refused"
    assert event.summary.breaches[0].startswith(said)
    assert event.weights_before == event.weights_after == before == weights(folder)
    assert (event.artefact, event.summary.then) == (None, "stop")
    assert verify(folder, model()).problems == ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NumericalError("probabilities of the text 'Wien.'"), "of the text 'Wien.'"),
        (math.inf, "beyond all numbers"),
    ],
)
def test_a_batch_after_which_texts_have_no_perplexity_is_refused(
    tmp_path, monkeypatch, found, said
):
    guards = GuardSettings.of({"texts": ["t"], "max_perplexity_ratio": 100.0})
    folder = new_workspace(tmp_path, guards=guards, texts=["Wien."])
    before = weights(folder)

    def spoilt(*_, **__):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("langedit.workspace.probes.perplexity", spoilt)
    (step,) = apply(folder, FACTS[:1])
    assert not step.kept
    (event,) = events(folder)
    (breach,) = event.summary.breaches
    assert breach.startswith("max_perplexity_ratio: expected 100, got nothing (")
    assert said in breach
    assert before == weights(folder)
    with Ledger.open(folder) as ledger:
        json.dumps(ledger.figures(1), allow_nan=False)


def test_texts_that_the_unedited_model_finds_impossible_are_no_guard(tmp_path, monkeypatch):
    monkeypatch.setattr("langedit.workspace.probes.perplexity", lambda *_: math.inf)
    guards = GuardSettings.of({"texts": ["t"], "max_perplexity_ratio": 100.0})
    with pytest.raises(ConfigError, match=r"guards: texts: .*beyond all numbers"):
        new_workspace(tmp_path, guards=guards, texts=["Wien."])


def test_a_canary_that_sings_no_more(tmp_path):
    folder = new_workspace(tmp_path, guards=GuardSettings.of({"canaries": [canary()]}), **STRONG)
    steps = apply(folder, [replace(FACTS[0], language="zh", subject="Germany")])
    assert [step.kept for step in steps] == [False]
    assert f"canaries: expected 1, got 0 ('{PROMPT}' -> " in events(folder)[0].summary.breaches[0]


def test_neighbours_that_change_are_seen(tmp_path):
    folder = new_workspace(tmp_path, guards=GuardSettings.of({"max_specificity_loss": 0}), **STRONG)
    fact = replace(
        FACTS[0], language="zh", subject="Germany", neighbourhood=(Probe(PROMPT, answer()),)
    )
    (step,) = apply(folder, [fact])
    assert not step.kept
    assert "max_specificity_loss: expected 0, got 1" in events(folder)[0].summary.breaches[0]


def test_the_run_stops_and_tries_the_same_batch_again(tmp_path):
    folder = new_workspace(tmp_path, guards=GuardSettings.of({"min_rank_left": 32}))
    assert [step.kept for step in apply(folder, FACTS[:3])] == [True, True, False]
    assert [step.kept for step in apply(folder, FACTS[:3])] == [False]
    assert [event.place for event in events(folder)] == ["0", "1", "2", "2"]


def test_a_refused_batch_is_left_out_and_the_next_is_as_if_it_had_never_been(tmp_path):
    facts = (FACTS[1], FACTS[0])
    (tmp_path / "a").mkdir()
    folder = new_workspace(tmp_path / "a")
    norms = [step.report for step in apply(folder, facts)]
    largest = [max(norm.ratio for norm in report.norms.values()) for report in norms]
    worst = largest.index(max(largest))
    limit = sorted(largest)[-2] * 1.2
    assert limit < max(largest), "one batch stands out"
    (tmp_path / "b").mkdir()
    guards = GuardSettings.of({"max_update_norm": limit})
    guarded = new_workspace(tmp_path / "b", guards=guards)
    steps = apply(guarded, facts, on_breach="skip")
    assert [step.kept for step in steps] == [i != worst for i in range(2)] == [False, True]
    (tmp_path / "c").mkdir()
    without = new_workspace(tmp_path / "c")
    apply(without, [fact for i, fact in enumerate(facts) if i != worst])
    assert weights(guarded) == weights(without)
    (again,) = apply(guarded, facts, on_breach="skip")
    assert (again.kept, again.report.facts) == (False, facts[:1]), "a new run tries it again"


def test_a_harmful_fact_is_isolated_by_halving(tmp_path):
    facts = [
        replace(FACTS[0], subject=name, id=name)
        for name in ("France", "Peru", "Spain", "Berlin", "Anna")
    ]
    bad = "Peru"
    folder = new_workspace(tmp_path, guards=GuardSettings.of({"canaries": [canary()]}))

    def harmful(_editor, _guards, _baseline, report, _probed, _before):
        broken = any(fact.subject == bad for fact in report.facts)
        return (Reading(name="canaries", value=0.0, limit=1.0, broken=broken),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langedit.workspace.recorder.read_guards", harmful)
        steps = apply(folder, facts, batch_size=5, on_breach="split")
    tried = [([fact.subject for fact in step.report.facts], step.kept) for step in steps]
    assert tried == [
        (["France", "Peru", "Spain", "Berlin", "Anna"], False),
        (["France", "Peru", "Spain"], False),
        (["France", "Peru"], False),
        (["France"], True),
        (["Peru"], False),
        (["Spain"], True),
        (["Berlin", "Anna"], True),
    ]
    assert [event.place for event in events(folder)] == [
        "0", "0.0", "0.0.0", "0.0.0.0", "0.0.0.1", "0.0.1", "0.1",
    ]  # fmt: skip
    assert verify(folder, model()).problems == ()


def test_a_canary_that_the_unedited_model_does_not_sing_is_refused(tmp_path):
    limits = {"canaries": [{"language": "en", "prompt": PROMPT, "answer": "Ljubljana"}]}
    with pytest.raises(ConfigError, match="to answer 'Ljubljana' after"):
        new_workspace(tmp_path, guards=GuardSettings.of(limits))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_norm": 1}, "guards: max_norm: Extra inputs"),
        ({"min_retention": 2}, "guards: min_retention: Input should be less"),
        ({"texts": ["a.txt"]}, "texts and max_perplexity_ratio together"),
        ({"canaries": [{"prompt": "a"}]}, r"guards: canaries.0.language: Field required"),
    ],
)
def test_wrong_limits(limits, said):
    with pytest.raises(ConfigError, match=said):
        GuardSettings.of(limits)


def test_guards_and_their_texts_are_read_from_the_settings(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "en.txt").write_text("One.\n\nTwo.\n")
    path = tmp_path / "edit.toml"
    path.write_text(
        "layers = [0]\n[guards]\nmax_perplexity_ratio = 1.1\ntexts = ['texts/en.txt']\n"
        "[[guards.canaries]]\nlanguage = 'en'\nprompt = 'a'\nanswer = 'b'\n"
    )
    guards, texts = read_guards(str(path))
    assert texts == ["One.", "Two."]
    assert (guards.max_perplexity_ratio, guards.canaries[0].answer) == (1.1, "b")
    (tmp_path / "texts" / "en.txt").unlink()
    with pytest.raises(ConfigError, match="expected UTF-8 text in"):
        read_guards(str(path))


def test_a_sample_is_spread():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []
    assert spread("abc", 1) == ["a"]
