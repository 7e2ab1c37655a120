"""A fact as token ids: what the rest of the editor works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langedit.editing.config import EditConfig
from langedit.errors import TokenError
from langedit.facts import Fact
from langedit.models import (
    EditableModel,
    EncodedPrompt,
    answer_text,
    encode_continuation,
    encode_prompt,
)


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit, encoded for one model.

    Attributes:
        name: how messages call the fact.
        prompts: the bare prompt first, then one for each context prefix.
        target_ids: token ids of the target, as they follow each prompt.
        kl_prompt: the prompt at whose subject the model should keep its prediction.
    """

    name: str
    prompts: tuple[EncodedPrompt, ...]
    target_ids: tuple[int, ...]
    kl_prompt: EncodedPrompt


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
    target = f" {fact.target}"
    if config.target_joint == "language":
        target = answer_text(tokenizer, fact.language, fact.text, fact.target, chat)
    head, _, tail = config.kl_template.partition("{}")
    span = (len(head), len(head) + len(fact.subject))
    request = EditRequest(
        name=fact_name(fact),
        prompts=prompts,
        target_ids=encode_continuation(tokenizer, fact.text, target, chat=chat),
        kl_prompt=encode_prompt(tokenizer, head + fact.subject + tail, span, chat=chat),
    )
    _check_length(model, request)
    return request


def fact_name(fact: Fact) -> str:
    """The fact's id, or else its prompt and target, of which long ones are cut in the middle."""
    return fact.id or f"{fact.language}: {_shortened(fact.text)} -> {_shortened(fact.target)}"


def _shortened(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :].lstrip()}"


def _check_length(model: EditableModel, request: EditRequest) -> None:
    limit = getattr(model.model.config, "max_position_embeddings", None)
    longest = max(len(prompt.ids) for prompt in request.prompts) + len(request.target_ids)
    if isinstance(limit, int) and longest > limit:
        raise TokenError(
            f"{request.name}: expected at most {limit} tokens with prefix and target, the context "
            f"of the model, got {longest}: shorten the prompt or the prefixes"
        )
