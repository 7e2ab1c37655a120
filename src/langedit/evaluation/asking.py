"""Ask a model, and work the scores of facts out of what it said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from langedit.evaluation import metrics
from langedit.evaluation.definitions import METRICS, Role
from langedit.evaluation.forced import BATCH_TOKENS, ForcedAnswer, forced_answers
from langedit.evaluation.questions import Question, Questions
from langedit.evaluation.texts import Continuation, continue_greedily
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes

_SLACK = 4
"""Tokens generated beyond an answer's own number: the same text may be cut into more tokens."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model said to questions.

    Attributes:
        questions: what was asked.
        forced: number of the question -> what the model said under teacher forcing.
        generated: number of the question -> how it went on after the prompt.
        fluency_tokens: tokens of a continuation that fluency looks at.
    """

    questions: Questions
    forced: Mapping[int, ForcedAnswer]
    generated: Mapping[int, Continuation]
    fluency_tokens: int

    def values(self, before: Answers | None = None) -> list[dict[str, float | None]]:
        """Scores of each fact by name; `None` where it has no probes for one.

        Args:
            before: what the unedited model said to the same questions; scores that compare with it
                are left out without it.

        Raises:
            ValueError: `before` answers other questions.
        """
        if before is not None and before.questions.asked != self.questions.asked:
            raise ValueError("expected the unedited model's answers to the same questions")
        of_fact: list[dict[Role, list[int]]] = [{} for _ in self.questions.facts]
        for number, question in enumerate(self.questions.asked):
            of_fact[question.fact].setdefault(question.role, []).append(number)
        kinds = [k for k in self.questions.kinds if before or not METRICS[k].needs_before]
        return [
            {kind: metrics.mean_or_none(self._of(kind, own, before)) for kind in kinds}
            for own in of_fact
        ]

    def _of(
        self, kind: str, numbers: Mapping[Role, list[int]], before: Answers | None
    ) -> list[float | None]:
        """A score of one fact at each question that it is about."""
        asked = [numbers.get(role, []) for role in METRICS[kind].roles]
        if kind in _PAIRED:
            return [
                metrics.is_likelier(
                    self.forced[a].log_probabilities, self.forced[b].log_probabilities
                )
                for a, b in zip(*asked, strict=False)
            ]
        if before is not None and METRICS[kind].needs_before:
            return [
                metrics.token_accuracy(self.forced[n].predicted, before.forced[n].predicted)
                for n in asked[0]
            ]
        if kind == "fluency":
            texts = (self.generated[n].ids[: self.fluency_tokens] for n in asked[0])
            return [metrics.ngram_entropy(ids) for ids in texts]
        return [self._one(kind, n) for n in asked[0]]

    def _one(self, kind: str, number: int) -> float:
        question = self.questions.asked[number]
        if METRICS[kind].generated:
            language = self.questions.facts[question.fact].language
            return metrics.begins_with_answer(
                self.generated[number].text, question.answer, language
            )
        answer = self.forced[number]
        rule = _PROBABILITIES.get(kind)
        if rule is not None:
            return rule(answer.log_probabilities)
        return metrics.token_accuracy(answer.predicted, question.answer_ids)


_PROBABILITIES: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "target_probability": metrics.probability_per_token,
        "target_probability_total": metrics.total_probability,
    }
)

_PAIRED = frozenset(name for name, metric in METRICS.items() if len(metric.roles) == 2)


def ask(
    model: EditableModel,
    questions: Questions,
    *,
    batch_tokens: int = BATCH_TOKENS,
    fluency_tokens: int = 50,
    processes: Processes = ALONE,
) -> Answers:
    """Ask everything: one teacher-forced pass, and one pass that generates where a score needs it.

    Args:
        model: the model as it is now, edited or not.
        questions: encoded with this model's tokenizer.
        batch_tokens: padded tokens in one batch.
        fluency_tokens: tokens generated for fluency.
        processes: each runs its share of the batches; all get every answer.
    """
    forced = _numbers(questions, generated=False)
    items = [(questions.asked[n].prompt_ids, questions.asked[n].answer_ids) for n in forced]
    generated = _numbers(questions, generated=True)
    fluent = fluency_tokens if "fluency" in questions.kinds else 0
    needed = [_new_tokens(questions.asked[n], fluent) for n in generated]
    prompts = [questions.asked[n].prompt_ids for n in generated]
    answers = forced_answers(model, items, batch_tokens=batch_tokens, processes=processes)
    texts = continue_greedily(
        model, prompts, needed, batch_tokens=batch_tokens, processes=processes
    )
    return Answers(
        questions=questions,
        forced=dict(zip(forced, answers, strict=True)),
        generated=dict(zip(generated, texts, strict=True)),
        fluency_tokens=fluency_tokens,
    )


def _numbers(questions: Questions, *, generated: bool) -> list[int]:
    """Numbers of the questions that the generated scores, or the others, need."""
    kinds = [METRICS[kind] for kind in questions.kinds if METRICS[kind].generated is generated]
    roles = {role for metric in kinds for role in metric.roles}
    return [n for n, question in enumerate(questions.asked) if question.role in roles]


def _new_tokens(question: Question, fluent: int) -> int:
    exact = len(question.answer_ids) + _SLACK
    return max(exact, fluent) if question.role == "prompt" else exact
