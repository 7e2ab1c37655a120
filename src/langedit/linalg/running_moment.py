"""The two refresh rules of LangEdit's running second moment.

With `C_0` the corpus moment, `S` the *sum* of `k kᵀ` over all keys edited so far, `n` edits a
batch and batches `t = 0, 1, ...`:

released  `C_t = N/(N+n·t)·C_{t−1} + n/(N+n·t)·S`: what the published code does. The cumulative
          sum enters again at each step, so an old key weighs far more than its share.
pooled    `C_t = (N·C_0 + S)/(N + n·t)`: the mean over corpus and edited keys, as the paper says.

Both leave `C_0` as it is at `t = 0`. The counts of the results are the weights `N + n·t`, not
numbers of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from langedit.errors import ConfigError, NumericalError
from langedit.linalg.checks import require_finite
from langedit.linalg.moments import SecondMoment

CORPUS_WEIGHT = 100_000
"""`N`, the number of samples for which the corpus moment stands in the published code."""


def released_moment(
    previous: SecondMoment,
    past_gram: Tensor,
    *,
    step: int,
    batch_size: int,
    corpus_weight: int = CORPUS_WEIGHT,
) -> SecondMoment:
    """Return `C_t` of the released rule for batch `t = step >= 1`.

    Args:
        previous: `C_{t−1}`, which is the corpus moment when `step` is 1.
        past_gram: `S (d, d)`, the sum over the keys of all batches before `step`.
        step: `t`, the number of batches already edited.
        batch_size: `n`. The published code has 100 here whatever the batch.
        corpus_weight: `N`.

    Raises:
        ConfigError: When `step`, `batch_size` or `corpus_weight` is below 1.
        NumericalError: When `past_gram` has another shape or is not finite.
    """
    _require_counts(step=step, batch_size=batch_size, corpus_weight=corpus_weight)
    total = corpus_weight + batch_size * step
    mean = _as_gram(past_gram, previous) * (batch_size / total)
    mean += previous.mean.to(torch.float64) * (corpus_weight / total)
    rounding = previous.rounding * (corpus_weight / total)
    return SecondMoment(count=total, mean=mean, rounding=rounding)


def pooled_moment(
    corpus: SecondMoment,
    past_gram: Tensor,
    *,
    edits: int,
    corpus_weight: int = CORPUS_WEIGHT,
) -> SecondMoment:
    """Return `(N·C_0 + S)/(N + edits)`, the moment pooled over corpus and edited keys.

    Args:
        corpus: `C_0`.
        past_gram: `S (d, d)`, the sum over all keys edited so far.
        edits: How many keys `past_gram` sums, `n·t`.
        corpus_weight: `N`.

    Raises:
        ConfigError: When `edits` or `corpus_weight` is below 1.
        NumericalError: When `past_gram` has another shape or is not finite.
    """
    _require_counts(edits=edits, corpus_weight=corpus_weight)
    total = corpus_weight + edits
    mean = _as_gram(past_gram, corpus) / total
    mean += corpus.mean.to(torch.float64) * (corpus_weight / total)
    rounding = corpus.rounding * (corpus_weight / total)
    return SecondMoment(count=total, mean=mean, rounding=rounding)


def _as_gram(past_gram: Tensor, moment: SecondMoment) -> Tensor:
    if past_gram.shape != moment.mean.shape:
        raise NumericalError(
            f"gram of the past keys: expected shape {tuple(moment.mean.shape)}, got "
            f"{tuple(past_gram.shape)}; it is the sum of k kᵀ at the same layer"
        )
    require_finite("gram of the past keys", past_gram)
    return past_gram.to(moment.mean.device, torch.float64)


def _require_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
