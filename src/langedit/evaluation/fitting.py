"""Which texts of facts a model cannot be asked: to be known before time is spent on any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langedit.editing import EditConfig
from langedit.editing.prefixes import seed_words_of
from langedit.editing.requests import target_ids
from langedit.errors import TokenError
from langedit.evaluation.forced import encode_all, encode_answer
from langedit.facts import Fact, Language
from langedit.models import EditableModel, encode_prompt


@dataclass(frozen=True, slots=True)
class Misfit:
    """A text that a model cannot be asked.

    Attributes:
        fact: number of the fact among those looked at.
        field: of the fact, such as "prompt" or "neighbourhood[1].prompt".
        reason: what was expected, what came, and what to do.
    """

    fact: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Probe:
    fact: int
    field: str
    prompt: str
    answer: str


def misfits(
    model: EditableModel,
    facts: Sequence[Fact],
    config: EditConfig,
    prefixes: Mapping[str, Sequence[str]],
) -> list[Misfit]:
    """Texts of facts, and of the probes they are scored with, that are too long or have no tokens.

    Args:
        model: the model as it is edited; only its tokenizer and its context count.
        facts: the facts.
        config: what they are edited with.
        prefixes: the context prefixes that are known, by language; where the model is still to
            write them, room is kept for what it may write.

    Returns:
        In the order of the facts; nothing where all texts fit.

    Raises:
        ConfigError: the chat template cannot be used, or a language has no seed words.
    """
    found = [
        own
        for number, fact in enumerate(facts)
        for own in _edited(model, number, fact, config, prefixes)
    ]
    known = {own.fact for own in found if own.field == "target"}  # not said of paraphrases again
    probes = [
        probe
        for number, fact in enumerate(facts)
        for probe in _probes(number, fact)
        if number not in known or not probe.field.startswith("paraphrases")
    ]
    found += _asked(model, facts, probes)
    return sorted(found, key=lambda own: own.fact)


def _edited(
    model: EditableModel,
    number: int,
    fact: Fact,
    config: EditConfig,
    prefixes: Mapping[str, Sequence[str]],
) -> Iterator[Misfit]:
    """What is wrong with a fact as it is edited, at most one thing."""
    tokenizer, chat, field = model.tokenizer, model.chat, "subject"

    def tokens(before: str) -> int:
        prompt = encode_prompt(tokenizer, fact.text, fact.subject_span, before=before, chat=chat)
        return len(prompt.ids)

    try:
        bare = tokens("")
        field = "target"
        target = len(target_ids(model, fact, config))
    except TokenError as error:
        yield Misfit(number, field, str(error))
        return
    known = prefixes.get(fact.language)
    if known is None:
        before = _room(model, fact.language, config)
    else:
        before = max((tokens(own) - bare for own in known), default=0)
    limit, total = model.context, bare + before + target
    if limit is not None and total > limit:
        yield Misfit(
            number,
            "prompt" if bare >= target else "target",
            f"expected at most {limit} tokens, the context of the model, got {total}: {bare} of "
            f"the prompt with its subject, {before} of a context prefix, {target} of the target; "
            "shorten it, or leave the fact out",
        )


def _room(model: EditableModel, language: str, config: EditConfig) -> int:
    """Tokens of the longest prefix that the model may write."""
    known = Language.parse(language)
    seeds = seed_words_of(known.code, config.seed_words)[: config.prefix_count]
    encode = cast(Any, model.tokenizer)
    sizes = [len(encode(own, add_special_tokens=False)["input_ids"]) for own in seeds]
    end = len(encode(known.sentence_break, add_special_tokens=False)["input_ids"])
    return max(sizes) + config.prefix_length + end if sizes else 0


def _probes(number: int, fact: Fact) -> Iterator[_Probe]:
    for i, text in enumerate(fact.paraphrase_texts):
        yield _Probe(number, f"paraphrases[{i}]", text, fact.target)
    for i, probe in enumerate(fact.neighbourhood):
        yield _Probe(number, f"neighbourhood[{i}].prompt", probe.prompt, probe.answer)


def _asked(
    model: EditableModel, facts: Sequence[Fact], probes: Sequence[_Probe]
) -> Iterator[Misfit]:
    """What is wrong with the texts that are asked and not edited."""
    limit = model.context
    for probe, size in zip(probes, _sizes(model, facts, probes), strict=True):
        if isinstance(size, TokenError):
            yield Misfit(probe.fact, probe.field, str(size))
        elif limit is not None and size > limit:
            yield Misfit(
                probe.fact,
                probe.field,
                f"expected at most {limit} tokens with its answer, the context of the model, got "
                f"{size}: shorten it, or leave it out",
            )


def _sizes(
    model: EditableModel, facts: Sequence[Fact], probes: Sequence[_Probe]
) -> list[int | TokenError]:
    """Tokens of each probe with its answer, or what keeps it from having any."""
    texts = [(facts[own.fact].language, own.prompt, own.answer) for own in probes]
    try:
        return [len(prompt) + len(answer) for prompt, answer in encode_all(model, texts)]
    except TokenError:
        return [_size(model, *own) for own in texts]  # one by one, to tell which


def _size(model: EditableModel, language: str, prompt: str, answer: str) -> int | TokenError:
    try:
        return sum(map(len, encode_answer(model, language, prompt, answer)))
    except TokenError as error:
        return error
