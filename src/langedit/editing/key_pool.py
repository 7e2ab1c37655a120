"""What is kept of the keys of several layers while a corpus streams by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from langedit.editing.moments import LayerMoment
from langedit.linalg import MomentAccumulator, NullSpaceAngle, SecondMoment
from langedit.models import EditableModel


class KeyPool:
    """Sums, sample and counts.

    Attributes:
        counts: tokens by language, counted by whoever adds keys.
    """

    def __init__(
        self, model: EditableModel, layers: list[int], sample: int, seed: int, *, halves: bool
    ) -> None:
        """Begin with nothing.

        Args:
            model: the model; sums are kept beside the edited weights.
            layers: layer numbers.
            sample: keys to keep of each layer.
            seed: of their draw.
            halves: keep the sums of two halves of the keys apart.
        """
        self.counts: Counter[str] = Counter()
        self._names = {layer: model.weight_name(layer) for layer in layers}
        width = model.structure.d_in
        devices = [next(model.projection(layer).parameters()).device for layer in layers]
        self._sums = [
            [MomentAccumulator(width, device) for device in devices]
            for _ in range(2 if halves else 1)
        ]
        self._size = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._priorities = torch.zeros(0, dtype=torch.float64)
        self._samples = [torch.zeros(0, width) for _ in layers]

    def add(self, keys: list[Tensor], second: Tensor) -> None:
        """Add the keys `(n, d_in)` of the same tokens in every layer.

        Args:
            keys: one matrix a layer.
            second: `(n,)` bool, which tokens are of the second half.
        """
        if len(self._sums) == 1:
            self._add_to(self._sums[0], keys)
        else:
            for sums, own in zip(self._sums, (~second, second), strict=True):
                self._add_to(sums, [rows[own.to(rows.device)] for rows in keys])
        # A uniform sample without replacement: the tokens with the largest random priorities.
        drawn = torch.rand(len(keys[0]), generator=self._generator, dtype=torch.float64)
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

    def both_halves(self) -> dict[int, tuple[SecondMoment, SecondMoment]]:
        """Layer -> the moments of both halves; empty while a half has no key."""
        if any(total.count == 0 for sums in self._sums for total in sums):
            return {}
        first, second = self._sums
        return {
            layer: (first[i].result(), second[i].result()) for i, layer in enumerate(self._names)
        }

    def result(self, angles: Mapping[int, NullSpaceAngle]) -> dict[int, LayerMoment]:
        """Layer -> what was collected, with how well its null space is known, where it is."""
        first, *others = self._sums
        for sums in others:
            for total, more in zip(first, sums, strict=True):
                total.merge(more)
        counts = dict(sorted(self.counts.items()))
        parts = zip(self._names.items(), first, self._samples, strict=True)
        return {
            layer: LayerMoment(
                moment=total.result(),
                sample=rows,
                counts=counts,
                weight_name=name,
                angle=angles.get(layer),
            )
            for (layer, name), total, rows in parts
        }

    @staticmethod
    def _add_to(sums: list[MomentAccumulator], keys: list[Tensor]) -> None:
        for total, rows in zip(sums, keys, strict=True):
            total.add(rows)
