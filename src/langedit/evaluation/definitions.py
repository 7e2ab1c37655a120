"""What every score means, as data: printed beside numbers, and stored with them.

An *answer* is a target, or the answer of a probe. *Forced* scores come from one pass over prompt
and answer in which each token is predicted from the prompt and the answer's own earlier tokens
(teacher forcing). *Generated* ones come from text that the model continues on its own, always with
its most probable token (greedy). A score of several facts is the mean over those that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Role = Literal[
    "prompt",
    "paraphrase",
    "neighbourhood",
    "portability",
    "prompt, old",
    "paraphrase, old",
    "neighbourhood, target",
]
"""What is asked of a fact: a prompt with its right answer, or with another one after the comma."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of a fact.

    Attributes:
        definition: what is measured, in a sentence.
        roles: what has to be asked.
        generated: whether text is generated for it; else it comes from the forced pass.
        share: whether it lies in [0, 1]; else its unit stands in the definition.
        needs_before: whether it compares with what the unedited model predicted.
    """

    definition: str
    roles: tuple[Role, ...]
    generated: bool = False
    share: bool = True
    needs_before: bool = False


_ACCURACY = (
    "share of the tokens of {} that are the most probable next token, given the earlier ones"
)
_EXACT = (
    "whether the greedily generated text begins with {} (Unicode composition and white space "
    "evened out, ending where a word ends)"
)
_LIKELIER = (
    "whether {} has a larger mean log-probability a token than {} (as in ROME); a tie is not"
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "efficacy": Metric(
            definition=_ACCURACY.format("the target after its prompt"), roles=("prompt",)
        ),
        "generalization": Metric(
            definition=_ACCURACY.format("the target after a paraphrase") + ", mean of paraphrases",
            roles=("paraphrase",),
        ),
        "specificity": Metric(
            definition=_ACCURACY.format("a neighbourhood probe's true answer") + ", mean of probes",
            roles=("neighbourhood",),
        ),
        "portability": Metric(
            definition=_ACCURACY.format("a portability probe's answer") + ", mean of probes",
            roles=("portability",),
        ),
        "agreement": Metric(
            definition="share of the tokens of neighbourhood answers at which the most probable "
            "token is the one of the unedited model (right or wrong), mean of probes",
            roles=("neighbourhood",),
            needs_before=True,
        ),
        "target_probability": Metric(
            definition="probability of the target after its prompt, geometric mean of its tokens",
            roles=("prompt",),
        ),
        "target_probability_total": Metric(
            definition="probability of the whole target after its prompt, product of its tokens",
            roles=("prompt",),
        ),
        "success": Metric(
            definition=_LIKELIER.format("the target", "the old answer") + ", after the prompt",
            roles=("prompt", "prompt, old"),
        ),
        "generalization_success": Metric(
            definition=_LIKELIER.format("the target", "the old answer")
            + ", after a paraphrase, mean of paraphrases",
            roles=("paraphrase", "paraphrase, old"),
        ),
        "specificity_success": Metric(
            definition=_LIKELIER.format("a neighbourhood probe's true answer", "the fact's target")
            + ", mean of probes, for facts whose old answer is known",
            roles=("neighbourhood", "neighbourhood, target"),
        ),
        "efficacy_exact": Metric(
            definition=_EXACT.format("the target") + ", after the prompt",
            roles=("prompt",),
            generated=True,
        ),
        "generalization_exact": Metric(
            definition=_EXACT.format("the target") + ", after a paraphrase, mean of paraphrases",
            roles=("paraphrase",),
            generated=True,
        ),
        "specificity_exact": Metric(
            definition=_EXACT.format("a neighbourhood probe's true answer") + ", mean of probes",
            roles=("neighbourhood",),
            generated=True,
        ),
        "portability_exact": Metric(
            definition=_EXACT.format("a portability probe's answer") + ", mean of probes",
            roles=("portability",),
            generated=True,
        ),
        "fluency": Metric(
            definition="(2/3 H2 + 4/3 H3) / 2 with the entropies in bits of the bigrams and "
            "trigrams of the text generated greedily after the prompt (ROME's formula, over the "
            "model's tokens instead of words, so that every language has one); low where text "
            "repeats",
            roles=("prompt",),
            generated=True,
            share=False,
        ),
    }
)
"""Scores of a fact by name, in the order in which they are shown."""

PERPLEXITY = (
    "exp of the mean negative natural log-probability of a token of a text, given the tokens "
    "before it; the first token of each text is not counted"
)

FORCED: tuple[str, ...] = tuple(
    name for name, metric in METRICS.items() if not (metric.generated or metric.needs_before)
)
"""Scores of the forced pass that need nothing but the model and the facts."""

GENERATED: tuple[str, ...] = tuple(name for name, metric in METRICS.items() if metric.generated)
"""Scores of the generation pass."""


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of scores, in the order of `METRICS`.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    asked = set(kinds)
    unknown = sorted(asked - set(METRICS))
    if unknown or not asked:
        raise ValueError(
            f"expected kinds among {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}"
        )
    return tuple(name for name in METRICS if name in asked)


def definitions(names: Iterable[str]) -> dict[str, str]:
    """Name -> definition of the scores of `METRICS` among some names; others are passed over."""
    return {name: METRICS[name].definition for name in names if name in METRICS}
