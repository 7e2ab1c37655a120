"""Scores as pure functions: token ids, log-probabilities and texts in, numbers out.

What each score of a fact means stands in `langedit.evaluation.definitions`.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from langedit.facts import Language


def token_accuracy(predicted: Sequence[int], expected: Sequence[int]) -> float:
    """Share of the expected tokens that were predicted, position by position.

    Raises:
        ValueError: the two differ in length, or there is no token.
    """
    if len(predicted) != len(expected) or not expected:
        raise ValueError(
            f"expected as many predictions as tokens, and at least one, got {len(predicted)} for "
            f"{len(expected)}"
        )
    right = sum(a == b for a, b in zip(predicted, expected, strict=True))
    return right / len(expected)


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; `None` if there are none."""
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def probability_per_token(log_probabilities: Sequence[float]) -> float:
    """Geometric mean of the probabilities of an answer's tokens.

    Args:
        log_probabilities: natural logarithms, one a token, at least one.
    """
    return math.exp(math.fsum(log_probabilities) / len(log_probabilities))


def total_probability(log_probabilities: Sequence[float]) -> float:
    """Probability of a whole answer: the product over its tokens, given as natural logarithms."""
    return math.exp(math.fsum(log_probabilities))


def is_likelier(first: Sequence[float], second: Sequence[float]) -> float:
    """1.0 if the first answer has the larger mean log-probability a token, else 0.0.

    Args:
        first: log-probabilities of the first answer's tokens.
        second: of the second's, which may have another number of tokens.
    """
    means = [math.fsum(values) / len(values) for values in (first, second)]
    return float(means[0] > means[1])


def begins_with_answer(text: str, answer: str, language: str) -> float:
    """1.0 if a generated text begins with the answer, else 0.0.

    Case counts; Unicode composition and runs of white space do not. In languages with spaces the
    answer must end where a word ends: "not" does not begin with "no".
    """
    found, wanted = _evened(text), _evened(answer)
    if not found.startswith(wanted):
        return 0.0
    rest = found[len(wanted) :]
    runs_on = wanted[-1].isalnum() and rest[:1].isalnum()
    return float(not (runs_on and Language.parse(language).joins_with_space))


def ngram_entropy(tokens: Sequence[int]) -> float | None:
    """Weighted mean of the entropies (bits) of a text's bigrams and trigrams.

    The weights are 2/3 and 4/3, as in ROME (Meng et al., 2022): (2/3 H2 + 4/3 H3) / 2. A text that
    repeats itself has a low value.

    Returns:
        `None` for a text of fewer than three tokens, which has no trigram.
    """
    if len(tokens) < 3:
        return None
    bigrams, trigrams = (_entropy(tokens, n) for n in (2, 3))
    return (2 * bigrams + 4 * trigrams) / 6


def _entropy(tokens: Sequence[int], n: int) -> float:
    """Entropy in bits of the distribution of n-grams."""
    counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    total = counts.total()
    return math.fsum(-c / total * math.log2(c / total) for c in counts.values())


def _evened(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
