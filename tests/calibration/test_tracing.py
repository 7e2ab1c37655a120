"""Tracing: theorems about what restoring can and cannot do, controls, and a naive oracle."""

from __future__ import annotations

import math

import pytest
import torch
from scarce import failures, scarce
from tiny import tiny_editable
from torch import Tensor

from langedit.calibration.effects import ROLES, average_effects, known_facts, role_places
from langedit.calibration.tracing import SITES, Traces, embedding_deviation, trace
from langedit.errors import LangEditError, NumericalError
from langedit.facts import Fact
from langedit.models import encode_prompt
from langedit.models.hooks import hidden_of

TEXTS = [
    ("The capital of {} is the city of", "Germany"),
    ("Die Hauptstadt von {} heißt", "Österreich"),
    ("{}的首都是", "法国"),
    ("Who comes from {}", "Vienna"),
]
NOISE, DRAWS = 2.0, 2


def prompts_of(model, texts=TEXTS):
    found = []
    for template, subject in texts:
        at = template.index("{}")
        text = template.replace("{}", subject)
        found.append(encode_prompt(model.tokenizer, text, (at, at + len(subject))))
    return found


def traced(model, prompts, places, *, noise=NOISE, draws=DRAWS, max_tokens=8192):
    answers = [7 + i for i in range(len(prompts))]
    return trace(
        model, prompts, answers, places, noise=noise, draws=draws, seed=3, max_tokens=max_tokens
    )


def every_token(prompts):
    return [[range(len(prompt.ids))] for prompt in prompts]


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "opt"])
def test_all_tokens_of_any_layer_give_the_clean_answer_and_none_the_corrupted(family):
    model = tiny_editable(family)
    prompts = prompts_of(model)
    places = [[range(len(prompt.ids)), ()] for prompt in prompts]
    found = traced(model, prompts, places)
    assert float((found.clean - found.corrupted).abs().max()) > 1e-4  # the noise does something
    for layer in range(3):
        restored = found.restored["hidden"][:, layer, 0]
        assert torch.allclose(restored, found.clean, rtol=1e-4, atol=1e-7)
    assert all(bool(found.restored[site][:, :, 1].isnan().all()) for site in SITES)


def test_tokens_before_the_subject_give_nothing_back():
    """A causal model has the clean states there anyway."""
    model = tiny_editable()
    prompts = prompts_of(model)[:2]
    found = traced(model, prompts, [[range(prompt.subject_start)] for prompt in prompts])
    for site in SITES:
        same = found.corrupted[:, None].expand(-1, 3)
        assert torch.allclose(found.restored[site][:, :, 0], same, rtol=1e-4, atol=1e-7)


def test_nothing_follows_the_last_layer_but_from_its_last_token():
    model = tiny_editable()
    prompts = prompts_of(model)[:2]  # others end with the subject
    last = [[range(p.lookup + 1), (len(p.ids) - 1,)] for p in prompts]
    found = traced(model, prompts, last)
    for site in SITES:
        assert torch.allclose(found.restored[site][:, 2, 0], found.corrupted, rtol=1e-4, atol=1e-7)
    assert torch.allclose(found.restored["hidden"][:, 2, 1], found.clean, rtol=1e-4, atol=1e-7)
    lower = found.restored["hidden"][:, 0, 0] - found.corrupted
    assert float(lower.abs().max()) > 1e-4


def test_without_noise_there_is_no_effect():
    model = tiny_editable()
    prompts = prompts_of(model)
    found = traced(model, prompts, [role_places(prompt) for prompt in prompts], noise=0.0)
    assert torch.allclose(found.corrupted, found.clean, rtol=1e-4, atol=1e-7)
    (effect,) = [average_effects(found, range(4), 4)]
    assert effect.total == pytest.approx(0.0, abs=1e-6)
    assert all(float(effect.indirect[site].nan_to_num().abs().max()) < 1e-5 for site in SITES)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_one_pass_at_a_time_gives_the_same(family):
    model = tiny_editable(family)
    prompts = prompts_of(model)
    places = [role_places(prompt) for prompt in prompts]
    found = traced(model, prompts, places, max_tokens=60)
    assert torch.allclose(
        traced(model, prompts, places).restored["mlp"],
        found.restored["mlp"], rtol=1e-4, atol=1e-7, equal_nan=True,
    )  # fmt: skip
    for i, prompt in enumerate(prompts):
        answer = 7 + i
        assert float(found.clean[i]) == pytest.approx(naive(model, prompt, answer), rel=1e-4)
        for site in SITES:
            for layer in range(3):
                for role, own in enumerate(places[i]):
                    value = float(found.restored[site][i, layer, role])
                    if not own:
                        assert math.isnan(value)
                        continue
                    each = [
                        naive(model, prompt, answer, draw=draw, put_back=(site, layer, own))
                        for draw in range(DRAWS)
                    ]
                    assert value == pytest.approx(sum(each) / DRAWS, rel=1e-3, abs=1e-7)


def naive(model, prompt, answer, *, draw=None, put_back=None) -> float:
    """The answer's probability from whole single passes with plain hooks."""
    handles, clean = [], {}
    ids = torch.tensor([prompt.ids])

    def module(site, layer):
        return model.layer(layer) if site == "hidden" else model.projection(layer)

    if put_back is not None:
        site, layer, _ = put_back
        keep = module(site, layer).register_forward_hook(
            lambda _m, _a, out: clean.update(state=hidden_of(out).clone())
        )
        model.model(input_ids=ids)
        keep.remove()
    if draw is not None:
        handles.append(
            model.model.get_input_embeddings().register_forward_hook(
                lambda _m, _a, out: out + noise_of(prompt, draw, out)
            )
        )
    if put_back is not None:
        site, layer, positions = put_back

        def restore(_module, _args, out):
            hidden = hidden_of(out).clone()
            for position in positions:
                hidden[0, position] = clean["state"][0, position]
            return hidden if isinstance(out, Tensor) else (hidden, *out[1:])

        handles.append(module(site, layer).register_forward_hook(restore))
    logits = model.model(input_ids=ids).logits[0, -1].double()
    for handle in handles:
        handle.remove()
    return float(logits.softmax(dim=0)[answer])


def noise_of(prompt, draw: int, hidden: Tensor) -> Tensor:
    """The very noise of the package: it is part of what the seed means."""
    from langedit.calibration.tracing import _stream

    added = torch.zeros_like(hidden)
    size = (prompt.lookup + 1 - prompt.subject_start, hidden.shape[-1])
    own = NOISE * torch.randn(size, generator=_stream(prompt, draw, 3))
    added[0, prompt.subject_start : prompt.lookup + 1] = own
    return added


def test_nothing_of_the_model_stays_changed():
    model = tiny_editable()
    prompts = prompts_of(model)
    before = [naive(model, prompt, 7) for prompt in prompts]
    traced(model, prompts, every_token(prompts))
    assert [naive(model, prompt, 7) for prompt in prompts] == before


def test_the_roles_are_a_partition_of_the_subject_and_what_follows():
    model = tiny_editable()
    for prompt in prompts_of(model):
        places = role_places(prompt)
        assert len(places) == len(ROLES)
        tokens = [token for own in places for token in own]
        assert sorted(tokens) == list(range(prompt.subject_start, len(prompt.ids)))
    de = prompts_of(model)[1]
    assert role_places(de)[2] == (de.lookup,)
    for ends in prompts_of(model)[2:]:  # the tokenizer's last token of the Chinese text has 国
        assert ends.lookup == len(ends.ids) - 1
        assert role_places(ends)[2:] == ((), (), (ends.lookup,))


def test_prompts_that_end_with_their_subject_do_not_move_the_peak():
    """Late layers write the answer at the last token, wherever the subject is recalled."""
    prompts = prompts_of(tiny_editable())
    restored = torch.full((4, 3, len(ROLES)), math.nan)
    for i, prompt in enumerate(prompts):
        for role, own in enumerate(role_places(prompt)):
            if own and role == 4:
                restored[i, :, role] = torch.tensor([0.0, 0.0, 0.9])
            elif own:
                restored[i, :, role] = torch.tensor([0.1, 0.3, 0.1])
    traces = Traces(
        clean=torch.ones(4), corrupted=torch.zeros(4), restored=dict.fromkeys(SITES, restored)
    )
    effects = average_effects(traces, range(4), 4)
    assert effects.peak == 1
    assert effects.indirect["mlp"][1, 2] == pytest.approx(0.3)  # of the two others alone
    assert average_effects(traces, [3], 1).peak is None


def test_the_noise_has_the_size_of_the_subjects_embeddings():
    model = tiny_editable()
    prompts = prompts_of(model)
    table = model.model.get_input_embeddings().weight
    rows = [table[t] for p in prompts for t in p.ids[p.subject_start : p.lookup + 1]]
    assert embedding_deviation(model, prompts) == pytest.approx(float(torch.stack(rows).std()))


def test_a_fact_is_known_when_its_old_answer_is_the_confident_one(monkeypatch):
    monkeypatch.setattr("langedit.calibration.effects.CONFIDENCE", 0.0)
    model = tiny_editable()
    fact = Fact("en", "The capital of {} is", "France", "Rome")
    (known,) = known_facts(model, [fact])
    text = model.tokenizer.decode([known.answer])
    assert 0 < known.probability < 1
    wrong = Fact("en", fact.prompt, fact.subject, fact.target, old="x" if "x" not in text else "y")
    assert known_facts(model, [wrong]) == []
    monkeypatch.setattr("langedit.calibration.effects.CONFIDENCE", 1.0)
    assert known_facts(model, [fact]) == []


def spoiled(model):
    """The model overflows at one token only, which the second prompt has."""
    with torch.no_grad():
        prompt = prompts_of(model)[1]
        model.model.get_input_embeddings().weight[prompt.ids[-1]] = math.inf
    return model


def test_a_prompt_without_probabilities_is_named_and_not_averaged():
    model = spoiled(tiny_editable())
    prompts = prompts_of(model)[:2]
    with pytest.raises(
        NumericalError,
        match=r"^tracing, with the subject as it is: .*next token after 'Die Hauptstadt von Öster",
    ):
        traced(model, prompts, every_token(prompts))
    facts = [Fact("de", template, subject, "x") for template, subject in TEXTS[:2]]
    with pytest.raises(NumericalError, match=r"next token after 'Die Hauptstadt von Österreich"):
        known_facts(model, facts)


@pytest.mark.parametrize(
    ("passes", "place"),
    [
        (0, "with the subject as it is"),
        (1, "with a corrupted subject"),
        (2, "layer 0, with the MLP's output of the unchanged subject"),
        (3, "layer 0, with the hidden state of the unchanged subject"),
        (6, "layer 2, with the MLP's output of the unchanged subject"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_pass_that_gives_no_probabilities_is_named(passes, place, value):
    model = tiny_editable()
    prompts = prompts_of(model)[:2]
    assert model.behaviour.packs  # found out now, or its passes would count
    done = []

    def spoil(_module, _args, output):
        done.append(output)
        return output.index_fill(-1, torch.tensor([5]), value) if len(done) > passes else None

    handle = model.model.lm_head.register_forward_hook(spoil)
    with pytest.raises(NumericalError, match=f"^tracing, {place}: .* after 'Die Haupt"):
        traced(model, prompts, every_token(prompts))
    handle.remove()
    assert not any(module._forward_hooks for module in model.model.modules())
    assert bool(traced(model, prompts, every_token(prompts)).restored["mlp"].isfinite().all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_weight_that_is_not_finite_is_not_a_model_that_knows_nothing(layer, value):
    model = tiny_editable()
    model.projection(layer).weight.data[3, 4] = value
    facts = [Fact("en", template, subject, "x") for template, subject in TEXTS[:2]]
    with pytest.raises(NumericalError, match="next token after 'Die Hauptstadt"):
        known_facts(model, facts)


def test_where_memory_runs_out_prompts_and_sets_are_divided():
    model = tiny_editable("llama")
    prompts = prompts_of(model)
    places = [list(role_places(prompt)) for prompt in prompts]
    expected = traced(model, prompts, places)
    room = DRAWS * max(len(prompt.ids) for prompt in prompts)
    head = model.model.lm_head
    with scarce(head, room) as seen:
        for _ in range(2):
            found = traced(model, prompts, places)
            failed = failures(seen, room)
            assert torch.allclose(found.clean, expected.clean, rtol=1e-4)
            assert torch.allclose(found.corrupted, expected.corrupted, rtol=1e-4)
            for site in SITES:
                torch.testing.assert_close(
                    found.restored[site],
                    expected.restored[site],
                    rtol=1e-3,
                    atol=1e-6,
                    equal_nan=True,
                )
        assert failures(seen, room) == failed > 2  # none in the second round
    with scarce(head, 1), pytest.raises(LangEditError, match="one prompt with 2 draws"):
        traced(model, prompts, places)


def test_known_facts_are_asked_for_in_halves():
    model = tiny_editable("llama")
    facts = [Fact("en", template, subject, "x") for template, subject in TEXTS]
    room = max(len(prompt.ids) for prompt in prompts_of(model))
    with scarce(model.model.lm_head, room) as seen:
        known_facts(model, facts)
        failed = failures(seen, room)
        known_facts(model, facts)
    assert failures(seen, room) == failed > 0
