"""Stages of fine-tuning: all edited weights are trained at once."""

from __future__ import annotations

from langedit.editing.planning.stage import Stage
from langedit.editing.planning.stages.base import RunStages, largest


class FineTuningStages(RunStages):
    """Training, which counts as the solve, and the report."""

    dense = True
    offloads = False

    def of_batches(self) -> tuple[Stage, ...]:
        """Solve and report."""
        return (self._solve(), self.report())

    def _solve(self) -> Stage:
        """Train with Adam in float32, then write the weights."""
        c, batches = self.costs, self.work.batches
        one, every = self.sizes.weight, self.all_weights
        trained = {"weights in training, gradients, means": 4 * every}
        # Adam takes roots: one layer's after the other on a CPU, all layers' together elsewhere.
        step = 2 * one if self.cpu else every
        clamp = 3 * one if self.config.method == "ft-l" else 0
        most = largest(
            trained | {"activations": c.train.bytes - 4 * every},
            trained | {"work": max(step, clamp)},
            {"trained weights and updates": 2 * every, "work": 2 * one},
            {
                "updates": every,
                "weights after the batch": every,
                "work": max(self.writing, c.keys.bytes),
            },
        )
        steps = self.config.ft_steps
        return Stage(
            name="solve",
            device=self.device() | most,
            host=self.host(done=self.written),
            matmul=batches * (steps * c.train.flops + c.keys.flops),
        )
