"""The stages of a run, of what its passes take and of what is kept beside them.

An edited weight is kept in float32 three times during a batch: unedited, before it, and after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from langedit.editing.config import EditConfig
from langedit.editing.planning.passes import PassCosts, Workload
from langedit.editing.planning.sizes import Sizes
from langedit.editing.planning.stage import Stage
from langedit.editing.planning.weights import Weights
from langedit.models import EditableModel

_TRIANGULAR = 2.0
"""What an operation of a system with a triangular factor takes, in operations of a product."""

_SAMPLE = 512  # keys of the corpus kept for each layer


@dataclass(frozen=True)
class StageBuilder:
    """The stages; amounts of the last batch, when most is kept."""

    sizes: Sizes
    costs: PassCosts
    config: EditConfig
    work: Workload
    weights: Weights
    model: EditableModel
    cpu: bool

    def stages(self) -> tuple[Stage, ...]:
        """All of them, in the order in which they come."""
        return (self._stats(), self._open(), self._targets(), self._solve(), self._advance())

    @property
    def _states_wait(self) -> bool:
        """Whether what methods remember is in main memory, apart from the device."""
        return self.config.states_on == "cpu" and not self.cpu

    def _host(self, *, growing: bool = False) -> dict[str, int]:
        """What is in main memory; moments read from the folder stay there."""
        host = {"second moments": self.sizes.layers * self.sizes.moment}
        if self.weights.waiting:
            host["offloaded weights"] = self.weights.waiting
        return host | (self._remembered(growing=growing) if self._states_wait else {})

    def _remembered(self, *, growing: bool) -> dict[str, int]:
        """What methods remember of all layers, between batches or while a batch is added."""
        s = self.sizes
        parts = {
            "bases of forbidden directions": s.layers * (s.bases_growing if growing else s.bases),
            "factored moments": s.layers * s.factored,
            "keys of past edits": s.layers * (s.keys_growing if growing else s.keys),
        }
        return {name: size for name, size in parts.items() if size}

    def _device(self, *, growing: bool = False, copies: int = 0) -> dict[str, int]:
        """What methods and editor keep where the model computes.

        Args:
            growing: while a batch is added.
            copies: of what grows of the one layer that is there in turn, where states wait.
        """
        s, edits = self.sizes, self.work.edits
        width = s.d_in + self.model.structure.d_model
        parts = {"weights": self.weights.resident}
        if not self._states_wait:
            parts |= self._remembered(growing=growing)
        elif copies:
            grows = s.basis(s.rank_after) + s.closed + 4 * edits * s.d_in
            parts["state of one layer"] = copies * grows + s.factored
        parts["edited weights in float32"] = (
            s.layers * s.weight * (2 if self.work.batches > 1 else 1)
        )
        parts["updates and samples"] = s.layers * 4 * (edits * width + _SAMPLE * s.d_in)
        return parts

    def _stats(self) -> Stage:
        s, tokens = self.sizes, self.work.moment_tokens
        passes = tokens / self.work.stats_tokens
        return Stage(
            name="stats",
            device={
                "weights": self.weights.resident,
                "second moments": s.layers * s.moment,
                "activations": self.costs.stats.bytes,
            },
            host={
                "offloaded weights": self.weights.waiting,
                "means": max(0, (s.layers + 3) * s.moment - self.costs.stats.bytes),
            },
            matmul=passes * self.costs.stats.flops,
            double=1.0 * s.layers * tokens * s.d_in**2,  # of the lower triangle alone
        )

    def _open(self) -> Stage:
        """Decompose one moment while what was made of the others is kept."""
        s = self.sizes
        # Eigenvectors, and twice as much work space; checks of a moment take two more at a time.
        work = 3 if s.rank else 2
        kept = 0 if self._states_wait else (s.layers - 1) * (s.basis(s.rank) + s.factored)
        begin = {
            "weights": self.weights.resident,
            "kept of other layers": kept,
            "work": work * s.moment,
        }
        eigen = 9.0 * s.layers * s.d_in**3 if s.rank else 0.0
        double = 0.0 if s.rank else s.layers * s.d_in**3 / 3
        if s.rank and self.config.relative_ridge is not None:
            double += s.layers * 2.0 * s.d_in**2 * s.rank
        host = self._host()
        return Stage(name="open", device=begin, host=host, eigen=eigen, double=double)

    def _targets(self) -> Stage:
        """Optimise the last batch."""
        c, batches = self.costs, self.work.batches
        moments = [
            {"weights": self.weights.resident, "activations": c.prepare.bytes},
            {"weights": self.weights.held, "activations": c.step.bytes},
        ]
        most = max(moments, key=lambda moment: sum(moment.values()))
        steps = self.config.value_steps
        return Stage(
            name="targets",
            device=self._device() | most,
            host=self._host(),
            matmul=batches * c.groups * (c.prepare.flops + steps * c.step.flops),
        )

    def _solve(self) -> Stage:
        s, c, batches = self.sizes, self.costs, self.work.batches
        # At the last layer: the dense update, its rounded sum, and the rows of the solve.
        last = s.weight + s.rounded + s.weight // 4 + 8 * s.batch_rows
        device = self._device(copies=1)
        device["weights after the batch"] = s.layers * s.weight
        device["work"] = max(last, c.walk.bytes)
        n, d, rank = self.work.batch, s.d_in, s.mean_rank
        rows = 8.0 * d * n**2 + 2.0 * n * s.weight / 4  # of the batch among themselves, and dense
        if not s.rank:
            rows += 2 * _TRIANGULAR * n * d * d
        elif s.factored:  # into the coordinates and back, what is closed, and the basis once
            rows += 4.0 * n * s.null * (d + 2 * (rank - s.rank)) + 4.0 * n * d * rank
        else:
            rows += 8.0 * n * d * rank
        return Stage(
            name="solve",
            device=device,
            host=self._host(),
            matmul=batches * c.walk.flops,
            double=batches * s.layers * rows,
        )

    def _advance(self) -> Stage:
        """Bases with the batch's keys are made while older ones are kept, for undo."""
        s, batches = self.sizes, self.work.batches
        grown = s.rank_after > s.rank
        device = self._device(growing=True, copies=2)
        device["weights after the batch"] = s.layers * s.weight
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
            host=self._host(growing=True),
            double=times * double,
            eigen=times * eigen,
        )
