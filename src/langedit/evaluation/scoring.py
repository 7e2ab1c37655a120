"""Scores of facts on a model, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from langedit.evaluation.asking import Answers, ask
from langedit.evaluation.compat import compat_values
from langedit.evaluation.forced import BATCH_TOKENS
from langedit.evaluation.metrics import mean_or_none
from langedit.evaluation.questions import Questions
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes

KINDS = ("efficacy", "generalization", "specificity")
"""The scores of the paper: what is computed if nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class ScoreValues:
    """Scores by name, defined in `METRICS`; `None` where there is none, or none was asked for."""

    efficacy: float | None = None
    generalization: float | None = None
    specificity: float | None = None
    portability: float | None = None
    agreement: float | None = None
    target_probability: float | None = None
    target_probability_total: float | None = None
    success: float | None = None
    generalization_success: float | None = None
    specificity_success: float | None = None
    efficacy_exact: float | None = None
    generalization_exact: float | None = None
    specificity_exact: float | None = None
    portability_exact: float | None = None
    fluency: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, without the scores that are missing; those of the paper stay."""
        values = asdict(self)
        return {name: v for name, v in values.items() if v is not None or name in KINDS}

    def shares(self) -> dict[str, float | None]:
        """The scores by name, without the language."""
        return {kind: getattr(self, kind) for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class FactScore(ScoreValues):
    """Scores of one fact."""

    language: str


@dataclass(frozen=True, kw_only=True)
class Scores(ScoreValues):
    """Means over several facts, each over those facts that have the score."""

    facts: int

    @classmethod
    def of(cls, scores: Sequence[FactScore]) -> Scores:
        """Average the scores of facts."""
        means = {
            own.name: mean_or_none(getattr(score, own.name) for score in scores)
            for own in fields(ScoreValues)
        }
        return cls(facts=len(scores), **means)


def score_facts(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    kinds: Sequence[str] = KINDS,
    before: Answers | None = None,
    compat: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    processes: Processes = ALONE,
) -> list[FactScore]:
    """Score facts with one teacher-forced pass, and one that generates where a score needs it.

    Args:
        model: the model as it is now, edited or not.
        facts: the facts.
        kinds: names of scores, as in `METRICS`.
        before: what the unedited model said to these facts' questions, of the same kinds.
        compat: score as the published zsRE evaluation does, with its habits of tokenisation
            (`langedit.evaluation.compat`); for the three scores of the paper only.
        batch_tokens: padded tokens in one forward pass.
        processes: each runs its share of the forward passes, which do not depend on their number;
            all get every score.

    Returns:
        One score a fact, in order.

    Raises:
        TokenError: a text has no tokens of its own.
        ValueError: an unknown kind, one that `compat` does not have, or answers to other questions.
    """
    if compat:
        found = compat_values(model, facts, kinds, batch_tokens=batch_tokens, processes=processes)
        return fact_scores(facts, found)
    questions = Questions.of(model, facts, kinds)
    answers = ask(model, questions, batch_tokens=batch_tokens, processes=processes)
    return fact_scores(facts, answers.values(before))


def fact_scores(
    facts: Sequence[Fact], values: Sequence[Mapping[str, float | None]]
) -> list[FactScore]:
    """Put the scores of facts by name beside their languages."""
    return [
        FactScore(language=fact.language, **own) for fact, own in zip(facts, values, strict=True)
    ]


def score_both_ways(
    model: EditableModel, facts: Sequence[Fact], *, processes: Processes = ALONE
) -> tuple[tuple[FactScore, ...], tuple[FactScore, ...]]:
    """Scores of facts as the model is asked and, where that is in a chat, also as plain text.

    Args:
        model: the model as it is now, edited or not.
        facts: the facts.
        processes: as for `score_facts`.

    Returns:
        The scores, and those as plain text: none for a model that is asked in plain text anyway.
    """
    own = tuple(score_facts(model, facts, processes=processes))
    if model.chat is None:
        return own, ()
    return own, tuple(score_facts(model.with_chat(None), facts, processes=processes))


def mean_scores(scores: Sequence[FactScore]) -> dict[str, Any]:
    """Means over all facts and by language as JSON-able values, as reports have them."""
    return {
        "all": Scores.of(scores).to_dict(),
        "by_language": {name: own.to_dict() for name, own in by_language(scores).items()},
    }


def by_language(scores: Sequence[FactScore]) -> Mapping[str, Scores]:
    """Means by language, languages in order of first appearance."""
    languages = dict.fromkeys(score.language for score in scores)
    return {
        language: Scores.of([score for score in scores if score.language == language])
        for language in languages
    }
