"""Short chat templates in the styles of four families, in our own words.

What they share with the real ones is where special tokens and line breaks go, what is trimmed, and
who writes the first token.
"""

from __future__ import annotations

from tiny import TokenizerKind, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from langedit.models import ChatSettings, EditableModel, find_structure

LLAMA = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{% set rules = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set rules = '' %}{% endif %}"
    "{% if not day is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}"
    "<|head|>system<|neck|>\n\nToday is {{ day }}\n\n{{ rules | trim }}<|stop|>"
    "{% for m in messages %}<|head|>{{ m.role }}<|neck|>\n\n{{ m.content | trim }}<|stop|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|neck|>\n\n{% endif %}"
)
"""Writes BOS and the date, trims turns, always has a system turn."""

QWEN = (
    "{% if messages[0].role != 'system' %}<|head|>system\nBe kind.<|stop|>\n{% endif %}"
    "{% for m in messages %}<|head|>{{ m.role }}\n{{ m.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant\n{% endif %}"
)
"""Writes no BOS, trims nothing, has a system prompt of its own."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no system turn here') }}{% endif %}"
    "{% for m in messages %}<|head|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|head|>model\n{% endif %}"
)
"""Writes BOS, trims turns, refuses a system prompt, calls the assistant something else."""

MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set rules = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set rules = '' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[ASK] {{ rules }}{{ m.content }} [/ASK]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Writes BOS, puts the system prompt into the user's turn, answers after a blank."""

TEMPLATES = {"llama": LLAMA, "qwen": QWEN, "gemma": GEMMA, "mistral": MISTRAL}

MARKS = ("<|head|>", "<|neck|>", "<|stop|>", "[ASK]", "[/ASK]")


def chat_tokenizer(
    style: str, kind: TokenizerKind = "byte_bpe", *, bos: bool = True
) -> PreTrainedTokenizerFast:
    """A tiny tokenizer that knows the template and its special tokens.

    Args:
        style: a name of `TEMPLATES`.
        kind: as for `tiny_tokenizer`.
        bos: whether the tokenizer puts BOS in front of plain text.
    """
    tokenizer = tiny_tokenizer(kind, bos=bos)
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


def chat_model(style: str, chat: ChatSettings | None = None, *, seed: int = 0) -> EditableModel:
    """A tiny Llama with such a tokenizer."""
    tokenizer = chat_tokenizer(style)
    model = tiny_model("llama", vocab_size=len(tokenizer), seed=seed)
    return EditableModel(model, tokenizer, find_structure(model), chat=chat)
