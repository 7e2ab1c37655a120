"""What a plan says: the stages of a run, and what each takes where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run at its most demanding moment.

    Attributes:
        name: what is done.
        device: part -> bytes where the model computes.
        host: part -> bytes in main memory; where the model computes on the CPU these add up.
        matmul: floating-point operations of the whole stage in the model's precision.
        double: the same in float64, of matrix products and of systems with triangular factors.
        eigen: the same of decompositions into eigenvectors, singular vectors, orthonormal bases.
    """

    name: str
    device: Mapping[str, int]
    host: Mapping[str, int] = field(default_factory=dict)
    matmul: float = 0.0
    double: float = 0.0
    eigen: float = 0.0

    def bytes(self, *, shared: bool) -> int:
        """Bytes where the model computes; `shared`: that is main memory."""
        return sum(self.device.values()) + (sum(self.host.values()) if shared else 0)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run needs.

    Attributes:
        parameters: number of values in the model.
        stored: bytes of its weights, as they are loaded.
        stages: in the order in which they come.
        embeddings: bytes of the token embeddings among them.
        quantised: whether linear modules are quantised.
        cpu: whether the model computes on the CPU.
    """

    parameters: int
    stored: int
    embeddings: int
    quantised: bool
    stages: tuple[Stage, ...]
    cpu: bool

    @property
    def peak(self) -> int:
        """The most bytes that any stage needs where the model computes."""
        return max(stage.bytes(shared=self.cpu) for stage in self.stages)

    @property
    def peak_stage(self) -> Stage:
        """The stage that needs them."""
        return max(self.stages, key=lambda stage: stage.bytes(shared=self.cpu))

    @property
    def beside_weights(self) -> int:
        """The most bytes that any stage needs there beside the model's weights."""
        return max(stage.bytes(shared=self.cpu) - stage.device["weights"] for stage in self.stages)
