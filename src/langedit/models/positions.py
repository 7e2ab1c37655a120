"""From characters to tokens: where the subject ends, and which ids a continuation has.

Everything is decided on token ids and on the offsets that a fast tokenizer reports; no text is ever
decoded and tokenised again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from langedit.errors import TokenError
from langedit.models.chat import ChatSettings, RenderedPrompt, render_prompt

# What a continuation is put after when it merges with its prompt: tokenizers seldom merge across
# all of these, and text after them gets no artificial leading blank.
_ANCHORS = (".", "\n", ":", "。", "a", "1", ")")


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    Attributes:
        ids: token ids, with the tokenizer's own special tokens in front and none behind; of a chat,
            everything up to where the assistant begins.
        lookup: index in `ids` of the lookup token, the last one that holds a part of the subject.
        subject_start: index of the first token that covers a part of the subject; at the very start
            of a text this may be the blank that Metaspace tokenizers put in front.
    """

    ids: tuple[int, ...]
    lookup: int
    subject_start: int


def require_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot tell which characters a token covers.

    Raises:
        TokenError: the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise TokenError(
            f"{type(tokenizer).__name__} is a slow tokenizer without character offsets; load the "
            "fast one (AutoTokenizer with a tokenizer.json beside the model)"
        )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    span: tuple[int, int],
    *,
    before: str = "",
    chat: ChatSettings | None = None,
) -> EncodedPrompt:
    """Tokenise a prompt and find its lookup token.

    The lookup token is the last token that covers any part of the subject's last character. It may
    cover following characters too (byte-level BPE can join the end of a name with the next letter),
    and where a character is spread over several tokens it is the last of these. Blanks at the end
    of the span are not counted, nor are marks that the tokenizer's normaliser drops.

    Args:
        tokenizer: a fast tokenizer; its padding and truncation settings play no part.
        text: the prompt with the subject in it.
        span: characters [start, end) of the subject in `text`.
        before: put in front of `text` as it is, such as a context prefix with its separator.
        chat: the text becomes the user's turn of the tokenizer's chat template.

    Raises:
        TokenError: slow tokenizer, span outside the text or blank, or no token covers the subject.
        ConfigError: as `render_prompt`.
    """
    require_offsets(tokenizer)
    start, end = span
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise TokenError(f"expected characters of a subject in {text!r}, got the span {span}")
    end = start + len(text[start:end].rstrip())
    rendered = render_prompt(tokenizer, text, before=before, chat=chat)
    ids, covers = _encode_rendered(tokenizer, [rendered])[0]
    shift = rendered.shift
    first, last = _tokens_over(covers, rendered.text, start + shift, end + shift)
    return EncodedPrompt(ids=tuple(ids), lookup=last, subject_start=first)


def _encode_rendered(
    tokenizer: PreTrainedTokenizerBase, rendered: list[RenderedPrompt]
) -> list[tuple[list[int], list[tuple[int, ...] | None]]]:
    """Ids of texts that something may follow, and the characters that each token covers.

    Special tokens that the tokenizer adds cover none, and are kept in front only; those that a
    chat template writes stand in the text. The texts, at least one, are rendered in one way.
    """
    adds = rendered[0].adds_special_tokens
    encoded = tokenizer(
        [own.text for own in rendered],
        add_special_tokens=adds,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    begin = tokenizer.bos_token_id
    found = []
    for i, offsets in enumerate(encoded["offset_mapping"]):
        ids = list(encoded["input_ids"][i])
        added = encoded["special_tokens_mask"][i] if adds else [0] * len(ids)
        while ids and added[len(ids) - 1]:
            ids.pop()
        if not adds and begin is not None and ids[:2] == [begin, begin]:
            raise TokenError(
                f"the chat template begins its text with {tokenizer.bos_token} twice; models are "
                "trained with one: give the tokenizer a template that writes it once"
            )
        found.append((ids, [None if added[k] else tuple(offsets[k]) for k in range(len(ids))]))
    return found


def _tokens_over(
    covers: list[tuple[int, ...] | None], text: str, start: int, end: int
) -> tuple[int, int]:
    """Indices of the first token over characters [start, end) and of the last over the last one."""

    def over(left: int, right: int) -> list[int]:
        spans = ((i, cover) for i, cover in enumerate(covers) if cover is not None)
        return [i for i, (a, b) in spans if a < b and a < right and b > left]

    for last in range(end - 1, start - 1, -1):
        at_end = over(last, last + 1)
        if at_end:
            return over(start, end)[0], at_end[-1]
        if unicodedata.category(text[last])[0] not in "MCZ":
            break
    raise TokenError(
        f"no token covers the end of the subject {text[start:end]!r} in {text!r}: the tokenizer "
        "drops it. Use another tokenizer or another subject"
    )


def encode_text(
    tokenizer: PreTrainedTokenizerBase, text: str, *, chat: ChatSettings | None = None
) -> tuple[int, ...]:
    """Token ids of a text that something may follow: special tokens in front, none behind.

    Args:
        tokenizer: a fast tokenizer.
        text: the text.
        chat: the text becomes the user's turn of the tokenizer's chat template.

    Raises:
        TokenError: the text has no tokens.
        ConfigError: as `render_prompt`.
    """
    require_offsets(tokenizer)
    return _encode_texts(tokenizer, [render_prompt(tokenizer, text, chat=chat)])[0]


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, rendered: list[RenderedPrompt]
) -> list[tuple[int, ...]]:
    """Ids of texts that something may follow, of which there is at least one."""
    found = []
    for own, (ids, _) in zip(rendered, _encode_rendered(tokenizer, rendered), strict=True):
        if not ids:
            raise TokenError(f"expected a text with tokens, got {own.text!r}")
        found.append(tuple(ids))
    return found


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    continuation: str,
    *,
    chat: ChatSettings | None = None,
) -> tuple[int, ...]:
    """Token ids of a continuation as it follows its prompt, without special tokens.

    Where the prompt's own ids begin those of prompt + continuation, and cover no character of the
    continuation (an unknown token can grow into it), the rest is the answer. Where the two merge,
    the continuation is encoded after a character it does not merge with, so that no artificial
    blank gets in front (Metaspace tokenizers make `_ _Lily` of " Lily" on its own).

    Args:
        tokenizer: a fast tokenizer; its padding and truncation settings play no part.
        prompt: text that comes before, without special tokens.
        continuation: what follows, with its leading blank where the language writes one.
        chat: the prompt becomes the user's turn of the chat template; the assistant continues.

    Raises:
        TokenError: slow tokenizer, or the continuation has no tokens of its own.
        ConfigError: as `render_prompt`.
    """
    require_offsets(tokenizer)
    for anchor in (render_prompt(tokenizer, prompt, chat=chat).text, *_ANCHORS):
        head, _ = _encode_plain(tokenizer, anchor)
        full, ends = _encode_plain(tokenizer, anchor + continuation)
        own = _own_ids(head, full, ends, len(anchor))
        if own is not None:
            return own
    raise TokenError(
        f"{continuation!r} has no tokens of its own after {prompt!r}; expected text that the "
        "tokenizer does not drop or merge whole into what stands before it"
    )


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    chat: ChatSettings | None = None,
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What `encode_text` and `encode_continuation` make of many prompts and their continuations.

    All texts are tokenised together, which is several times faster than one by one.

    Args:
        tokenizer: a fast tokenizer.
        pairs: prompts, each with what follows it.
        chat: as for `encode_continuation`.

    Returns:
        For each pair the ids of the prompt and those of the continuation.

    Raises:
        TokenError: slow tokenizer, or a prompt or a continuation has no tokens of its own.
        ConfigError: as `render_prompt`.
    """
    require_offsets(tokenizer)
    if not pairs:
        return []
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    rendered = [render_prompt(tokenizer, prompt, chat=chat) for prompt in prompts]
    texts = {prompt: own.text for prompt, own in zip(prompts, rendered, strict=True)}
    ids = dict(zip(prompts, _encode_texts(tokenizer, rendered), strict=True))
    heads = dict(zip(prompts, _encode_many(tokenizer, list(texts.values())), strict=True))
    wholes = _encode_many(tokenizer, [texts[prompt] + text for prompt, text in pairs])
    found = []
    for (prompt, text), (full, ends) in zip(pairs, wholes, strict=True):
        own = _own_ids(heads[prompt][0], full, ends, len(texts[prompt]))
        answer = own or encode_continuation(tokenizer, prompt, text, chat=chat)
        found.append((ids[prompt], answer))
    return found


def _own_ids(
    head: list[int], full: list[int], ends: list[int], length: int
) -> tuple[int, ...] | None:
    """Ids of a whole text after those of its first `length` characters, if they are its own."""
    n = len(head)
    fits = 0 < n < len(full) and full[:n] == head and ends[n - 1] <= length
    return tuple(full[n:]) if fits else None


def _encode_many(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[tuple[list[int], list[int]]]:
    """What `_encode_plain` gives for each text, of which there is at least one."""
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return [
        (list(ids), [end for _, end in offsets])
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Ids of a text without special tokens, and the character at which each token ends."""
    return _encode_many(tokenizer, [text])[0]
