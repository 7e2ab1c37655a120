"""Generation in batches against one prompt at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny import FAMILIES, tiny_editable

from langedit.editing import generate_prefixes
from langedit.errors import LangEditError, NumericalError, TokenError
from langedit.evaluation import continue_greedily, forced_answers, perplexity


def by_hand(model, prompt, count):
    """Greedy ids with a full pass for every token."""
    ends = model.model.generation_config.eos_token_id
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            token = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == ends:
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_one_prompt_at_a_time(family):
    model = tiny_editable(family)
    prompts = [(30, 31, 32), (50,), (60, 61, 62, 63, 64, 65, 66), (50,)]
    counts = [4, 6, 2, 3]
    expected = [by_hand(model, p, n) for p, n in zip(prompts, counts, strict=True)]
    for batch_tokens in (1, 8192):
        found = continue_greedily(model, prompts, counts, batch_tokens=batch_tokens)
        assert [own.ids for own in found] == expected
        assert found[0].text == model.tokenizer.decode(list(expected[0]), skip_special_tokens=True)


def test_the_models_own_generation_settings_do_not_matter():
    model = tiny_editable("llama")
    plain = continue_greedily(model, [(30, 31)], [8])
    model.model.generation_config.update(
        repetition_penalty=5.0, do_sample=True, temperature=3.0, no_repeat_ngram_size=1
    )
    assert continue_greedily(model, [(30, 31)], [8]) == plain


def test_text_ends_at_the_end_token():
    model = tiny_editable("llama")
    (free,) = continue_greedily(model, [(30, 31)], [8])
    model.model.generation_config.eos_token_id = free.ids[2]
    (cut,) = continue_greedily(model, [(30, 31)], [8])
    assert cut.ids == free.ids[: free.ids.index(free.ids[2])]


def test_out_of_memory_halves_batches_and_changes_nothing(monkeypatch):
    model = tiny_editable("llama")
    items = [((30, 31, 32), (40,)), ((50,), (41, 42)), ((60, 61), (43,))]
    prompts, texts = (
        [prompt for prompt, _ in items],
        ["Paris is in", "The water is in Peru", "Anna"],
    )

    def measured():
        return (
            forced_answers(model, items),
            continue_greedily(model, prompts, [3, 3, 3]),
            perplexity(model, texts),
        )

    answers, continuations, before = measured()
    module, forward = model.model.model, model.model.model.forward
    most, seen = 1, []

    def small(*args, **kwargs):
        seen.append(len(kwargs["input_ids"]))
        if seen[-1] > most:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", small)
    found, continued, after = measured()
    assert max(seen) > 1
    assert [own.predicted for own in found] == [own.predicted for own in answers]
    for own, expected in zip(found, answers, strict=True):
        assert own.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-5)
    assert continued == continuations
    assert after == pytest.approx(before, rel=1e-5)
    seen.clear()
    assert measured()[1] == continuations
    assert max(seen) == 1  # what did not fit is not tried again
    most = 0
    with pytest.raises(LangEditError, match="expected room for one text"):
        forced_answers(model, items)


@contextmanager
def few_logits(model, most) -> Iterator[list[int]]:
    """Logits of more tokens than these run out of memory; the numbers of tokens asked for."""
    seen = []

    def check(_module, args):
        seen.append(args[0].shape[0] * args[0].shape[1])
        if seen[-1] > most:
            raise torch.OutOfMemoryError("out of memory")

    head = model.model.get_submodule(model.structure.head)

    def put_last(_module, _args):  # behind the hook that gathers tokens
        for handle in handles:
            handle.remove()
        handles[:] = [head.register_forward_pre_hook(check)]

    handles = []
    before = model.model.register_forward_pre_hook(put_last)
    try:
        yield seen
    finally:
        for handle in [before, *handles]:
            handle.remove()


def test_the_logits_of_one_text_are_computed_in_parts():
    model = tiny_editable("llama")
    texts = ["The water is in Peru and the mother of Anna is in the capital of France", "Anna"]
    expected = perplexity(model, texts)
    with few_logits(model, 4) as seen:
        assert perplexity(model, texts) == pytest.approx(expected, rel=1e-5)
        assert sum(seen) > 30
        failed = sum(tokens > 4 for tokens in seen)
        assert failed > 1
        seen.clear()
        assert perplexity(model, texts) == pytest.approx(expected, rel=1e-5)
        assert max(seen) <= 4
    with (
        few_logits(model, 0),
        pytest.raises(LangEditError, match="expected room for one text"),
    ):
        perplexity(model, texts)


def test_the_answers_after_one_text_are_asked_in_parts():
    model = tiny_editable("llama")
    row = tuple(range(30, 50))
    items = [(row[:at], row[at : at + 2]) for at in range(1, 19, 3)]
    expected = forced_answers(model, items)
    with few_logits(model, 3) as seen:
        found = forced_answers(model, items)
        assert max(seen) > 3
        assert [own.predicted for own in found] == [own.predicted for own in expected]
        for own, other in zip(found, expected, strict=True):
            assert own.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)
        seen.clear()
        forced_answers(model, items)
        assert max(seen) <= 3
    with few_logits(model, 1), pytest.raises(LangEditError, match="one text with one answer"):
        forced_answers(model, items)


@contextmanager
def logit(model, value, token=7) -> Iterator[None]:
    """One token of the vocabulary always has this logit."""
    head = model.model.get_submodule(model.structure.head)

    def put(_module, _args, output):
        changed = output.clone()
        changed[..., token] = value
        return changed

    handle = head.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


TEXTS = ["The water is in Peru", "Paris is in", "Anna"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused_wherever_the_model_is_asked(value):
    """One of them, of a token that nobody asks for, would be the most probable one, or none."""
    model = tiny_editable("llama")
    item = ((30, 31, 32), (40, 41))
    with logit(model, value):
        for ask in (
            lambda: forced_answers(model, [item]),
            lambda: continue_greedily(model, [item[0]], [2]),
            lambda: perplexity(model, TEXTS),
            lambda: generate_prefixes(model, ["en"]),
        ):
            with pytest.raises(NumericalError, match=r"not finite.*torch.float32"):
                ask()
    assert math.isfinite(perplexity(model, TEXTS))


def test_an_answer_that_is_impossible_is_refused_and_one_beside_it_is_not():
    model = tiny_editable("llama")
    with logit(model, -math.inf):
        with pytest.raises(NumericalError, match=r"probabilities of .* after .*not finite"):
            forced_answers(model, [((30, 31), (7,))])
        (said,) = forced_answers(model, [((30, 31), (40,))])
        assert math.isfinite(said.log_probabilities[0])


def test_a_text_without_probabilities_is_named():
    model = tiny_editable("llama")
    others = {i for text in TEXTS[1:] for i in model.tokenizer(text)["input_ids"]}
    (token, *_) = [i for i in model.tokenizer(TEXTS[0])["input_ids"] if i not in others]
    model.model.get_input_embeddings().weight.data[token] = math.nan
    with pytest.raises(NumericalError, match="probabilities of the text 'The water is in Peru'"):
        perplexity(model, TEXTS)
    assert math.isfinite(perplexity(model, TEXTS[1:]))


def test_a_perplexity_beyond_all_numbers_is_infinite():
    model = tiny_editable("llama")
    model.model.lm_head.weight.data.mul_(1e4)
    assert perplexity(model, TEXTS) == math.inf


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_continuations_end_with_the_context(family):
    model = tiny_editable(family)
    assert model.context == 256
    long, short = tuple(range(3, 253)), (50,)
    found = continue_greedily(model, [long, short, long[:200]], [20, 20, 20])
    assert [len(own.ids) for own in found] == [7, 20, 20]
    for prompt, own in zip((long, short, long[:200]), found, strict=True):
        assert own.ids == by_hand(model, prompt, len(own.ids))
    with pytest.raises(TokenError, match=r"expected at most 256 tokens, the context .* got 257"):
        continue_greedily(model, [tuple(range(257))], [1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_end_with_the_context(family):
    model = tiny_editable(family)
    prompt = tuple(range(3, 253))
    (said,) = forced_answers(model, [(prompt, (5,) * 7)])  # the last token is not read
    assert len(said.predicted) == 7
    with pytest.raises(TokenError, match=r"expected at most 256 tokens.*got 257 of"):
        forced_answers(model, [(prompt, (5,) * 8)])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_texts_are_cut_at_the_context(family):
    model = tiny_editable(family)
    assert perplexity(model, [" is" * 400]) == perplexity(model, [" is" * 256])
    assert perplexity(model, [" is" * 400]) != perplexity(model, [" is" * 200])
