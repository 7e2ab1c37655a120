"""The stages that every method has, and what is kept between batches.

Each family of methods adds its own stages in a module of its own. Amounts are those of the last
batch, when most is kept: an edited weight is then kept in float32 three times, unedited, before the
batch and after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from langedit.editing.config import EditConfig
from langedit.editing.planning.passes import PassCosts
from langedit.editing.planning.sizes import Sizes
from langedit.editing.planning.stage import Stage
from langedit.editing.planning.weights import Weights
from langedit.editing.planning.workload import Workload
from langedit.models import EditableModel

TRIANGULAR = 2.0
"""What an operation of a system with a triangular factor takes, in operations of a product."""

_SAMPLE = 512  # keys of the corpus kept for each layer


def largest(*moments: dict[str, int]) -> dict[str, int]:
    """Of moments of a stage, each part -> bytes, the most demanding one."""
    return max(moments, key=lambda moment: sum(moment.values()))


@dataclass(frozen=True)
class RunStages(ABC):
    """The stages of a run."""

    dense: ClassVar[bool] = False
    """Whether updates are matrices, which wait in main memory, and not pairs of factors."""

    offloads: ClassVar[bool] = True
    """Whether edited weights may wait in main memory."""

    sizes: Sizes
    costs: PassCosts
    config: EditConfig
    work: Workload
    weights: Weights
    model: EditableModel
    cpu: bool

    def stages(self) -> tuple[Stage, ...]:
        """All of them, in the order in which they come."""
        return (self._stats(), self._open(), *self.of_batches())

    @abstractmethod
    def of_batches(self) -> tuple[Stage, ...]:
        """The stages of a batch, of all batches together."""

    # --- what is kept -----------------------------------------------------------------------------

    @property
    def all_weights(self) -> int:
        """Bytes of all edited weights in float32, once."""
        return self.sizes.layers * self.sizes.weight

    @property
    def states_wait(self) -> bool:
        """Whether what methods remember is in main memory, apart from the device."""
        return self.config.states_on == "cpu" and not self.cpu

    def host(self, *, growing: bool = False, done: int | None = None) -> dict[str, int]:
        """What is in main memory; moments read from the folder stay there.

        Args:
            growing: while a batch is added.
            done: number of batches whose updates are kept; `None`: all but the last.
        """
        host = {"second moments": self.sizes.layers * self.sizes.moment}
        if self.weights.waiting:
            host["offloaded weights"] = self.weights.waiting
        done = self.work.batches - 1 if done is None else done
        if self.dense and done:
            host["dense updates"] = done * self.all_weights
        return host | (self._remembered(growing=growing) if self.states_wait else {})

    def _remembered(self, *, growing: bool) -> dict[str, int]:
        """What methods remember of all layers, between batches or while a batch is added."""
        s = self.sizes
        parts = {
            "bases of forbidden directions": s.layers * (s.bases_growing if growing else s.bases),
            "factored moments": s.layers * s.factored,
            "keys of past edits": s.layers * (s.keys_growing if growing else s.keys),
            "solves of past keys": s.layers * (s.memory_growing if growing else s.memory),
        }
        return {name: size for name, size in parts.items() if size}

    @property
    def written(self) -> int:
        """Batches whose dense updates are in main memory when those of the last one are written.

        On a CPU these are the tensors that the stage counts itself.
        """
        return self.work.batches - 1 if self.cpu else self.work.batches

    def device(self, *, growing: bool = False, copies: int = 0) -> dict[str, int]:
        """What methods and editor keep where the model computes.

        Args:
            growing: while a batch is added.
            copies: of what grows of the one layer that is there in turn, where states wait.
        """
        s, edits = self.sizes, self.work.edits
        parts = {"weights": self.weights.resident}
        if not self.states_wait:
            parts |= self._remembered(growing=growing)
        elif copies:
            grows = s.basis(s.rank_after) + s.closed + 4 * edits * s.d_in + s.memory
            parts["state of one layer"] = copies * grows + s.factored
        parts["edited weights in float32"] = self.all_weights * (2 if self.work.batches > 1 else 1)
        # A report has the keys of its batch, and its updates: factors, else they are elsewhere.
        width = s.d_in + (0 if self.dense else s.d_in + self.model.structure.d_model)
        parts["reports and samples"] = s.layers * 4 * (edits * width + _SAMPLE * s.d_in)
        return parts

    @property
    def writing(self) -> int:
        """Bytes that writing a weight takes beside it: its sum as stored, and checks of that."""
        s = self.sizes
        return s.weight + s.rounded + s.weight // 4

    # --- stages that all methods have -------------------------------------------------------------

    def _stats(self) -> Stage:
        s, tokens = self.sizes, self.work.moment_tokens
        passes = tokens / self.work.stats_tokens
        return Stage(
            name="stats",
            device={
                "weights": self.weights.collecting,
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
        """Decompose one moment while what was made of the others is kept; copy the weights."""
        s = self.sizes
        # Eigenvectors, and twice as much work space; checks of a moment take two more at a time.
        work = 3 if s.rank else 2 if s.factored else 0 if self.cpu else 1
        one = 0 if self.states_wait else s.basis(s.rank) + s.factored
        most = largest(
            {"kept of other layers": (s.layers - 1) * one, "work": work * s.moment},
            {"kept of layers": s.layers * one, "edited weights in float32": self.all_weights},
        )
        eigen = 9.0 * s.layers * s.d_in**3 if s.rank else 0.0
        double = s.layers * 2.0 * _SAMPLE * s.weight / 4  # outputs of the sample
        if s.factored and not s.rank:
            double += s.layers * s.d_in**3 / 3
        if s.rank and self.config.relative_ridge is not None:
            double += s.layers * 2.0 * s.d_in**2 * s.rank
        return Stage(
            name="open",
            device={"weights": self.weights.resident, **most},
            host=self.host(done=0),
            eigen=eigen,
            double=double,
        )

    def targets(self) -> Stage:
        """Optimise the last batch; of methods that have targets."""
        c, batches = self.costs, self.work.batches
        most = largest(
            {"weights": self.weights.resident, "activations": c.prepare.bytes},
            {"weights": self.weights.held, "activations": c.step.bytes},
        )
        steps = self.config.value_steps
        return Stage(
            name="targets",
            device=self.device() | most,
            host=self.host(),
            matmul=batches * c.groups * (c.prepare.flops + steps * c.step.flops),
        )

    def report(self) -> Stage:
        """Measure the last batch; of methods with dense updates, which are read in float64."""
        s, batches = self.sizes, self.work.batches
        d_model, size = self.model.structure.d_model, s.weight // 4
        past = self.work.edits - self.work.batch
        # The update and a check of it, or with the outputs of earlier keys.
        checked, applied = 19 * size, 8 * size + 8 * past * (s.d_in + d_model)
        return Stage(
            name="report",
            device=self.device() | {"weights after the batch": self.all_weights},
            host=self.host(done=batches) | {"update in float64": max(checked, applied)},
            # Every key through the update.
            double=batches * s.layers * 2.0 * size * (past / 2 + _SAMPLE),
        )
