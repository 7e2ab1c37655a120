"""What one batch did: its updates, the targets reached, and what it did to earlier edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from langedit.editing.independence import Change
from langedit.editing.requests import fact_name
from langedit.editing.targets import Targets
from langedit.facts import Fact
from langedit.linalg import Update


@dataclass(frozen=True, kw_only=True)
class RankUse:
    """How much of a layer's key space was open to a batch.

    Attributes:
        used: directions forbidden to this batch.
        left: directions open to it.
        left_after: directions open to the next one.
        kept_median: median over the batch's keys of |P k| / |k|, the part the update can read.
        kept_smallest: the smallest; a fact near 0 cannot be written.
    """

    used: int
    left: int
    left_after: int
    kept_median: float
    kept_smallest: float


@dataclass(frozen=True, kw_only=True)
class UpdateNorm:
    """Frobenius norms of a layer's update and of its weight before the batch."""

    update: float
    weight: float

    @property
    def ratio(self) -> float:
        """|dW| / |W|."""
        return self.update / self.weight


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchReport:
    """Record of one batch.

    Attributes:
        facts: the facts, in order.
        rows: for each fact its row in targets and keys: facts that were merged share one.
        updates: layer -> what was added to its weight, (d_out, d_in) in float32: factors, or a
            dense matrix where the method gives none.
        keys: layer -> (rows, d_in) float32 keys of the facts, which joined the layer's history.
        prefixes: language -> context prefixes that the batch's facts were edited with.
        targets: the optimisation of the targets; `None` if they were given, or there are none.
        losses: mean loss of the batch at each step of methods that train weights, else empty.
        independence: layer -> language of past edits -> |dW k| / |W k| over the keys of all past
            edits, with W as the key's own batch left it. Empty for the first batch.
        corpus_change: layer -> the same over the corpus keys sampled in the moments, with W
            unedited; `None` if no keys were sampled.
        ranks: layer -> rank use; `None` for methods without a projector.
        norms: layer -> norms of update and weight.
        seconds: stage -> wall-clock seconds.
    """

    facts: tuple[Fact, ...]
    rows: tuple[int, ...]
    updates: Mapping[int, Update]
    keys: Mapping[int, Tensor]
    prefixes: Mapping[str, tuple[str, ...]]
    targets: Targets | None
    losses: tuple[float, ...]
    independence: Mapping[int, Mapping[str, Change]]
    corpus_change: Mapping[int, Change | None]
    ranks: Mapping[int, RankUse | None]
    norms: Mapping[int, UpdateNorm]
    seconds: Mapping[str, float]

    @property
    def independence_max(self) -> float | None:
        """Largest |dW k| / |W k| over all layers and past keys; `None` for the first batch."""
        found = [change.largest for own in self.independence.values() for change in own.values()]
        return max(found, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Figures as JSON-able values; updates by their norms."""
        return {
            "facts": self._fact_figures(),
            "layers": {str(layer): self._layer_figures(layer) for layer in self.updates},
            "independence_max": self.independence_max,
            "losses": list(self.losses),
            "seconds": dict(self.seconds),
        }

    def _fact_figures(self) -> list[dict[str, Any]]:
        figures: list[dict[str, Any]] = [
            {
                "name": fact_name(fact),
                "language": fact.language,
                "subject": fact.subject,
                "target": fact.target,
            }
            for fact in self.facts
        ]
        if self.targets is not None:
            found = self.targets
            initial = torch.linalg.vector_norm(found.initial_hidden, dim=1)
            change = torch.linalg.vector_norm(found.target_hidden - found.initial_hidden, dim=1)
            for i, figure in zip(self.rows, figures, strict=True):
                figure |= {
                    "first_loss": float(found.first.total[i]),
                    "loss": float(found.last.total[i]),
                    "nll": float(found.last.nll[i]),
                    "kl": float(found.last.kl[i]),
                    "steps": int(found.steps[i]),
                    "relative_change": float(change[i] / initial[i]),
                }
        return figures

    def _layer_figures(self, layer: int) -> dict[str, Any]:
        corpus, rank, norm = self.corpus_change[layer], self.ranks[layer], self.norms[layer]
        past = self.independence.get(layer, {})
        return {
            "update_rank": self.updates[layer].rank,
            "independence": {language: asdict(change) for language, change in past.items()},
            "corpus_change": None if corpus is None else asdict(corpus),
            "projector": None if rank is None else asdict(rank),
            "norms": {**asdict(norm), "ratio": norm.ratio},
        }
