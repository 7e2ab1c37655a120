"""The published zsRE evaluation, with its habits of tokenisation, for comparison with its numbers.

It works on strings, one prompt for every token of an answer, and differs from our scores in this:

* a blank goes before every target, also in languages without spaces;
* the part of an answer that is given is decoded and tokenised again with the prompt, so a character
  cut between two tokens becomes U+FFFD, and the right token is the first one of the decoded token;
* neighbourhood questions get "nq question: " in front, in every language, and "?" behind, also
  after a question mark;
* a model with "llama" in its name is taken to put BOS in front of each text: its targets lose their
  first token, a second blank goes before the given part of a target, and the first token expected
  of a neighbourhood answer is BOS itself, which is never right and stands in the later prompts.

The released evaluator (`eval_utils_zsre` of MEMIT and its descendants) is described here from what
it recorded; see `docs/scores.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langedit.errors import ConfigError
from langedit.evaluation.forced import BATCH_TOKENS, forced_answers
from langedit.evaluation.metrics import mean_or_none
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes

_KINDS = ("efficacy", "generalization", "specificity")
_NQ = "nq question: "


@dataclass(frozen=True)
class CompatItem:
    """One token that is expected after one prompt.

    Attributes:
        kind: efficacy, generalization or specificity.
        prompt: the text, as the evaluator puts it together.
        expected: the token id.
    """

    kind: str
    prompt: str
    expected: int


@dataclass(frozen=True)
class CompatCase:
    """What the evaluator finds for one fact: its items in order, and what the model predicted."""

    items: tuple[CompatItem, ...]
    predicted: tuple[int, ...]

    def correct(self, kind: str) -> list[bool]:
        """The evaluator's list of a kind: whether each token was predicted."""
        pairs = zip(self.items, self.predicted, strict=True)
        return [item.expected == token for item, token in pairs if item.kind == kind]


def compat_cases(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    batch_tokens: int = BATCH_TOKENS,
    processes: Processes = ALONE,
) -> list[CompatCase]:
    """Evaluate facts as the published code does.

    Args:
        model: the model; "llama" in its `name_or_path` matters, as in the original.
        facts: the facts.
        batch_tokens: padded tokens in one forward pass.
        processes: as for `forced_answers`.

    Raises:
        ConfigError: the model is asked in a chat.
    """
    if model.chat is not None:
        raise ConfigError(
            "compat: expected a model that is asked in plain text, as the published evaluation "
            "does, got one that is asked in a chat: give model.with_chat(None)"
        )
    items = [tuple(_items(model, fact)) for fact in facts]
    flat = [item for own in items for item in own]
    encoded = [(_ids(model, item.prompt), (item.expected,)) for item in flat]
    found = forced_answers(model, encoded, batch_tokens=batch_tokens, processes=processes)
    answers = iter(found)
    return [CompatCase(own, tuple(next(answers).predicted[0] for _ in own)) for own in items]


def compat_values(
    model: EditableModel,
    facts: Sequence[Fact],
    kinds: Sequence[str],
    *,
    batch_tokens: int,
    processes: Processes = ALONE,
) -> list[dict[str, float | None]]:
    """Scores of each fact by name: shares of the evaluator's lists.

    Raises:
        ValueError: a kind that the evaluator does not have.
    """
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown:
        raise ValueError(f"compat: expected kinds among {', '.join(_KINDS)}, got {unknown}")
    cases = compat_cases(model, facts, batch_tokens=batch_tokens, processes=processes)
    return [
        {kind: mean_or_none(map(float, case.correct(kind))) for kind in kinds} for case in cases
    ]


def _items(model: EditableModel, fact: Fact) -> Iterator[CompatItem]:
    llama = "llama" in str(model.model.config.name_or_path).lower()
    target = _ids(model, f" {fact.target}")[1 if llama else 0 :]
    asked = [("efficacy", fact.text), *(("generalization", t) for t in fact.paraphrase_texts)]
    for kind, prompt in asked:
        for count, token in enumerate(target):
            blank = " " if llama and count else ""
            given = blank + _decode(model, target[:count])
            yield CompatItem(kind, prompt + given, _first_id(model, token, llama))
    for probe in fact.neighbourhood:
        answer = _ids(model, f" {probe.answer}")
        question = f"{_NQ}{probe.prompt.removeprefix(_NQ)}?"
        for count, token in enumerate(answer):
            prompt = question + _decode(model, answer[:count])
            yield CompatItem("specificity", prompt, _first_id(model, token, llama))


def _first_id(model: EditableModel, token: int, llama: bool) -> int:
    """Id that counts as right for a token: the first of its text, after BOS in a Llama."""
    ids = _ids(model, _decode(model, (token,)))
    at = 1 if llama else 0
    return ids[at] if at < len(ids) else model.pad_id


def _ids(model: EditableModel, text: str) -> tuple[int, ...]:
    encoded = cast(Any, model.tokenizer)(text, padding=False, truncation=False, verbose=False)
    return tuple(encoded["input_ids"])


def _decode(model: EditableModel, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids)))
