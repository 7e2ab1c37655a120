"""Retention: how the facts of each batch fare after later batches, on a chosen grid of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langedit.evaluation.asking import ask
from langedit.evaluation.definitions import METRICS
from langedit.evaluation.metrics import mean_or_none
from langedit.evaluation.questions import Questions
from langedit.facts import Fact
from langedit.models import EditableModel

BatchValues = tuple[float | None, ...]
"""Scores of the facts of one batch, in order."""


@dataclass(frozen=True, kw_only=True)
class ScoreHistory:
    """Scores of every fact of batch i after batch j, for the steps j that were scored.

    Attributes:
        languages: language code of each batch, in the order in which they are edited; for a batch
            of several languages those of its scored facts.
        values: step j -> for each batch 0..j the scores of its facts; steps rise.
    """

    languages: tuple[str | tuple[str, ...], ...]
    values: Mapping[int, tuple[BatchValues, ...]]

    def __post_init__(self) -> None:
        for step, batches in self.values.items():
            if not 0 <= step < len(self.languages) or len(batches) != step + 1:
                raise ValueError(
                    f"expected the batches up to step {step} of {len(self.languages)}, got "
                    f"{len(batches)}"
                )
        if list(self.values) != sorted(self.values):
            raise ValueError(f"expected steps in rising order, got {list(self.values)}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Batches, counted from 0, after which earlier ones were scored."""
        return tuple(self.values)

    def of(self, batch: int, step: int) -> BatchValues:
        """Scores of a batch's facts after a step, which must have been scored."""
        return self.values[step][batch]

    def language(self, batch: int) -> str | None:
        """Language of a batch; `None` for one of several languages."""
        own = self.languages[batch]
        return own if isinstance(own, str) else None

    def language_of(self, batch: int, number: int) -> str:
        """Language of a scored fact of a batch."""
        own = self.languages[batch]
        return own if isinstance(own, str) else own[number]

    def retention(self) -> dict[int, tuple[float | None, ...]]:
        """Step j -> mean score of each batch 0..j."""
        return {
            step: tuple(mean_or_none(batch) for batch in batches)
            for step, batches in self.values.items()
        }


def retention_grid(batches: int, every: int = 1) -> tuple[int, ...]:
    """Steps after each `every`-th batch, and always after the last.

    Raises:
        ValueError: a number below 1.
    """
    if batches < 1 or every < 1:
        raise ValueError(f"expected at least one batch and a step of 1, got {batches}, {every}")
    return tuple(sorted({*range(every - 1, batches, every), batches - 1}))


@dataclass(frozen=True, kw_only=True)
class RetentionProbe:
    """Asks about the batches so far, as often as the model changes; texts are encoded once.

    Attributes:
        questions: about the facts of all batches.
        sizes: facts in each batch.
        metric: name of the score.
    """

    questions: Questions
    sizes: tuple[int, ...]
    metric: str

    @classmethod
    def of(
        cls, model: EditableModel, batches: Sequence[Sequence[Fact]], metric: str = "efficacy"
    ) -> RetentionProbe:
        """Encode the questions about all batches.

        Raises:
            TokenError: a text has no tokens of its own.
            ValueError: an unknown metric, or one that compares with the unedited model.
        """
        if metric in METRICS and METRICS[metric].needs_before:
            raise ValueError(f"expected a score of one model alone, got {metric}")
        facts = [fact for batch in batches for fact in batch]
        questions = Questions.of(model, facts, (metric,))
        return cls(questions=questions, sizes=tuple(map(len, batches)), metric=metric)

    def after(self, model: EditableModel, step: int) -> tuple[BatchValues, ...]:
        """Scores of the facts of batches 0..step on the model as it is now, in one pass."""
        count = sum(self.sizes[: step + 1])
        scores = [own[self.metric] for own in ask(model, self.questions.first(count)).values()]
        ends = [sum(self.sizes[: i + 1]) for i in range(step + 1)]
        return tuple(
            tuple(scores[end - size : end]) for size, end in zip(self.sizes, ends, strict=False)
        )
