"""A prompt as the model reads it: as it stands, or as the user turn of a chat template.

Requests, keys, targets and scores all get their text from `render_prompt`, so that a fact is edited
in the same words in which it is asked.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from langedit.errors import ConfigError, TokenError
from langedit.facts import Language

PINNED_DATE = "2024-07-26"
"""What templates that write the day are given: what Llama 3.1's own falls back to."""

_MARK = "\ue0a0\ue0a1\ue0a2"
"""Private-use characters that stand for a message while the text around it is looked at."""

_DIRECTIVES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How facts are put to an instruct model.

    Attributes:
        system_prompt: text of the system turn; None writes none, unless the template does.
        date: YYYY-MM-DD, the day that a template sees which asks for today's.
    """

    system_prompt: str | None = None
    date: str = PINNED_DATE


@dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """The text that a model reads before it answers.

    Attributes:
        text: all of it.
        shift: character `c` of the prompt is character `shift + c` of the text.
        adds_special_tokens: whether the tokenizer still puts its own special tokens around the
            text; a chat template writes them itself.
        joint: what comes between the text and an answer; None: what the language wants.
    """

    text: str
    shift: int
    adds_special_tokens: bool
    joint: str | None


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    before: str = "",
    chat: ChatSettings | None = None,
) -> RenderedPrompt:
    """The text that the model reads: the prompt itself, or a chat up to the assistant's answer.

    In a chat, `before` and the prompt are the user's turn. The text is that of
    `apply_chat_template` with a generation prompt, which writes all special tokens. Where the
    template begins an assistant's turn with white space after its generation prompt (older
    templates of Mistral), that white space is the joint.

    Args:
        tokenizer: whose chat template is used.
        prompt: text of the prompt.
        before: put in front of the prompt as it is, such as a context prefix with its separator.
        chat: None for the prompt as it stands.

    Raises:
        ConfigError: the tokenizer has no chat template, or it fails, or it drops the system prompt.
        TokenError: the template changes the prompt.
    """
    content = before + prompt
    if chat is None:
        return RenderedPrompt(text=content, shift=len(before), adds_special_tokens=True, joint=None)
    head, _, tail = _render(tokenizer, chat, _MARK).partition(_MARK)
    text = _render(tokenizer, chat, content)
    body = text[len(head) : len(text) - len(tail)]
    # Templates may trim a turn at either end, and nothing else.
    allowed = (content, content.strip(), content.lstrip(), content.rstrip())
    if text != head + body + tail or body not in allowed:
        raise TokenError(
            f"the chat template changes the prompt {content!r}: expected it as the user's turn, "
            f"got {text!r}. Edit this fact without chat, or give the tokenizer another template"
        )
    dropped = 0 if body in (content, content.rstrip()) else len(content) - len(content.lstrip())
    return RenderedPrompt(
        text=text,
        shift=len(head) + len(before) - dropped,
        adds_special_tokens=False,
        joint=_joint(tokenizer, chat, head + _MARK + tail),
    )


def answer_text(
    tokenizer: PreTrainedTokenizerBase,
    language: str,
    prompt: str,
    answer: str,
    chat: ChatSettings | None = None,
) -> str:
    """An answer as it follows its prompt: `" Paris"`, `"巴黎"`; in a chat as the turn begins.

    Raises:
        ConfigError: as `render_prompt`.
        TokenError: as `render_prompt`.
    """
    joint = render_prompt(tokenizer, prompt, chat=chat).joint
    return Language.parse(language).join(answer, after=prompt) if joint is None else joint + answer


def _joint(tokenizer: PreTrainedTokenizerBase, chat: ChatSettings, question: str) -> str:
    """White space that the template writes between its generation prompt and an answer."""
    try:
        conversation = _render(tokenizer, chat, _MARK, answer=_MARK)
    except ConfigError:  # some templates want the user to speak last
        return ""
    rest = conversation.removeprefix(question).partition(_MARK)[0]
    return rest if conversation.startswith(question) and rest.isspace() else ""


def _render(
    tokenizer: PreTrainedTokenizerBase, chat: ChatSettings, content: str, answer: str | None = None
) -> str:
    """The chat as text: up to the assistant's answer, or with it where one is given."""
    messages = [{"role": "user", "content": content}]
    if chat.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": chat.system_prompt})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        template = _with_date(tokenizer.get_chat_template(), chat.date)
        text = cast(
            str,
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=answer is None,
                chat_template=template,
            ),
        )
    except (TemplateError, ValueError, TypeError, ImportError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"chat: the tokenizer's chat template cannot be used ({cause}); give a tokenizer that "
            "has one, leave out system_prompt where the model knows none, or set chat = false"
        ) from error
    if chat.system_prompt is not None and chat.system_prompt.strip() not in text:
        raise ConfigError(
            "system_prompt: expected the chat template to write it, got a chat without it; the "
            "model knows no system prompt: leave it out"
        )
    return text


def _with_date(template: str, date: str) -> str:
    """The template with `strftime_now` as a macro that knows one day, at midnight.

    transformers gives templates the clock under this name. A run must not depend on its day.
    """
    if "strftime_now" not in template:
        return template
    moment = datetime.datetime.fromisoformat(date)
    plain = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _DIRECTIVES}
    unpadded = {f"%-{letter}": plain[f"%{letter}"].lstrip("0") or "0" for letter in "dmjyHIMS"}
    filters = "".join(
        f" | replace({directive!r}, {written!r})"
        for directive, written in {**unpadded, **plain, "%%": "%"}.items()
    )
    macro = f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro +%}}"
    return macro + template
