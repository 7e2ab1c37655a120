"""What is kept of the keys of several layers while a corpus streams by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from langedit.editing.batch import with_float64
from langedit.editing.moments import LayerMoment
from langedit.linalg import MomentAccumulator, NullSpaceAngle, SecondMoment
from langedit.models import EditableModel
from langedit.parallel import Processes


class KeyPool:
    """Sums, sample and counts: of its own keys sums and sample, of all processes' tokens counts.

    Attributes:
        counts: tokens by language, counted by whoever adds keys.
    """

    def __init__(
        self,
        model: EditableModel,
        layers: list[int],
        sample: int,
        seed: int,
        *,
        halves: bool,
        products: torch.dtype,
    ) -> None:
        """Begin with nothing.

        Args:
            model: the model; sums are kept beside the edited weights.
            layers: layer numbers.
            sample: keys to keep of each layer.
            seed: of their draw.
            halves: keep the sums of two halves of the keys apart.
            products: as for `MomentAccumulator`.
        """
        self.counts: Counter[str] = Counter()
        self._names = {layer: model.weight_name(layer) for layer in layers}
        width = model.structure.d_in
        devices = [model.projection_device(layer) for layer in layers]
        if products == torch.float64:
            devices = [with_float64(device) for device in devices]
        self._sums = [
            [MomentAccumulator(width, device, products=products) for device in devices]
            for _ in range(2 if halves else 1)
        ]
        self._tokens = (0, 0)
        self._size = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._priorities = torch.zeros(0, dtype=torch.float64)
        self._samples = [torch.zeros(0, width) for _ in layers]

    def add(self, keys: list[Tensor] | None, second: Tensor) -> None:
        """Add the keys `(n, d_in)` of the same tokens in every layer.

        Random numbers are drawn for all tokens alike, so that every process draws the same ones.

        Args:
            keys: one matrix a layer; `None` if another process has them.
            second: `(n,)` bool, which tokens are of the second half.
        """
        drawn = torch.rand(len(second), generator=self._generator, dtype=torch.float64)
        later = int(second.sum())
        self._tokens = (self._tokens[0] + len(second) - later, self._tokens[1] + later)
        if keys is None:
            return
        if len(self._sums) == 1:
            self._add_to(self._sums[0], keys)
        else:
            for sums, own in zip(self._sums, (~second, second), strict=True):
                self._add_to(sums, [rows[own.to(rows.device)] for rows in keys])
        self._sample(drawn, keys)

    def both_halves(self, processes: Processes) -> dict[int, tuple[SecondMoment, SecondMoment]]:
        """Layer -> the moments of both halves, of all processes; empty while a half has no key."""
        if not all(self._tokens):
            return {}
        first, second = self._sums
        return {
            layer: (
                _pooled(first[i], self._tokens[0], processes),
                _pooled(second[i], self._tokens[1], processes),
            )
            for i, layer in enumerate(self._names)
        }

    def result(
        self, angles: Mapping[int, NullSpaceAngle], processes: Processes
    ) -> dict[int, LayerMoment]:
        """Layer -> what all processes collected, with how well its null space is known."""
        first, *others = self._sums
        for sums in others:
            for total, more in zip(first, sums, strict=True):
                total.merge(more)
        counts = dict(sorted(self.counts.items()))
        samples = self._samples if processes.count == 1 else self._gathered(processes)
        parts = zip(self._names.items(), first, samples, strict=True)
        return {
            layer: LayerMoment(
                moment=_pooled(total, sum(self._tokens), processes),
                sample=rows,
                counts=counts,
                weight_name=name,
                angle=angles.get(layer),
            )
            for (layer, name), total, rows in parts
        }

    def _sample(self, drawn: Tensor, keys: list[Tensor]) -> None:
        """A uniform sample without replacement: the tokens with the largest random priorities."""
        candidates = torch.cat([self._priorities, drawn])
        kept = candidates.topk(min(self._size, len(candidates))).indices
        fresh = kept >= len(self._priorities)
        new_rows = kept[fresh] - len(self._priorities)
        for index, rows in enumerate(keys):
            merged = torch.empty(len(kept), rows.shape[1])
            merged[~fresh] = self._samples[index][kept[~fresh]]
            merged[fresh] = rows[new_rows.to(rows.device)].to("cpu", torch.float32)
            self._samples[index] = merged
        self._priorities = candidates[kept]

    def _gathered(self, processes: Processes) -> list[Tensor]:
        """The sample of all processes' tokens, in the order in which one process has it."""
        own = (self._priorities, self._samples)
        found = processes.spread(range(processes.count), lambda _: [own])
        candidates = torch.cat([priorities for priorities, _ in found])
        kept = candidates.topk(min(self._size, len(candidates))).indices
        return [
            torch.cat([samples[index] for _, samples in found])[kept]
            for index in range(len(self._samples))
        ]

    @staticmethod
    def _add_to(sums: list[MomentAccumulator], keys: list[Tensor]) -> None:
        for total, rows in zip(sums, keys, strict=True):
            total.add(rows)


def _pooled(own: MomentAccumulator, tokens: int, processes: Processes) -> SecondMoment:
    """The moment over all processes' keys, `tokens` in all."""
    total = own.total()
    lost = processes.sum(torch.tensor([own.rounding(total)], dtype=torch.float64))
    return SecondMoment(
        count=tokens, mean=processes.sum(total) / tokens, rounding=float(lost) / tokens
    )
