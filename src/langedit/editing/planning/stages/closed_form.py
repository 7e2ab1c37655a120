"""Stages of methods that are one solve a layer: LangEdit, AlphaEdit, and MEMIT in both forms."""

from __future__ import annotations

from langedit.editing.planning.stage import Stage
from langedit.editing.planning.stages.base import TRIANGULAR, RunStages
from langedit.linalg.recursive import most_rows


class ClosedFormStages(RunStages):
    """Targets of hidden states, a solve a layer, and what is remembered of the keys."""

    def of_batches(self) -> tuple[Stage, ...]:
        """Targets, solve and advance."""
        return (self.targets(), self.solve(), self.advance())

    def solve(self) -> Stage:
        """Solve and write the layers of the last batch."""
        s = self.sizes
        return Stage(
            name="solve",
            device=self.device(copies=1) | self.spreading(),
            host=self.host(),
            matmul=self.work.batches * self.costs.walk.flops,
            double=self.work.batches * s.layers * self._solving(),
        )

    def spreading(self) -> dict[str, int]:
        """The last layer of the last batch: its keys, then its solve and its sum."""
        # Of the sum the dense update as well, and the rows of the solve.
        last = self.writing + 8 * self.sizes.batch_rows
        return {
            "weights after the batch": self.all_weights,
            "work": max(last, self.costs.walk.bytes),
        }

    def _solving(self) -> float:
        """Operations of one solve in float64, in the mean over the batches."""
        s = self.sizes
        n, d, rank = self.work.batch, s.d_in, s.mean_rank
        rows = 8.0 * d * n**2 + 2.0 * n * s.weight / 4  # of the batch among themselves, and dense
        rows += 4.0 * n * s.memory_width * min(self.work.edits / 2, most_rows(s.memory_width))
        if not s.rank:
            return rows + 2 * TRIANGULAR * n * d * d
        if s.factored:  # into the coordinates and back, what is closed, and the basis once
            return rows + 4.0 * n * s.null * (d + 2 * (rank - s.rank)) + 4.0 * n * d * rank
        return rows + 8.0 * n * d * rank

    def advance(self) -> Stage:
        """Bases with the batch's keys are made while older ones are kept, for undo."""
        s, batches = self.sizes, self.work.batches
        grown = s.rank_after > s.rank
        # Where keys join a history and that is all, a state that waits stays where it is.
        device = self.device(growing=True, copies=2 if s.rank_after or s.memory_width else 0)
        device["weights after the batch"] = self.all_weights
        device["work"] = 8 * s.batch_rows
        n, d = self.work.batch, s.d_in
        # Singular vectors of what is left of the keys are made orthonormal. Where a corpus is
        # weighed, the solve has not projected the keys, and the same follows in its coordinates.
        double, eigen = 0.0, 10.0 * d * n**2 + 20.0 * n**3
        if s.factored:
            eigen += 10.0 * s.null * n**2 + 20.0 * n**3
            double += 4.0 * n * d * s.mean_rank
            double += 2.0 * n * s.null * (d + 4.0 * (s.mean_rank - s.rank))
        times = batches * s.layers if grown else 0
        return Stage(
            name="advance",
            device=device,
            host=self.host(growing=True),
            double=times * double,
            eigen=times * eigen,
        )
