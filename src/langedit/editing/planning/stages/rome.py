"""Stages of ROME: one fact after another, one layer."""

from __future__ import annotations

from dataclasses import replace

from langedit.editing.planning.stage import Stage
from langedit.editing.planning.stages.base import TRIANGULAR, RunStages, largest


class RomeStages(RunStages):
    """Targets and a rank-one update of each fact in turn; amounts are those of the last one."""

    def of_batches(self) -> tuple[Stage, ...]:
        """Targets and solve."""
        return (self.targets(), self._solve())

    def targets(self) -> Stage:
        """Optimise one fact, with the sum of those before it."""
        stage = super().targets()
        kept = self._updates() | {"weights after the batch": self.sizes.weight}
        return replace(stage, device={**stage.device, **kept})

    def _solve(self) -> Stage:
        """Read a fact's keys, and sum the weight anew with the updates of the batch so far."""
        s, c, n = self.sizes, self.costs, self.work.batch
        most = largest(
            {"weights after the batch": s.weight, "work": max(c.walk.bytes, c.keys.bytes)},
            {"weights after the batch": 2 * s.weight, "work": self.writing},
        )
        facts, batches = self.work.edits, self.work.batches
        # Three rows through the triangular factor a fact; i columns are multiplied for fact i.
        return Stage(
            name="solve",
            device=self.device(copies=1) | self._updates() | most,
            host=self.host(),
            matmul=facts * c.walk.flops + batches * c.keys.flops,
            double=facts * (3 * TRIANGULAR * s.d_in**2 + n * s.weight / 4),
        )

    def _updates(self) -> dict[str, int]:
        """Factors of the batch's facts, in float64 one by one and in float32 together."""
        width = self.sizes.d_in + self.model.structure.d_model
        return {"updates of the batch": 12 * self.work.batch * width}
