"""Stages of PRUNE: MEMIT without restraint, then the restraint of its total change."""

from __future__ import annotations

from dataclasses import replace

from langedit.editing.planning.stage import Stage
from langedit.editing.planning.stages.base import largest
from langedit.editing.planning.stages.closed_form import ClosedFormStages


class PruneStages(ClosedFormStages):
    """Weights without the restraint are kept beside those with it.

    How many singular values the restraint reaches is known when they are: it is taken to be few.
    """

    def device(self, *, growing: bool = False, copies: int = 0) -> dict[str, int]:
        """Also the unrestrained weights and total changes, of this state and of that for undo."""
        earlier = [max(0, self.work.batches - back) for back in (1, 2)]
        parts = super().device(growing=growing, copies=copies)
        parts["weights without restraint"] = self.all_weights * sum(map(bool, earlier))
        parts["total changes"] = sum(self._total(done) for done in earlier)
        return parts

    def _total(self, batches: int) -> int:
        """Bytes of the factors of the total change of all layers after so many batches."""
        edits = min(self.work.edits, batches * self.work.batch_size)
        return self.sizes.layers * 4 * edits * self._width

    @property
    def _width(self) -> int:
        return self.sizes.d_in + self.model.structure.d_model

    def solve(self) -> Stage:
        """As MEMIT; then singular values of the totals, and the restrained sums."""
        every, parts = self.all_weights, self.device(copies=1)
        totals = parts["total changes"] + self._total(self.work.batches)
        most = largest(
            self.spreading(),
            {
                "weights after the batch": every,
                "total changes": totals,
                "work": self._restraining(),
            },
            {
                "weights after the batch": 2 * every,
                "total changes": totals,
                "work": max(self.writing, self.costs.keys.bytes),
            },
        )
        stage, keys = super().solve(), self.work.batches * self.costs.keys.flops
        return replace(
            stage,
            device=parts | most,
            matmul=stage.matmul + keys,
            eigen=self.sizes.layers * self._decompositions(),
        )

    def advance(self) -> Stage:
        """As MEMIT, once without and once with the restraint."""
        stage = super().advance()
        after = {
            "weights after the batch": 2 * self.all_weights,
            "total changes": stage.device["total changes"] + self._total(self.work.batches),
        }
        return replace(stage, device={**stage.device, **after})

    def _restraining(self) -> int:
        """Bytes of the decompositions of one layer after the last batch, in float64."""
        long, short = self._sides
        edits = self.work.edits
        wide, narrow = min(long, edits), min(short, edits)
        factors = 8 * (narrow * (short + edits) + 3 * edits * long)
        core = 8 * (short * narrow + long * wide + edits * (wide + narrow) + 8 * narrow**2)
        limit = 2 * self.sizes.weight if self.work.batches == 1 else 0  # of the first batch
        return max(factors, core, limit)

    def _decompositions(self) -> float:
        """Operations of one layer's decompositions over all batches."""
        long, short = self._sides
        found = 4.0 * long * short**2 - 4.0 * short**3 / 3  # largest singular value of the weight
        for batch in range(self.work.batches):
            edits = min(self.work.edits, (batch + 1) * self.work.batch_size)
            for side in (long, short):
                less, more = sorted((side, edits))
                found += 4.0 * more * less**2 - 4.0 * less**3 / 3  # both factors of a QR
            found += 26.0 * min(short, edits) ** 3
        return found

    @property
    def _sides(self) -> tuple[int, int]:
        """The longer and the shorter side of an edited weight."""
        sides = (self.sizes.d_in, self.model.structure.d_model)
        return max(sides), min(sides)
