"""A fact as token ids: what the rest of the editor works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langedit.errors import TokenError
from langedit.facts import Fact
from langedit.models import (
    EditableModel,
    EncodedPrompt,
    answer_text,
    encode_continuation,
    encode_prompt,
)

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit, encoded for one model.

    Attributes:
        name: how messages call the fact.
        language: code of the fact's language.
        prompts: the bare prompt first, then one for each context prefix.
        target_ids: token ids of the target, as they follow each prompt.
        kl_prompt: the prompt at whose subject the model should keep its prediction.
        merged: further requests with the same keys, which are edited as one row with this one.
    """

    name: str
    language: str
    prompts: tuple[EncodedPrompt, ...]
    target_ids: tuple[int, ...]
    kl_prompt: EncodedPrompt
    merged: tuple[EditRequest, ...] = ()

    @property
    def members(self) -> tuple[EditRequest, ...]:
        """This request and those merged into it."""
        return (self, *self.merged)

    @property
    def contexts(self) -> tuple[tuple[int, ...], ...]:
        """Token ids up to and with the lookup token of every prompt: all that keys depend on."""
        return tuple(prompt.ids[: prompt.lookup + 1] for prompt in self.prompts)


def prepare_request(
    model: EditableModel, fact: Fact, prefixes: Sequence[str], config: EditConfig
) -> EditRequest:
    """Encode a fact.

    Where the model is asked in a chat, every prompt is a user turn, the KL prompt too; prefixes
    stand in that turn before the prompt, and the target is the beginning of the assistant's turn.

    Args:
        model: whose tokenizer is used, and its `chat`.
        fact: the fact.
        prefixes: texts that come before the prompt, complete with what separates them from it.
        config: `kl_template` and `target_joint`.

    Raises:
        TokenError: a position is not found, or the text is longer than the model's context.
        ConfigError: the chat template cannot be used.
    """
    tokenizer, chat = model.tokenizer, model.chat
    prompts = tuple(
        encode_prompt(tokenizer, fact.text, fact.subject_span, before=before, chat=chat)
        for before in ("", *prefixes)
    )
    head, _, tail = config.kl_template.partition("{}")
    span = (len(head), len(head) + len(fact.subject))
    request = EditRequest(
        name=fact_name(fact),
        language=fact.language,
        prompts=prompts,
        target_ids=target_ids(model, fact, config),
        kl_prompt=encode_prompt(tokenizer, head + fact.subject + tail, span, chat=chat),
    )
    _check_length(model, request)
    return request


def target_ids(model: EditableModel, fact: Fact, config: EditConfig) -> tuple[int, ...]:
    """Token ids of a fact's target, as it follows its prompt.

    Args:
        model: as for `prepare_request`.
        fact: the fact.
        config: `target_joint`.

    Raises:
        TokenError: the target has no tokens of its own.
        ConfigError: the chat template cannot be used.
    """
    tokenizer, chat = model.tokenizer, model.chat
    target = f" {fact.target}"
    if config.target_joint == "language":
        target = answer_text(tokenizer, fact.language, fact.text, fact.target, chat)
    return encode_continuation(tokenizer, fact.text, target, chat=chat)


def merge_shared(
    requests: Sequence[EditRequest],
) -> tuple[list[EditRequest], tuple[int, ...]]:
    """Put requests with the same contexts together.

    Such requests have the same key in every layer, so two rows would ask one key for two values,
    and a least-squares solve gives their mean. As one row they share a target that is optimised
    for all of them.

    Returns:
        The requests, each group as its first one with the others in `merged`, in order of first
        appearance; and for each request given the index of its group.
    """
    groups: dict[tuple[tuple[int, ...], ...], list[EditRequest]] = {}
    for request in requests:
        groups.setdefault(request.contexts, []).append(request)
    places = {contexts: place for place, contexts in enumerate(groups)}
    merged = [replace(first, merged=tuple(others)) for first, *others in groups.values()]
    return merged, tuple(places[request.contexts] for request in requests)


def row_languages(facts: Sequence[Fact], rows: Sequence[int]) -> tuple[str, ...]:
    """Language of each row of a batch: that of its first fact.

    Args:
        facts: the batch.
        rows: for each fact its row, from 0.
    """
    return tuple(facts[rows.index(row)].language for row in range(len(set(rows))))


def fact_name(fact: Fact) -> str:
    """The fact's id, or else its prompt and target, of which long ones are cut in the middle."""
    return fact.id or f"{fact.language}: {shortened(fact.text)} -> {shortened(fact.target)}"


def shortened(text: str, most: int = 100) -> str:
    """The text for a message; one longer than `most` characters is cut in the middle."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :].lstrip()}"


def _check_length(model: EditableModel, request: EditRequest) -> None:
    limit = model.context
    longest = max(len(prompt.ids) for prompt in request.prompts) + len(request.target_ids)
    if limit is not None and longest > limit:
        raise TokenError(
            f"{request.name}: expected at most {limit} tokens with prefix and target, the context "
            f"of the model, got {longest}: shorten the prompt or the prefixes"
        )
