"""What is asked about facts: encoded once, asked as often as the model changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langedit.evaluation.definitions import METRICS, Role, check_kinds
from langedit.evaluation.forced import encode_all
from langedit.facts import Fact, comparable
from langedit.models import EditableModel


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and an answer that is asked for.

    Attributes:
        fact: number of the fact among those asked about.
        role: what the question is to the fact.
        answer: the answer's text.
        prompt_ids: token ids of the prompt.
        answer_ids: token ids of the answer as it follows the prompt.
    """

    fact: int
    role: Role
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Everything that some scores need to know of some facts.

    Attributes:
        facts: the facts.
        kinds: names of the scores, as in `METRICS`.
        asked: the questions, fact after fact.
    """

    facts: tuple[Fact, ...]
    kinds: tuple[str, ...]
    asked: tuple[Question, ...]

    @classmethod
    def of(cls, model: EditableModel, facts: Sequence[Fact], kinds: Sequence[str]) -> Questions:
        """Put the questions together and tokenise them.

        Args:
            model: of which only the tokenizer is used.
            facts: the facts.
            kinds: names of scores.

        Raises:
            TokenError: a text has no tokens of its own.
            ValueError: an unknown kind, or none.
        """
        names = check_kinds(kinds)
        roles = {role for name in names for role in METRICS[name].roles}
        wanted = [
            (index, role, prompt, answer)
            for index, fact in enumerate(facts)
            for role, prompt, answer in _of_fact(fact)
            if role in roles
        ]
        encoded = encode_all(
            model, [(facts[index].language, prompt, answer) for index, _, prompt, answer in wanted]
        )
        asked = tuple(
            Question(index, role, answer, prompt_ids, answer_ids)
            for (index, role, _, answer), (prompt_ids, answer_ids) in zip(
                wanted, encoded, strict=True
            )
        )
        return cls(facts=tuple(facts), kinds=names, asked=asked)

    def first(self, count: int) -> Questions:
        """The same for the first facts only."""
        asked = tuple(question for question in self.asked if question.fact < count)
        return Questions(facts=self.facts[:count], kinds=self.kinds, asked=asked)


def _of_fact(fact: Fact) -> Iterator[tuple[Role, str, str]]:
    """(role, prompt, answer) of everything that can be asked about a fact."""
    old = fact.old
    if old is not None and comparable(old) == comparable(fact.target):
        old = None
    yield "prompt", fact.text, fact.target
    if old is not None:
        yield "prompt, old", fact.text, old
    for text in fact.paraphrase_texts:
        yield "paraphrase", text, fact.target
        if old is not None:
            yield "paraphrase, old", text, old
    for probe in fact.neighbourhood:
        yield "neighbourhood", probe.prompt, probe.answer
        if old is not None:
            yield "neighbourhood, target", probe.prompt, fact.target
    for probe in fact.portability:
        yield "portability", probe.prompt, probe.answer
