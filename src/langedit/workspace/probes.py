"""What is asked of the model around a batch: its own facts, earlier ones, and the guard rails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from langedit.editing import BatchReport, Editor
from langedit.errors import ConfigError, NumericalError
from langedit.evaluation import (
    FactScore,
    encode_answer,
    forced_answers,
    mean_or_none,
    perplexity,
    score_both_ways,
    score_facts,
    token_accuracy,
)
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes
from langedit.profiler import timed
from langedit.workspace.guards import Canary, GuardSettings

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the guard rails compare with.

    Attributes:
        texts: for the perplexity.
        perplexity: that of the unedited model; `None` without texts.
    """

    texts: tuple[str, ...] = ()
    perplexity: float | None = None

    @classmethod
    def of(cls, model: EditableModel, guards: GuardSettings, texts: Sequence[str]) -> Baseline:
        """Measure the unedited model.

        Raises:
            ConfigError: it does not give the answer of a canary, or texts have no finite
                perplexity.
            NumericalError: it gives no probabilities.
        """
        for canary, right, said in _ask(model, guards.canaries):
            if not right:
                raise ConfigError(
                    f"guards: expected the unedited model to answer {canary.answer!r} after "
                    f"{canary.prompt!r}, got {said!r}: mend or remove this canary"
                )
        value = perplexity(model, texts) if texts else None
        if value is not None and not math.isfinite(value):
            raise ConfigError(
                "guards: texts: expected texts that the unedited model finds possible, got a "
                "perplexity beyond all numbers: give texts of a kind that it was trained on"
            )
        return cls(texts=tuple(texts), perplexity=value)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One guard rail after one batch.

    Attributes:
        name: the setting.
        value: what was measured; `None` where there was nothing to measure.
        limit: the setting's value.
        broken: whether the batch broke it.
        detail: which canary, or which layer.
    """

    name: str
    value: float | None
    limit: float
    broken: bool
    detail: str = ""

    def __str__(self) -> str:
        value = "nothing" if self.value is None else f"{self.value:.4g}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.name}: expected {self.limit:g}, got {value}{detail}"


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Answers after a batch.

    Attributes:
        scores: of the batch's facts.
        plain_scores: of a model that is asked in a chat: of the same facts as plain text.
        retention: mean efficacy of earlier facts now, divided by what it was right after their own
            batches; `None` where none was right then, or none was asked.
    """

    scores: tuple[FactScore, ...]
    plain_scores: tuple[FactScore, ...]
    retention: float | None


def probe_batch(
    editor: Editor, facts: Sequence[Fact], earlier: Sequence[tuple[Fact, float]]
) -> Probed:
    """Score a batch and a sample of earlier facts on the model as it is now.

    Args:
        editor: holds the model.
        facts: the batch.
        earlier: facts of other batches, with their efficacy right after these.
    """
    with timed({}, "scores", editor.profiler):
        scores, plain = score_both_ways(editor.model, facts, processes=editor.processes)
        now = efficacies(editor, [fact for fact, _ in earlier])
    mean_now = mean_or_none(now)
    then = mean_or_none(efficacy for _, efficacy in earlier)
    kept = mean_now / then if mean_now is not None and then else None
    return Probed(scores=scores, plain_scores=plain, retention=kept)


def efficacies(editor: Editor, facts: Sequence[Fact]) -> list[float | None]:
    """Efficacy of each fact on the model as it is now; all processes of the editor call this."""
    kinds = ("efficacy",)
    scores = score_facts(editor.model, facts, kinds=kinds, processes=editor.processes)
    return [score.efficacy for score in scores]


def specificity(editor: Editor, facts: Sequence[Fact]) -> float | None:
    """Mean specificity of facts; `None` if they have no neighbourhood."""
    kinds = ("specificity",)
    scores = score_facts(editor.model, facts, kinds=kinds, processes=editor.processes)
    return mean_or_none(score.specificity for score in scores)


def read_guards(
    editor: Editor,
    guards: GuardSettings,
    baseline: Baseline,
    report: BatchReport,
    probed: Probed,
    specificity_before: float | None,
) -> tuple[Reading, ...]:
    """Every guard rail that is set, measured on the model as it is now."""
    readings: list[Reading] = []
    if guards.canaries:
        readings.append(_read_canaries(editor, guards.canaries))
    if guards.max_perplexity_ratio is not None and baseline.perplexity is not None:
        limit = guards.max_perplexity_ratio
        readings.append(_read_perplexity(editor, baseline.texts, baseline.perplexity, limit))
    if guards.max_specificity_loss is not None:
        after = mean_or_none(score.specificity for score in probed.scores)
        lost = None
        if after is not None and specificity_before is not None:
            lost = specificity_before - after
        readings.append(_at_most("max_specificity_loss", lost, guards.max_specificity_loss))
    if guards.max_update_norm is not None:
        layer, norm = max(report.norms.items(), key=lambda item: item[1].ratio)
        readings.append(
            _at_most("max_update_norm", norm.ratio, guards.max_update_norm, f"layer {layer}")
        )
    left = {layer: use.left_after for layer, use in report.ranks.items() if use is not None}
    if guards.min_rank_left is not None and left:
        layer = min(left, key=lambda own: left[own])
        limit = guards.min_rank_left
        readings.append(_at_least("min_rank_left", left[layer], limit, f"layer {layer}"))
    if guards.min_retention is not None:
        readings.append(_at_least("min_retention", probed.retention, guards.min_retention))
    return tuple(readings)


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of the items, evenly spread over them, the first and the last included."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _read_canaries(editor: Editor, canaries: Sequence[Canary]) -> Reading:
    asked = _ask(editor.model, canaries, editor.processes)
    wrong = [f"{canary.prompt!r} -> {said!r}" for canary, right, said in asked if not right]
    share = 1 - len(wrong) / len(asked)
    return Reading(
        name="canaries", value=share, limit=1.0, broken=bool(wrong), detail="; ".join(wrong)
    )


def _read_perplexity(editor: Editor, texts: Sequence[str], before: float, limit: float) -> Reading:
    """The ratio to the perplexity before; a model that has none breaks the rail without a value."""
    name = "max_perplexity_ratio"
    try:
        ratio = perplexity(editor.model, texts, processes=editor.processes) / before
    except NumericalError as error:
        return Reading(name=name, value=None, limit=limit, broken=True, detail=str(error))
    if not math.isfinite(ratio):
        detail = "a perplexity beyond all numbers"
        return Reading(name=name, value=None, limit=limit, broken=True, detail=detail)
    return _at_most(name, ratio, limit)


def _ask(
    model: EditableModel, canaries: Sequence[Canary], processes: Processes = ALONE
) -> list[tuple[Canary, bool, str]]:
    """(canary, whether all tokens of its answer are the model's first choice, what these are)."""
    items = [encode_answer(model, own.language, own.prompt, own.answer) for own in canaries]
    predicted = [own.predicted for own in forced_answers(model, items, processes=processes)]
    return [
        (canary, token_accuracy(ids, answer) == 1.0, str(model.tokenizer.decode(list(ids))))
        for canary, ids, (_, answer) in zip(canaries, predicted, items, strict=True)
    ]


def _at_most(name: str, value: float | None, limit: float, detail: str = "") -> Reading:
    # A value that is no number breaks the rail: no comparison with it is true.
    broken = value is not None and not value <= limit
    return Reading(name=name, value=value, limit=limit, broken=broken, detail=detail)


def _at_least(name: str, value: float | None, limit: float, detail: str = "") -> Reading:
    broken = value is not None and not value >= limit
    return Reading(name=name, value=value, limit=limit, broken=broken, detail=detail)
