"""Stages of RECT: MEMIT's solves, then a mask of every layer's update."""

from __future__ import annotations

from dataclasses import replace

from langedit.editing.planning.stage import Stage
from langedit.editing.planning.stages.base import largest
from langedit.editing.planning.stages.closed_form import ClosedFormStages


class RectStages(ClosedFormStages):
    """All layers are solved and written; then updates are masked, and written in their place."""

    dense = True

    def of_batches(self) -> tuple[Stage, ...]:
        """Targets, solve, advance and report."""
        return (*super().of_batches(), self.report())

    def solve(self) -> Stage:
        """As MEMIT; then masks, while the unmasked sums are still there."""
        one, every = self.sizes.weight, self.all_weights
        # Of entries of 4 bytes: the update, what is kept of it and, on a CPU, values with their
        # places to find the smallest that is kept.
        masking = 5 * one if self.cpu else 3 * one + one // 4
        most = largest(
            self.spreading(),
            {
                "weights after the batch": every,
                "masked updates": every - one,
                "work": masking,
            },
            {
                "weights after the batch": 2 * every,
                "masked updates": every,
                "work": max(self.writing, self.costs.keys.bytes),
            },
        )
        stage, keys = super().solve(), self.work.batches * self.costs.keys.flops
        return replace(
            stage,
            device=self.device(copies=1) | most,
            host=self.host(done=self.written),
            matmul=stage.matmul + keys,
        )

    def advance(self) -> Stage:
        """As MEMIT, with the updates of this batch in main memory, too."""
        host = self.host(growing=True, done=self.work.batches)
        return replace(super().advance(), host=host)
