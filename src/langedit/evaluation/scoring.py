"""Scores of facts on a model: efficacy, generalization, specificity, perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langedit.errors import FactError
from langedit.evaluation.answers import encode_answer, forced_predictions, text_log_probabilities
from langedit.evaluation.metrics import mean_or_none, token_accuracy
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes


@dataclass(frozen=True)
class FactScore:
    """Scores of one fact in [0, 1]; `None` where the fact has no such probes, or none was asked.

    See `langedit.evaluation.metrics` for the definitions.
    """

    language: str
    efficacy: float | None = None
    generalization: float | None = None
    specificity: float | None = None


@dataclass(frozen=True)
class Scores:
    """Means over several facts; `None` where no fact has such probes."""

    facts: int
    efficacy: float | None
    generalization: float | None
    specificity: float | None

    @classmethod
    def of(cls, scores: Sequence[FactScore]) -> Scores:
        """Average the scores of facts."""
        return cls(
            facts=len(scores),
            efficacy=mean_or_none(score.efficacy for score in scores),
            generalization=mean_or_none(score.generalization for score in scores),
            specificity=mean_or_none(score.specificity for score in scores),
        )


KINDS = ("efficacy", "generalization", "specificity")


def score_facts(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    kinds: Sequence[str] = KINDS,
    batch_tokens: int = 8192,
    processes: Processes = ALONE,
) -> list[FactScore]:
    """Score facts under teacher forcing, with one forward pass for all their probes.

    Args:
        model: the model as it is now, edited or not.
        facts: the facts.
        kinds: which of efficacy, generalization and specificity to compute.
        batch_tokens: padded tokens in one forward pass.
        processes: each scores its share of the facts; all get every score.

    Returns:
        One score a fact, in order.

    Raises:
        TokenError: a text has no tokens of its own.
        ValueError: an unknown kind.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"expected kinds among {', '.join(KINDS)}, got {', '.join(unknown)}")

    def score(own: Sequence[Fact]) -> list[FactScore]:
        return _score_here(model, own, kinds, batch_tokens)

    return processes.spread(facts, score)


def _score_here(
    model: EditableModel, facts: Sequence[Fact], kinds: Sequence[str], batch_tokens: int
) -> list[FactScore]:
    """Scores of facts, with this process's model."""
    items, owners = [], []
    for index, fact in enumerate(facts):
        for kind, prompt, answer in _probes(fact):
            if kind in kinds:
                items.append(encode_answer(model, fact.language, prompt, answer))
                owners.append((index, kind))
    predicted = forced_predictions(model, items, batch_tokens=batch_tokens)
    found: dict[tuple[int, str], list[float]] = {}
    for owner, (_, answer_ids), ids in zip(owners, items, predicted, strict=True):
        found.setdefault(owner, []).append(token_accuracy(ids, answer_ids))
    return [
        FactScore(
            fact.language,
            **{kind: mean_or_none(found.get((index, kind), ())) for kind in KINDS},
        )
        for index, fact in enumerate(facts)
    ]


def by_language(scores: Sequence[FactScore]) -> Mapping[str, Scores]:
    """Means by language, languages in order of first appearance."""
    languages = dict.fromkeys(score.language for score in scores)
    return {
        language: Scores.of([score for score in scores if score.language == language])
        for language in languages
    }


def perplexity(model: EditableModel, texts: Sequence[str], *, batch_tokens: int = 4096) -> float:
    """Exp of the mean negative log-probability of a token, over all tokens of all texts.

    Raises:
        FactError: the texts have no token that has a context.
    """
    total, count = 0.0, 0
    for log_probabilities in text_log_probabilities(model, texts, batch_tokens=batch_tokens):
        total += float(log_probabilities.double().sum())
        count += len(log_probabilities)
    if not count:
        raise FactError("perplexity: expected texts of two or more tokens, got none")
    return math.exp(-total / count)


def _probes(fact: Fact) -> list[tuple[str, str, str]]:
    """(kind, prompt, answer) of everything that is asked about a fact."""
    return [
        ("efficacy", fact.text, fact.target),
        *(("generalization", text, fact.target) for text in fact.paraphrase_texts),
        *(("specificity", probe.prompt, probe.answer) for probe in fact.neighbourhood),
    ]
