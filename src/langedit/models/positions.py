"""From characters to tokens: where the subject ends, and which ids a continuation has.

Everything is decided on token ids and on the offsets that a fast tokenizer reports; no text is ever
decoded and tokenised again.
"""

from __future__ import annotations

import unicodedata
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
    ids, covers = _encode_rendered(tokenizer, rendered)
    shift = rendered.shift
    first, last = _tokens_over(covers, rendered.text, start + shift, end + shift)
    return EncodedPrompt(ids=tuple(ids), lookup=last, subject_start=first)


def _encode_rendered(
    tokenizer: PreTrainedTokenizerBase, rendered: RenderedPrompt
) -> tuple[list[int], list[tuple[int, ...] | None]]:
    """Ids of a text that something may follow, and the characters that each token covers.

    Special tokens that the tokenizer adds cover none, and are kept in front only; those that a
    chat template writes stand in the text.
    """
    encoded = tokenizer(
        rendered.text,
        add_special_tokens=rendered.adds_special_tokens,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    added = encoded["special_tokens_mask"] if rendered.adds_special_tokens else [0] * len(ids)
    while ids and added[len(ids) - 1]:
        ids.pop()
    begin = tokenizer.bos_token_id
    if not rendered.adds_special_tokens and begin is not None and ids[:2] == [begin, begin]:
        raise TokenError(
            f"the chat template begins its text with {tokenizer.bos_token} twice; models are "
            "trained with one: give the tokenizer a template that writes it once"
        )
    return ids, [None if added[i] else tuple(offsets[i]) for i in range(len(ids))]


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
    ids, _ = _encode_rendered(tokenizer, render_prompt(tokenizer, text, chat=chat))
    if not ids:
        raise TokenError(f"expected a text with tokens, got {text!r}")
    return tuple(ids)


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
        n = len(head)
        if 0 < n < len(full) and full[:n] == head and ends[n - 1] <= len(anchor):
            return tuple(full[n:])
    raise TokenError(
        f"{continuation!r} has no tokens of its own after {prompt!r}; expected text that the "
        "tokenizer does not drop or merge whole into what stands before it"
    )


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Ids of a text without special tokens, and the character at which each token ends."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
