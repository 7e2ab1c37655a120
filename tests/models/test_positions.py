from __future__ import annotations

import unicodedata

import pytest
import tiny
from covers import cover_of, expected_lookup
from transformers import PreTrainedTokenizer

from langedit.errors import TokenError
from langedit.models import encode_answers, encode_continuation, encode_prompt, encode_text

PROMPTS = {
    "start": ("Paris is the capital of", "Paris"),
    "end": ("The capital of France is Paris", "Paris"),
    "only": ("Paris", "Paris"),
    "one_letter": ("y", "y"),
    "elided": ("La capitale de l'Australie est", "Australie"),
    "genitive": ("Wer ist Lily Müllers Vater?", "Lily Müller"),
    "straddled": ("The France-is-Paris", "France-i"),
    "chinese": ("法国的首都是", "法国"),
    "chinese_unseen": ("龘龘的首都是", "龘龘"),
    "japanese": ("富士山はどこにありますか", "富士山"),
    "thai": ("เมืองหลวงของประเทศไทยคือ", "ประเทศไทย"),
    "thai_tone": ("กรุงเทพ่ is", "กรุงเทพ่"),
    "russian": ("Столица России — это", "России"),
    "russian_part": ("Столица Франции — это", "Франци"),
    "braces": ("The value of {x} in {France} is", "France"),
    "emoji": ("Who is 👩‍🚀 from?", "👩‍🚀"),
    "dotted_capital": ("Wo liegt İzmir heute?", "İzmir"),
    "ligature": ("Who is ﬁﬁ in Paris?", "ﬁﬁ"),
    "digits": ("Was geschah 1984?", "1984"),
    "unseen_word": ("Who is Jörmungandr of?", "Jörmungandr"),
    "blank_behind": ("Who is Lily of Paris?", "Lily "),
}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
@pytest.mark.parametrize("before", ["", "Therefore, it is. ", "因此。"], ids=["bare", "en", "zh"])
def test_lookup_is_the_last_token_of_the_subject(kind, bos, before):
    alphabet = [text for text, _ in PROMPTS.values()] if kind == "unigram" else []
    tokenizer = tiny.tiny_tokenizer(
        kind, bos=bos, texts=[*tiny.SENTENCES, *alphabet, "Therefore, 因此。"]
    )
    for text, subject in PROMPTS.values():
        start = text.index(subject)
        encoded = encode_prompt(tokenizer, text, (start, start + len(subject)), before=before)
        full = before + text
        cover = cover_of(tokenizer, kind, encoded.ids, full)
        shifted = start + len(before)
        wanted = expected_lookup(cover, full, shifted, shifted + len(subject))
        assert encoded.lookup == wanted, (kind, text)
        assert encoded.subject_start <= encoded.lookup


def test_one_token_over_the_subjects_end_and_the_next_letter():
    texts = ["法国的" * 30 + "首都"]
    tokenizer = tiny.tiny_tokenizer("byte_bpe", texts=texts, vocab_size=600)
    encoded = encode_prompt(tokenizer, "法国的首都", (0, 2))
    cover = cover_of(tokenizer, "byte_bpe", encoded.ids, "法国的首都")
    assert {1, 2} <= cover[encoded.lookup]


def test_character_over_several_tokens_gives_the_last_of_them():
    tokenizer = tiny.tiny_tokenizer("byte_bpe")
    encoded = encode_prompt(tokenizer, "龘 is", (0, 1))
    assert tokenizer.decode(encoded.ids[: encoded.lookup + 1]) == "龘"
    assert encoded.lookup == 2
    assert encoded.subject_start == 0


@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_the_span_decides_which_of_two_is_meant(kind):
    tokenizer = tiny.tiny_tokenizer(kind, bos=True)
    text = "Paris is in Paris, is it?"
    first = encode_prompt(tokenizer, text, (0, 5))
    second = encode_prompt(tokenizer, text, (12, 17))
    assert first.ids == second.ids
    assert first.lookup < second.subject_start <= second.lookup


def test_begin_token_stays_and_end_token_goes():
    tokenizer = tiny.tiny_tokenizer("byte_bpe", bos=True, eos=True)
    text = "The capital of France"
    encoded = encode_prompt(tokenizer, text, (15, 21))
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert encoded.ids[1:] == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert encoded.lookup == len(encoded.ids) - 1


def test_tokens_of_no_width_are_never_the_lookup_token():
    tokenizer = tiny.tiny_tokenizer("byte_bpe")
    text = "Lily  龘"
    encoded = encode_prompt(tokenizer, text, (0, 4))
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert any(start == end for start, end in offsets)  # the case is there
    assert tokenizer.decode(encoded.ids[: encoded.lookup + 1]) == "Lily"


def test_padding_and_truncation_settings_play_no_part():
    tokenizer = tiny.tiny_tokenizer("byte_bpe", bos=True)
    text, span = "The capital of France is", (15, 21)
    wanted = encode_prompt(tokenizer, text, span)
    tokenizer.padding_side = "left"
    tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 4
    tokenizer("a b c d e f", padding="max_length", truncation=True, max_length=3)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    assert encode_prompt(tokenizer, text, span) == wanted
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    assert len(encode_continuation(tokenizer, text, " Paris and Berlin")) > 3


@pytest.mark.parametrize("span", [(3, 3), (5, 3), (-1, 2), (0, 99), (3, 4)])
def test_a_span_outside_the_text_or_blank_is_refused(span):
    with pytest.raises(TokenError, match="expected characters of a subject"):
        encode_prompt(tiny.tiny_tokenizer(), "The capital", span)


def test_a_subject_that_the_tokenizer_drops_is_refused():
    tokenizer = tiny.tiny_tokenizer("wordpiece")
    with pytest.raises(TokenError, match="no token covers"):
        encode_prompt(tokenizer, "Who is \u200d\u200d now?", (7, 9))


def test_a_dropped_mark_leaves_the_letter_before_it():
    tokenizer = tiny.tiny_tokenizer("wordpiece")  # strips accents
    text = "Who is Andre\u0301 now?"
    encoded = encode_prompt(tokenizer, text, (7, 13))
    cover = cover_of(tokenizer, "wordpiece", encoded.ids, text)
    assert 11 in cover[encoded.lookup]


class SlowTokenizer(PreTrainedTokenizer):
    """One token a character, in Python, without offsets."""

    @property
    def vocab_size(self) -> int:
        return 128

    def get_vocab(self) -> dict[str, int]:
        return {chr(i): i for i in range(128)}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


def test_a_slow_tokenizer_is_refused():
    slow = SlowTokenizer()
    with pytest.raises(TokenError, match="load the fast one"):
        encode_prompt(slow, "The capital", (0, 3))
    with pytest.raises(TokenError, match="load the fast one"):
        encode_continuation(slow, "The", " capital")


CONTINUATIONS = [
    ("Who is it?", " Lily"),
    ("The capital of France is", " Paris"),
    ("法国的首都是", "巴黎"),
    ("法国的首都是", "龘"),
    ("日本の首都は", "東京です"),
    ("เมืองหลวงของประเทศไทยคือ", "กรุงเทพ"),
    ("Столица Франции —", " Париж"),
    ("Par", "is"),
    ("The capital is ", "Paris"),
    ("Was geschah", " 1984."),
    ("龘", "龘的"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_continuation_is_spelled_by_its_ids(kind, bos):
    texts = [*tiny.SENTENCES, "龘 1984.", *(text for _, text in CONTINUATIONS)]  # none unknown
    tokenizer = tiny.tiny_tokenizer(kind, bos=bos, eos=bos, texts=texts)
    for prompt, continuation in CONTINUATIONS:
        ids = encode_continuation(tokenizer, prompt, continuation)
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids)
        assert spelling(tokenizer, kind, ids) == (
            folded(continuation, lowercase=kind == "wordpiece")
            if kind.startswith("wordpiece")
            else continuation
        )


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_many_answers_are_encoded_as_each_alone(kind, bos):
    texts = [*tiny.SENTENCES, "龘 1984.", *(text for _, text in CONTINUATIONS)]
    tokenizer = tiny.tiny_tokenizer(kind, bos=bos, eos=bos, texts=texts)
    alone = [
        (encode_text(tokenizer, prompt), encode_continuation(tokenizer, prompt, continuation))
        for prompt, continuation in CONTINUATIONS
    ]
    assert encode_answers(tokenizer, CONTINUATIONS) == alone
    assert encode_answers(tokenizer, []) == []


def spelling(tokenizer, kind, ids):
    """The text of ids that follow others: behind a word, so that no decoder eats their blank."""
    if kind.startswith("wordpiece"):
        return "".join(token.removeprefix("##") for token in tokenizer.convert_ids_to_tokens(ids))
    anchor = tokenizer("is.", add_special_tokens=False)["input_ids"]
    text = tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)
    return text.partition("is.")[2]


def folded(text, *, lowercase):
    """What is left of a text in WordPiece tokens: no blanks, perhaps no case and no accents."""
    text = text.replace(" ", "")
    if not lowercase:
        return text
    apart = unicodedata.normalize("NFD", text)
    return "".join(c for c in apart if unicodedata.category(c) != "Mn").lower()


@pytest.mark.parametrize("kind", ["metaspace_bpe", "unigram"])
def test_no_lone_blank_before_a_continuation(kind):
    tokenizer = tiny.tiny_tokenizer(kind)
    for prompt in ("Who is it?", "Who is it? ", "谁"):
        tokens = tokenizer.convert_ids_to_tokens(encode_continuation(tokenizer, prompt, " Lily"))
        assert tokens[0] != "▁", (prompt, tokens)
        assert "".join(tokens) == "▁Lily"


def test_the_lone_blank_is_what_the_tokenizer_alone_would_give():
    tokenizer = tiny.tiny_tokenizer("metaspace_bpe")
    assert tokenizer.tokenize(" Lily")[0] == "▁"


def test_an_unknown_token_does_not_swallow_the_continuation():
    tokenizer = tiny.tiny_tokenizer("unigram")
    prompt, continuation = "Paris龘", "龘is"
    ids = encode_continuation(tokenizer, prompt, continuation)
    assert ids[0] == tokenizer.unk_token_id
    assert tokenizer.decode(ids[1:]) == "is"


@pytest.mark.parametrize("continuation", ["", "\u200d"])
def test_a_continuation_without_tokens_is_refused(continuation):
    with pytest.raises(TokenError, match="no tokens of its own"):
        encode_continuation(tiny.tiny_tokenizer("wordpiece"), "The capital is", continuation)
