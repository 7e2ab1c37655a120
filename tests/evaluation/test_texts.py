"""Generation in batches against one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, tiny_editable

from langedit.errors import LangEditError
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
    most = 0
    with pytest.raises(LangEditError, match="expected room for one text"):
        forced_answers(model, items)
