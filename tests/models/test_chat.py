"""Prompts as user turns of chat templates: ids, positions, joints, dates, BOS."""

from __future__ import annotations

import time

import pytest
from chat_templates import LLAMA, TEMPLATES, chat_tokenizer
from covers import byte_level, expected_lookup
from hypothesis import given, settings
from hypothesis import strategies as st

from langedit.errors import ConfigError, TokenError
from langedit.models import (
    ChatSettings,
    answer_text,
    encode_continuation,
    encode_prompt,
    encode_text,
    render_prompt,
)

STYLES = tuple(TEMPLATES)
PLAIN = ChatSettings()
TEXT, SPAN = "The capital of France is", (15, 21)


def official_ids(tokenizer, messages, **more):
    """What transformers itself gives for the chat."""
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **more)
    return tuple(encoded["input_ids"])


@pytest.mark.parametrize("style", [style for style in STYLES if style != "llama"])
@pytest.mark.parametrize("kind", ["byte_bpe", "metaspace_bpe", "unigram"])
def test_ids_are_those_of_transformers(style, kind):
    tokenizer = chat_tokenizer(style, kind)
    expected = official_ids(tokenizer, [{"role": "user", "content": TEXT}])
    assert encode_prompt(tokenizer, TEXT, SPAN, chat=PLAIN).ids == expected
    assert encode_text(tokenizer, TEXT, chat=PLAIN) == expected


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("bos", [True, False])
def test_there_are_never_two_begin_tokens(style, bos):
    tokenizer = chat_tokenizer(style, bos=bos)
    ids = encode_prompt(tokenizer, TEXT, SPAN, chat=PLAIN).ids
    assert ids.count(tokenizer.bos_token_id) == (0 if style == "qwen" else 1)
    assert encode_prompt(tokenizer, TEXT, SPAN).ids.count(tokenizer.bos_token_id) == int(bos)


def test_a_template_that_writes_two_begin_tokens_is_refused():
    tokenizer = chat_tokenizer("gemma")
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(TokenError, match="<s> twice"):
        encode_text(tokenizer, TEXT, chat=PLAIN)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("before", ["", "Paris. ", "  Eine Stadt. "])
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        (TEXT, "France"),
        ("法国的首都是", "法国"),
        ("  user is the capital of {} and {{ x }} ", "{}"),  # words and braces of templates
        ("Wer ist user", "user"),
        ("Österreich", "Österreich"),
    ],
)
def test_the_lookup_token_ends_the_subject(style, before, text, subject):
    tokenizer = chat_tokenizer(style)
    start = text.index(subject)
    span = (start, start + len(subject))
    found = encode_prompt(tokenizer, text, span, before=before, chat=PLAIN)
    rendered = render_prompt(tokenizer, text, before=before, chat=PLAIN)
    at = rendered.shift + start
    assert rendered.text[at : at + len(subject)] == subject
    cover = spelled_cover(tokenizer, found.ids, rendered.text)
    assert found.lookup == expected_lookup(cover, rendered.text, at, at + len(subject))


def spelled_cover(tokenizer, ids, text):
    """Characters of each token, for byte-level tokens between marks."""
    added = set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
    cover, run, begun, position = [], [], 0, 0

    def close(end):
        held = byte_level(run, text[begun:end]) if run else []
        cover.extend({i + begun for i in own} for own in held)

    for token in tokenizer.convert_ids_to_tokens(list(ids)):
        if token in added:
            position = text.index(token, begun)
            close(position)
            cover.append(set())
            run, begun = [], position + len(token)
        else:
            run.append(token)
    close(len(text))
    return cover


@pytest.mark.parametrize("style", STYLES)
def test_everything_else_stands_in_front_of_the_prompt_unchanged(style):
    tokenizer = chat_tokenizer(style)
    bare = render_prompt(tokenizer, TEXT, chat=PLAIN)
    prefixed = render_prompt(tokenizer, TEXT, before="Paris. ", chat=PLAIN)
    assert prefixed.text == bare.text.replace(TEXT, "Paris. " + TEXT)
    assert prefixed.shift == bare.shift + len("Paris. ")


@pytest.mark.parametrize(
    ("style", "joint"), [("llama", ""), ("qwen", ""), ("gemma", ""), ("mistral", " ")]
)
def test_the_answer_begins_as_the_template_begins_a_turn(style, joint):
    tokenizer = chat_tokenizer(style)
    assert answer_text(tokenizer, "en", TEXT, "Paris", PLAIN) == joint + "Paris"
    assert answer_text(tokenizer, "zh", TEXT, "巴黎", PLAIN) == joint + "巴黎"
    assert answer_text(tokenizer, "en", TEXT, "Paris") == " Paris"
    ids = encode_continuation(tokenizer, TEXT, joint + "Paris", chat=PLAIN)
    chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "Paris"}]
    settings = {} if style != "llama" else {"day": "26 Jul 2024"}
    whole = tokenizer.apply_chat_template(chat, **settings)["input_ids"]
    prompt = encode_text(tokenizer, TEXT, chat=PLAIN)
    assert tuple(whole[: len(prompt) + len(ids)]) == (*prompt, *ids)


def test_the_day_is_the_one_in_the_settings_and_not_todays():
    tokenizer = chat_tokenizer("llama")
    text = render_prompt(tokenizer, TEXT, chat=PLAIN).text
    assert "Today is 26 Jul 2024\n" in text
    other = render_prompt(tokenizer, TEXT, chat=ChatSettings(date="1999-03-04")).text
    assert other == text.replace("26 Jul 2024", "04 Mar 1999")
    clock = tokenizer.apply_chat_template([{"role": "user", "content": TEXT}], tokenize=False)
    assert time.strftime("%Y") in clock  # the control: the template itself reads the clock


@pytest.mark.parametrize(
    ("directive", "written"),
    [("%Y-%m-%d", "1999-03-04"), ("%-d. %B %y", "4. March 99"), ("%A 100%%", "Thursday 100%")],
)
def test_formats_of_dates(directive, written):
    tokenizer = chat_tokenizer("llama")
    tokenizer.chat_template = LLAMA.replace("%d %b %Y", directive)
    text = render_prompt(tokenizer, TEXT, chat=ChatSettings(date="1999-03-04")).text
    assert f"Today is {written}\n" in text


@pytest.mark.parametrize("style", ["llama", "qwen", "mistral"])
def test_system_prompts_are_used_as_they_are(style):
    rules = "Answer {shortly}: {{ x }} {% if %} {} </s>?"
    tokenizer = chat_tokenizer(style)
    rendered = render_prompt(tokenizer, TEXT, chat=ChatSettings(system_prompt=rules))
    assert rules in rendered.text
    assert rendered.text[rendered.shift :].startswith(TEXT)


def test_a_system_prompt_that_is_refused_or_dropped_is_an_error():
    tokenizer = chat_tokenizer("gemma")
    with pytest.raises(ConfigError, match="no system turn here"):
        render_prompt(tokenizer, TEXT, chat=ChatSettings(system_prompt="Be brief."))
    tokenizer.chat_template = "{% for m in messages[1:] %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="expected the chat template to write it"):
        render_prompt(tokenizer, TEXT, chat=ChatSettings(system_prompt="Be brief."))


def test_a_tokenizer_without_template_is_an_error():
    tokenizer = chat_tokenizer("qwen")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="set chat = false"):
        encode_text(tokenizer, TEXT, chat=PLAIN)


def test_a_template_that_changes_the_prompt_is_an_error():
    tokenizer = chat_tokenizer("qwen")
    tokenizer.chat_template = "{{ messages[0].content | upper }} ?"
    with pytest.raises(TokenError, match="changes the prompt"):
        encode_text(tokenizer, TEXT, chat=PLAIN)


@settings(max_examples=40)
@given(
    style=st.sampled_from(STYLES),
    before=st.sampled_from(["", " ", "Wien. "]),
    subject=st.text(alphabet="aé法 {}%|<\n", min_size=1, max_size=6).filter(str.strip),
    after=st.text(alphabet="b国. }", max_size=5),
)
def test_any_prompt_keeps_its_subject_in_place(style, before, subject, after):
    tokenizer = TOKENIZERS[style]
    text = f"x {subject}{after}"
    rendered = render_prompt(tokenizer, text, before=before, chat=PLAIN)
    at = rendered.shift + 2
    assert rendered.text[at : at + len(subject.rstrip())] == subject.rstrip()
    found = encode_prompt(tokenizer, text, (2, 2 + len(subject)), before=before, chat=PLAIN)
    assert found.ids == encode_text(tokenizer, before + text, chat=PLAIN)
    assert found.subject_start <= found.lookup < len(found.ids)


TOKENIZERS = {style: chat_tokenizer(style) for style in STYLES}
