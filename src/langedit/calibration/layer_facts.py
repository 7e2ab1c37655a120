"""What decides where and how a model can be edited, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.editing import EditConfig, EditRequest, Moments, compute_keys, optimise_targets
from langedit.editing.finite import naming_facts, require_finite_facts
from langedit.editing.keys import lookup_hidden
from langedit.errors import NumericalError
from langedit.linalg import NullSpaceProjector, Spectrum
from langedit.linalg.projector import null_fraction
from langedit.models import EditableModel

STRIDES = (0.03, 0.1, 0.3)
"""Lengths of Adam's first step, relative to the hidden state, at which targets are tried."""

NULL_SHARES = (0.5, 0.7, 0.9)
"""Shares of null directions for which statistics are given."""

_REACHED = math.log(2)
"""Nats a token below which a target is more probable than everything else together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """Which targets are reached when the output of a layer is changed.

    Attributes:
        reached: (strides, layers, n) bool, of each of `STRIDES`, layer and fact.
        failed: (strides, layers, n) bool, where a loss or target was not finite; these are not
            reached.
        names: of the n facts, for messages.
        languages: of the same facts.
        lengths: (layers,) mean length of the hidden states at the lookup tokens.
    """

    reached: Tensor
    failed: Tensor
    names: tuple[str, ...]
    languages: tuple[str, ...]
    lengths: tuple[float, ...]

    @property
    def overflowing(self) -> tuple[str, ...]:
        """Names of the facts whose target was not finite at some layer and stride."""
        found = self.failed.any(dim=0).any(dim=0).tolist()
        return tuple(name for name, bad in zip(self.names, found, strict=True) if bad)

    def shares(self, language: str | None = None) -> Tensor:
        """(strides, layers) share of the facts (of a language) whose target is reached."""
        own = [i for i, code in enumerate(self.languages) if language in (None, code)]
        return self.reached[:, :, own].float().mean(dim=2)

    def best(self, language: str | None = None) -> list[float]:
        """For each layer the share at the stride that is best there."""
        found: list[float] = self.shares(language).max(dim=0).values.tolist()
        return found

    def stride(self, layer: int) -> float:
        """The stride that is best at a layer; the shortest of equals."""
        return STRIDES[int(self.shares()[:, layer].argmax())]

    def joined(self, other: Reach) -> Reach:
        """The facts of both."""
        mine, theirs = len(self.languages), len(other.languages)
        return Reach(
            reached=torch.cat([self.reached, other.reached], dim=2),
            failed=torch.cat([self.failed, other.failed], dim=2),
            names=(*self.names, *other.names),
            languages=(*self.languages, *other.languages),
            lengths=tuple(
                (a * mine + b * theirs) / (mine + theirs)
                for a, b in zip(self.lengths, other.lengths, strict=True)
            ),
        )


def learning_rate(stride: float, length: float, d_model: int) -> float:
    """Adam's rate whose first step has a length of `stride` times that of the hidden state.

    Adam's first step changes every entry by the rate, so its length is the rate times the root of
    their number. Written with four digits, as settings are.
    """
    return float(f"{stride * length / math.sqrt(d_model):.4g}")


def reach(model: EditableModel, requests: Sequence[EditRequest], config: EditConfig) -> Reach:
    """Optimise the targets of n facts at each layer in turn, with each of `STRIDES`.

    Args:
        model: the model; it is left untouched.
        requests: the facts, encoded.
        config: settings of the targets. Layers behind its `loss_layer` count as never reached, and
            so do facts whose loss or target becomes one that is not finite.

    Raises:
        NumericalError: the hidden state of a fact, or its loss, is not finite in the unedited
            model; the message names it.
    """
    n_layers = model.structure.n_layers
    end = n_layers if config.loss_layer is None else config.loss_layer + 1
    found = torch.zeros(len(STRIDES), n_layers, len(requests), dtype=torch.bool)
    failed = torch.zeros_like(found)
    bare = [request.prompts[0] for request in requests]
    lengths = []
    for layer in range(n_layers):
        hidden = lookup_hidden(model, bare, layer, max_tokens=config.micro_batch_tokens)
        require_finite_facts("hidden state", hidden, requests, layer)
        lengths.append(float(torch.linalg.vector_norm(hidden, dim=1).mean()))
        for number, stride in enumerate(STRIDES if layer < end else ()):
            rate = learning_rate(stride, lengths[-1], model.structure.d_model)
            own = config.replace(layers=(layer,), value_lr=rate)
            nll = torch.tensor(_losses(model, requests, own))
            failed[number, layer] = nll.isnan()
            found[number, layer] = nll < _REACHED  # false of what is not a number
    return Reach(
        reached=found,
        failed=failed,
        names=tuple(request.name for request in requests),
        languages=tuple(request.language for request in requests),
        lengths=tuple(lengths),
    )


def _losses(
    model: EditableModel, requests: Sequence[EditRequest], config: EditConfig
) -> list[float]:
    """Nats a token of each fact's target in the end; not a number where a step leads to none.

    One such fact ends the optimisation of all, so the facts are halved until it is alone.

    Raises:
        NumericalError: a loss is not finite before any step; the message names layer and fact.
    """
    try:
        return optimise_targets(model, requests, config).last.nll.tolist()
    except NumericalError:
        if len(requests) == 1:
            with naming_facts(requests, config.layers[-1]):
                optimise_targets(model, requests, config.replace(value_steps=1))
            return [math.nan]
    half = len(requests) // 2
    return [
        *_losses(model, requests[:half], config),
        *_losses(model, requests[half:], config),
    ]


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Keys of subjects beside the keys of text.

    Attributes:
        key_length: mean length of the subjects' keys.
        corpus_length: root mean squared length of the corpus's keys.
        cosine: mean cosine between the keys of different subjects.
        rank: effective rank of the second moment, exp of the entropy of its spectrum.
        thresholds: share of null directions -> the eigenvalue that cuts it off (tau).
        left: share of null directions -> mean share of a subject's key, by squared length, in them.
        corpus_left: the same of the corpus's keys.
        spectrum: eigenvalues, falling, relative to their sum.
    """

    key_length: float
    corpus_length: float
    cosine: float
    rank: float
    thresholds: Mapping[float, float]
    left: Mapping[float, float]
    corpus_left: Mapping[float, float]
    spectrum: tuple[float, ...]


def layer_statistics(
    model: EditableModel, requests: Sequence[EditRequest], moments: Moments, *, max_tokens: int
) -> dict[int, LayerStatistics]:
    """Statistics of every layer that has second moments.

    Args:
        model: the model.
        requests: facts, whose keys are taken.
        moments: of some layers; those that bring their spectra along spare the decomposition.
        max_tokens: padded tokens in one forward pass.

    Raises:
        NumericalError: a key is not finite; the message names the fact.
    """
    contexts = [request.prompts for request in requests]
    keys = compute_keys(model, contexts, list(moments.layers), max_tokens=max_tokens)
    found = {}
    for layer, own in moments.layers.items():
        spectrum = own.moment.spectrum or Spectrum.of(own.moment.mean)
        moment = own.moment.with_spectrum(spectrum)
        require_finite_facts("key", keys[layer], requests, layer)
        rows = keys[layer].to(moment.mean.device, torch.float64)
        cuts = {s: NullSpaceProjector.from_moment(moment, null_share=s) for s in NULL_SHARES}
        values = spectrum.eigenvalues.clamp(min=0).flip(0)
        shares = values / values.sum()
        entropy = -torch.special.xlogy(shares, shares).sum()
        found[layer] = LayerStatistics(
            key_length=float(torch.linalg.vector_norm(rows, dim=1).mean()),
            corpus_length=math.sqrt(float(values.sum())),
            cosine=_mean_cosine(rows),
            rank=float(entropy.exp()),
            thresholds={share: float(cut.threshold or 0.0) for share, cut in cuts.items()},
            left={s: float((null_fraction(cut, rows) ** 2).mean()) for s, cut in cuts.items()},
            corpus_left={s: float(shares[cut.rank :].sum()) for s, cut in cuts.items()},
            spectrum=tuple(shares.tolist()),
        )
    return found


def _mean_cosine(rows: Tensor) -> float:
    """Mean cosine between different rows; 0 for one row."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    n = len(unit)
    total = float((unit.sum(dim=0) ** 2).sum()) - n
    return total / (n * (n - 1)) if n > 1 else 0.0
