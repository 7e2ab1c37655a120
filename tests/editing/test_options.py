"""Options that every closed-form method takes: ends, a margin to stop at, merged facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edits import FACTS, PREFIXES, random_moments, settings
from tiny import tiny_editable

from langedit.editing import Editor, optimise_targets, prepare_request
from langedit.editing.requests import merge_shared
from langedit.errors import ConfigError, NumericalError
from langedit.facts import Fact

CLOSED = ["langedit", "alphaedit", "memit", "memit-seq", "rect", "prune"]
SHARED = (
    Fact("en", "{} was born in", "Lily Müller", "Paris"),
    Fact("en", "The capital of {} is", "France", "Berlin"),
    Fact("en", "{} paints in", "Lily Müller", "Rome and Wien"),
    Fact("en", "{} paints in", "Anna", "Madrid"),
)


def editor(**changes: object) -> Editor:
    model = tiny_editable("llama")
    config = settings(**changes)
    return Editor(model, None, config, random_moments(model, (0, 1, 2)), PREFIXES)


# --- spread ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CLOSED)
def test_ends_edit_the_first_and_the_last_layer(method: str) -> None:
    edited = editor(method=method, layers=(0, 1, 2), spread="ends")
    same = editor(method=method, layers=(0, 2))
    middle = edited.model.read_weight(1)
    assert edited.apply(FACTS).updates.keys() == {0, 2}
    same.apply(FACTS)
    assert torch.equal(edited.model.read_weight(1), middle)
    for layer in (0, 2):
        assert torch.equal(edited.model.read_weight(layer), same.model.read_weight(layer))


def test_one_layer_is_both_ends() -> None:
    assert settings(layers=(1,), spread="ends").edited_layers == (1,)
    assert settings(layers=(0, 1, 2)).edited_layers == (0, 1, 2)


# --- stop_margin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_target_is_finished_when_it_leads_by_the_margin(margin: float) -> None:
    model = tiny_editable("llama")
    config = settings(
        value_steps=60,
        value_lr=0.3,
        norm_clamp=50.0,
        stop_loss=0.0,
        kl_weight=0.0,
        value_weight_decay=0.0,
    )
    facts = (Fact("en", "We met {}", "Peru", "P"), Fact("en", "We saw {}", "Anna", "is"))
    requests = [prepare_request(model, f, PREFIXES.of(f.language), config) for f in facts]
    found = optimise_targets(model, requests, config.replace(stop_margin=margin))
    longer = optimise_targets(model, requests, config)
    assert longer.steps.tolist() == [60, 60]  # control: without it all steps are taken
    assert max(found.steps.tolist()) < 60
    assert min(found.last.margin.tolist()) >= margin
    for i, steps in enumerate(found.steps.tolist()):
        earlier = config.replace(stop_margin=1e9, value_steps=steps - 1)
        before = optimise_targets(model, [requests[i]], earlier)
        assert float(before.last.margin[0]) < margin + 1e-4  # the step before was too early


def test_the_margin_is_the_lead_of_the_least_safe_token() -> None:
    model, config = tiny_editable("llama"), settings(value_steps=1, stop_margin=5.0)
    requests = [prepare_request(model, f, PREFIXES.of(f.language), config) for f in FACTS]
    found = optimise_targets(model, requests, config)
    for i, request in enumerate(requests):
        leads = []
        for prompt in request.prompts:
            ids = torch.tensor([[*prompt.ids, *request.target_ids]])
            logits = model.model(ids).logits[0, len(prompt.ids) - 1 : -1].double()
            for row, token in zip(logits, request.target_ids, strict=True):
                others = torch.cat([row[:token], row[token + 1 :]])
                leads.append(float(row[token] - others.max()))
        assert float(found.first.margin[i]) == pytest.approx(min(leads), abs=1e-4)


# --- merge_shared ---------------------------------------------------------------------------------


def shared_requests(model: object, config: object) -> list:
    return [prepare_request(model, f, PREFIXES.of(f.language), config) for f in SHARED]


def test_facts_with_the_same_contexts_become_one_row() -> None:
    model = tiny_editable("llama")
    requests = shared_requests(model, settings())
    merged, rows = merge_shared(requests)
    assert rows == (0, 1, 0, 2)
    assert [request.name for request in merged] == [requests[i].name for i in (0, 1, 3)]
    assert merged[0].members[1:] == (requests[2],)
    assert replace(merged[0], merged=()) == requests[0]
    assert merged[1].members == (requests[1],)


@pytest.mark.parametrize("method", [*CLOSED, "rome", "ft"])
def test_merged_facts_are_edited_and_reported(method: str) -> None:
    layers = (1,) if method in ("rome", "ft") else (0, 1)
    edited = editor(method=method, layers=layers, merge_shared=True)
    report = edited.apply(SHARED)
    assert report.rows == (0, 1, 0, 2)
    assert len(edited.layer_states[1].history) == 3
    figures = report.to_dict()["facts"]
    assert [figure["target"] for figure in figures] == [fact.target for fact in SHARED]
    if report.targets is not None:
        assert len(report.targets.target_hidden) == 3
        assert figures[0]["loss"] == figures[2]["loss"]
    again = edited.apply(FACTS[:1])
    assert {code: change.keys for code, change in again.independence[1].items()} == {"en": 3}
    edited.undo()
    edited.apply(SHARED[:1])


def test_a_common_target_minimises_the_mean_of_both_losses() -> None:
    """The joint optimisation against a plain one: torch's Adam on the mean of the two losses."""
    model = tiny_editable("llama")
    config = settings(layers=(1,), value_steps=8, kl_weight=0.0, value_weight_decay=0.0)
    requests = shared_requests(model, config)
    (joint,) = merge_shared([requests[0], requests[2]])[0]
    found = optimise_targets(model, [joint], config)
    first, second = (optimise_targets(model, [requests[i]], config) for i in (0, 2))
    mean = (first.first.nll + second.first.nll) / 2
    assert torch.allclose(found.first.nll, mean, rtol=1e-5)
    assert torch.allclose(found.initial_hidden, first.initial_hidden, atol=1e-5)
    # the gradient at 0 is the mean of the gradients, so one step is Adam's on their sum
    short = config.replace(value_steps=2, norm_clamp=100.0)
    delta = [
        (t.target_hidden - t.initial_hidden)[0]
        for t in (optimise_targets(model, [r], short) for r in (joint, requests[0], requests[2]))
    ]
    agree = delta[1].sign() == delta[2].sign()
    assert bool(agree.any())
    assert torch.allclose(delta[0][agree], delta[1][agree], atol=1e-4)


def test_merging_does_not_let_facts_fight() -> None:
    """Two rows of one key get the mean of two targets; one row gets a target that serves both."""
    facts, nll = (SHARED[0], SHARED[2]), {}
    for merge in (False, True):
        edited = editor(
            method="memit",
            layers=(1,),
            merge_shared=merge,
            moment_weight=0.001,
            value_lr=0.3,
            value_steps=30,
            norm_clamp=10.0,
        )
        edited.apply(facts)
        check = settings(layers=(1,), value_steps=1)
        requests = [prepare_request(edited.model, f, PREFIXES.of("en"), check) for f in facts]
        nll[merge] = float(optimise_targets(edited.model, requests, check).first.nll.mean())
    assert nll[True] < nll[False]


def test_given_targets_have_one_row_for_merged_facts() -> None:
    edited = editor(merge_shared=True)
    with pytest.raises(NumericalError, match=r"\(3, 32\), got shape \(4, 32\)"):
        edited.apply(SHARED, target_hidden=torch.zeros(4, 32))


def test_without_shared_contexts_merging_changes_nothing() -> None:
    one, other = editor(), editor(merge_shared=True)
    facts = [replace(fact) for fact in FACTS]
    one.apply(facts)
    other.apply(facts)
    assert torch.equal(one.model.read_weight(1), other.model.read_weight(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spread": "first"}, "spread"),
        ({"stop_margin": -1.0}, "stop_margin"),
        ({"merge_shared": "perhaps"}, "merge_shared"),
        ({"rect_share": 1.0}, "rect_share"),
        ({"ft_steps": 0}, "ft_steps"),
        ({"ft_lr": 0.0}, "ft_lr"),
        ({"ft_change_limit": 0.0}, "ft_change_limit"),
        ({"ft_stop_loss": -1.0}, "ft_stop_loss"),
    ],
)
def test_wrong_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
