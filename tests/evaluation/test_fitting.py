"""Texts that a model cannot be asked are found, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edits import PREFIXES, random_moments, settings
from tiny import tiny_editable

from langedit.editing import Editor, generate_prefixes, prepare_request
from langedit.errors import TokenError
from langedit.evaluation import score_facts
from langedit.evaluation.fitting import misfits
from langedit.facts import Fact, Probe

LIMIT = 256
FACT = Fact(
    "en", "The capital of {} is", "Peru", "Rome",
    paraphrases=("{} has its capital in",),
    neighbourhood=(Probe("The capital of Spain is", "Madrid"),),
)  # fmt: skip


def fields(model, fact, prefixes=PREFIXES, **changes) -> list[str]:
    return [own.field for own in misfits(model, [FACT, fact], settings(**changes), prefixes)]


def words(count: int) -> str:
    """So many tokens, each a word, with a blank in front of each."""
    return " is" * count


def filled(model, tokens: int) -> Fact:
    """A fact whose prompt and target are so many tokens."""
    own = prepare_request(model, replace(FACT, prompt="is{} is"), (), settings())
    missing = tokens - len(own.prompts[0].ids) - len(own.target_ids)
    fact = replace(FACT, prompt=f"is{words(missing)}{{}} is")
    own = prepare_request(model, fact, (), settings())
    assert len(own.prompts[0].ids) + len(own.target_ids) == tokens
    return fact


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_longest_that_fits_can_be_edited_and_one_token_more_is_named(family):
    model = tiny_editable(family)
    own = prepare_request(model, filled(model, 100), PREFIXES.of("en"), settings())
    prefix = max(len(prompt.ids) for prompt in own.prompts) - len(own.prompts[0].ids)
    assert prefix > 3
    fits, longer = filled(model, LIMIT - prefix), filled(model, LIMIT - prefix + 1)
    assert fields(model, fits) == []
    (found,) = misfits(model, [FACT, longer], settings(), PREFIXES)
    assert (found.fact, found.field) == (1, "prompt")
    assert found.reason.startswith(f"expected at most {LIMIT} tokens, the context of the model")
    assert f"got {LIMIT + 1}: " in found.reason
    assert f"{prefix} of a context prefix" in found.reason
    editor = Editor(model, None, settings(value_steps=2), random_moments(model), PREFIXES)
    with pytest.raises(TokenError, match=f"expected at most {LIMIT} tokens"):
        editor.apply([longer])
    assert len(editor.apply([FACT, fits]).facts) == len(score_facts(model, [FACT, fits]))


def test_room_is_kept_for_prefixes_that_the_model_will_write():
    model = tiny_editable()
    config = settings(prefix_count=5, prefix_length=10)
    written = generate_prefixes(model, ["en"], count=5, length=10, seed=3)
    longest = max(len(model.tokenizer(text)["input_ids"]) for text in written.of("en"))
    fact = filled(model, LIMIT - longest)
    assert [own.field for own in misfits(model, [fact], config, written)] == []
    near = filled(model, LIMIT - 5)
    (found,) = misfits(model, [near], config, {})
    assert found.field == "prompt"
    assert misfits(model, [near], settings(prefix_count=0), {}) == []
    room = int(found.reason.partition(" of a context prefix")[0].rpartition(" ")[2])
    assert longest <= room <= 20


TEXT = f"The{words(300)}"
WRONG = {
    "prompt": {"prompt": f"{TEXT} {{}} is"},
    "target": {"target": TEXT},
    "paraphrases[1]": {"paraphrases": ("{} is", TEXT)},
    "neighbourhood[0].prompt": {"neighbourhood": (Probe("Who is", TEXT),)},
}


@pytest.mark.parametrize("field", WRONG)
def test_the_field_is_named(field):
    model = tiny_editable()
    assert fields(model, replace(FACT, **WRONG[field])) == [field]


def test_all_are_named_in_the_order_of_the_facts():
    model = tiny_editable()
    facts = [replace(FACT, **change) for change in WRONG.values()]
    found = misfits(model, [*facts, FACT], settings(), PREFIXES)
    assert [(own.fact, own.field) for own in found] == list(enumerate(WRONG))


def test_texts_without_tokens_of_their_own_are_named():
    model = tiny_editable(tokenizer="wordpiece")
    nothing = "\u200b"  # which this tokenizer drops
    assert fields(model, replace(FACT, subject=nothing)) == ["subject"]
    assert fields(model, replace(FACT, target=nothing, paraphrases=())) == ["target"]
    probe = (Probe("Who is", "Anna"), Probe("Who is", nothing))
    assert fields(model, replace(FACT, neighbourhood=probe)) == ["neighbourhood[1].prompt"]


def test_a_model_without_positions_has_no_limit():
    model = tiny_editable("bloom")
    assert model.context is None
    assert fields(model, filled(model, 300)) == []
