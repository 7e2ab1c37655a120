"""Long targets, tiny and huge subjects, prompts of thousands of tokens: the same numbers as naive.

The oracle runs the whole model on each text alone, without padding, caching or cutting.
"""

from __future__ import annotations

import pytest
import torch
from edits import PREFIXES, random_moments, settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles_targets import hidden_at, naive_target
from tiny import SENTENCES, tiny_editable, tiny_tokenizer

from langedit.editing import Editor, compute_keys, optimise_targets, prepare_request
from langedit.editing.prefix_cache import PrefixCache
from langedit.editing.targets import target_groups
from langedit.errors import TokenError
from langedit.evaluation import encode_answer, forced_answers, score_facts
from langedit.facts import Fact
from langedit.models import Recorder, encode_continuation, encode_text

LONG_TARGET = "3,141.59 km² on 2024-07-26. It was moved: Berlin, 法国的首都是 and Москва! Sí"
SUBJECT_30 = "Österreich, 法国的首都 and the painter Lily Müller from"
LONG_PROMPT = " ".join(SENTENCES[:6] * 11) + " The capital of {} is"

CASES = {
    "64 tokens of target": Fact("en", "The capital of {} is", "France", LONG_TARGET),
    "several sentences": Fact(
        "en", "Who is {}?", "Lily Müller", "She is a painter. She is from Vienna. Born 1.2.1934."
    ),
    "mixed scripts": Fact("zh", "{}的首都是", "法国", "Paris（巴黎）— Париж 2024年"),
    "digits": Fact("en", "{} has", "Peru", "33 715 471"),
    "subject of one byte": Fact("en", "The letter {} stands for", "X", "Wien"),
    "subject of one byte at the start": Fact("en", "{}", "x", "Wien"),
    "subject of 30 tokens": Fact("en", "The city {} is in", SUBJECT_30, "Paris"),
    "prompt of 2,000 tokens": Fact("en", LONG_PROMPT, "Peru", "Lima"),
    "long in every way": Fact("en", LONG_PROMPT, SUBJECT_30, LONG_TARGET),
}
ROOM = {"max_position_embeddings": 2304}


def editable(family: str = "llama"):
    return tiny_editable(family, **({"n_positions": 2304} if family == "gpt2" else ROOM))


def test_the_cases_are_what_they_are_called():
    model, config = editable(), settings()
    sizes = {name: prepare_request(model, fact, (), config) for name, fact in CASES.items()}
    assert 56 <= len(sizes["64 tokens of target"].target_ids) <= 64
    subject = sizes["subject of 30 tokens"].prompts[0]
    assert 28 <= subject.lookup + 1 - subject.subject_start <= 34
    byte = sizes["subject of one byte at the start"].prompts[0]
    assert (byte.subject_start, byte.lookup, len(byte.ids)) == (0, 0, 1)
    assert 1900 <= len(sizes["prompt of 2,000 tokens"].prompts[0].ids) <= 2200


@pytest.mark.parametrize("name", CASES)
def test_keys_targets_and_scores_are_those_of_the_whole_text(name):
    check_against_naive(editable(), CASES[name])


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_long_texts_in_other_families(family):
    """Learned positions; a sliding window of 64 tokens, much shorter than the prompt."""
    check_against_naive(editable(family), CASES["long in every way"])


def check_against_naive(model, fact):
    config = settings(value_steps=3, layers=(1,), kl_weight=0.1)
    prefixes = PREFIXES.of(fact.language)[:1] if len(fact.text) < 200 else ()  # to save time
    request = prepare_request(model, fact, prefixes, config)
    expected = naive_target(model, request, config)
    found = optimise_targets(model, [request], config)
    torch.testing.assert_close(found.target_hidden[0], expected.target, rtol=2e-4, atol=2e-4)
    assert float(found.last.nll[0]) == pytest.approx(expected.losses[-1][1], abs=2e-4)
    bare = request.prompts[0]
    hidden = hidden_at(model, bare.ids, bare.lookup, model.layer_name(1))
    torch.testing.assert_close(found.initial_hidden[0], hidden, rtol=1e-4, atol=1e-4)
    projection = model.projection_name(1)
    with torch.no_grad(), Recorder(model.model, inputs=[projection]) as recorder:
        model.model(input_ids=torch.tensor([bare.ids]), use_cache=False)
    key = recorder.inputs[projection].reshape(len(bare.ids), -1)[bare.lookup]
    own = compute_keys(model, [[bare]], [1])[1][0]
    torch.testing.assert_close(own, key, rtol=1e-4, atol=1e-4)
    item = encode_answer(model, fact.language, fact.text, fact.target)
    assert item == (bare.ids, request.target_ids)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([[*item[0], *item[1]]])).logits[0]
    best = logits[len(item[0]) - 1 : -1].argmax(dim=-1).tolist()
    assert list(forced_answers(model, [item])[0].predicted) == best


def test_awkward_facts_of_one_batch_do_not_influence_each_other():
    model, config = editable(), settings(value_steps=3)
    requests = [
        prepare_request(model, CASES[name], (), config)
        for name in ("prompt of 2,000 tokens", "subject of one byte at the start", "digits")
    ]
    together = optimise_targets(model, requests, config).target_hidden
    apart = [optimise_targets(model, [request], config).target_hidden for request in requests]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "falcon"])  # suffixes in one row, and padded
def test_a_long_prompt_makes_the_kept_prefixes_of_other_facts_no_longer(family, monkeypatch):
    model, config = editable(family), settings(value_steps=1, layers=(1,), kl_weight=0.1)
    ordinary = [Fact("en", "The capital of {} is", f"{i}", "Wien") for i in range(40)]
    facts = [*ordinary, CASES["prompt of 2,000 tokens"]]
    requests = [prepare_request(model, fact, PREFIXES.of("en"), config) for fact in facts]
    kept = []
    compute = PrefixCache.compute

    def noted(*arguments):
        cache = compute(*arguments)
        rows, _, length, _ = cache.layers[0][0].shape
        kept.append(rows * length)
        return cache

    monkeypatch.setattr(PrefixCache, "compute", noted)
    optimise_targets(model, requests, config)
    needed = sum(prompt.lookup for own in requests for prompt in (*own.prompts, own.kl_prompt))
    assert sum(kept) < 2 * needed


def test_groups_bound_what_is_run_and_what_is_kept():
    model, config = editable(), settings(micro_batch_tokens=600)
    requests = [
        prepare_request(model, fact, PREFIXES.of(fact.language), config) for fact in CASES.values()
    ]
    groups = target_groups(requests, config)
    assert sorted(i for group in groups for i in group) == list(range(len(requests)))
    shared = [group for group in groups if len(group) > 1]
    assert shared
    for group in shared:
        own = [requests[i] for i in group]
        rows = sum(1 + len(one.prompts) for one in own)
        prompts = [(p, len(one.target_ids)) for one in own for p in one.prompts]
        assert rows * max(len(p.ids) - p.lookup + size - 1 for p, size in prompts) <= 600
        assert rows * max(p.lookup for p, _ in prompts) <= 8 * 600


def test_a_batch_of_awkward_facts_can_be_edited_and_undone():
    model = editable()
    before = model.read_weight(1)
    editor = Editor(model, None, settings(value_steps=3), random_moments(model), PREFIXES)
    facts = [fact for fact in CASES.values() if fact.prompt != LONG_PROMPT]
    report = editor.apply(facts)
    assert len(report.facts) == len(score_facts(model, report.facts)) == len(facts)
    assert not torch.equal(model.read_weight(1), before)
    editor.undo()
    assert torch.equal(model.read_weight(1), before)


def test_the_longest_and_ordinary_facts_are_edited_together_and_take():
    model = editable()
    strong = settings(method="memit", value_lr=0.5, value_steps=20, moment_weight=0.01)
    editor = Editor(model, None, strong, random_moments(model), PREFIXES)
    facts = [CASES[name] for name in ("long in every way", "digits", "mixed scripts")]
    items = [encode_answer(model, f.language, f.text, f.target) for f in facts]
    before, weight = forced_answers(model, items), model.read_weight(1)
    report = editor.apply(facts)
    assert len(report.keys[1]) == 3
    after = forced_answers(model, items)
    gains = [
        sum(now.log_probabilities) - sum(was.log_probabilities)
        for was, now in zip(before, after, strict=True)
    ]
    assert gains[0] > 0.2 * len(items[0][1])  # nats a token of the longest target
    assert sum(gains) > gains[0]  # and the ordinary ones take, too
    editor.undo()
    assert torch.equal(model.read_weight(1), weight)


def test_a_fact_that_is_longer_than_the_context_is_named():
    model = tiny_editable()  # 256 positions
    with pytest.raises(TokenError, match=r"too-long: expected at most 256 tokens.*shorten"):
        prepare_request(model, Fact("en", LONG_PROMPT, "X", "y", id="too-long"), (), settings())
    with pytest.raises(TokenError) as error:
        prepare_request(model, Fact("en", LONG_PROMPT, "X", "y"), (), settings())
    assert str(error.value).startswith("en: The capital of France")
    assert "The capital of X is -> y: expected" in str(error.value)
    assert len(str(error.value)) < 300


# --- any target: the ids are those of the text ----------------------------------------------------

PIECES = st.sampled_from(
    [
        "Paris", "1", "2024-07-26", "3,141.59", "12.5 %", "法国", "東京", "Москва", "ประเทศ", "é",
        "a. B", "!", "“", "km²", "🙂", "0", "x\u0301", "-", "(", ")", "L'", "A", "…", "\u200d", "ß",
    ]
)  # fmt: skip
KINDS = ("byte_bpe", "byte_bpe_prefix_space", "metaspace_bpe")
TOKENIZERS = {kind: tiny_tokenizer(kind, bos=True) for kind in KINDS}


@hypothesis_settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    pieces=st.lists(PIECES, min_size=1, max_size=20),
    glue=st.sampled_from([" ", "", " – ", "。"]),
    prompt=st.sampled_from(["The capital is", "首都是", "x", "It is 19", "Wer ist"]),
)
def test_targets_keep_their_text_whatever_is_in_them(kind, pieces, glue, prompt):
    tokenizer = TOKENIZERS[kind]
    target = " " + glue.join(pieces)
    ids = encode_continuation(tokenizer, prompt, target)
    assert not set(ids) & set(tokenizer.all_special_ids)
    head = encode_text(tokenizer, prompt)
    spelled = tokenizer.decode([*head, *ids], skip_special_tokens=True)
    whole = tokenizer(prompt + target)["input_ids"]
    assert spelled == tokenizer.decode(whole, skip_special_tokens=True)
