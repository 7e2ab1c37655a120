"""RECT (Gu et al. 2024): MEMIT, of whose update only the largest relative changes are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from langedit.editing.batch import BatchJob, LayerEdit
from langedit.editing.methods.memit import Memit
from langedit.linalg import DenseUpdate, keep_largest

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class Rect(Memit):
    """MEMIT's update with only the entries of largest `|dW / W|`, W as it is before the batch.

    As in the published code, all layers are solved before any is masked, so that later layers do
    not make good what the mask takes from earlier ones. What is left has no small rank: updates
    are dense, and rest in main memory, wherever the model is.
    """

    reads: ClassVar[frozenset[str]] = Memit.reads | {"rect_share"}
    kept_share: float

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """Reads `moment_weight` and `rect_share`."""
        return cls(moment_weight=config.moment_weight, kept_share=config.rect_share)

    def spread(self, job: BatchJob, target_hidden: Tensor) -> dict[int, LayerEdit]:
        """Spread as MEMIT does, then mask every layer's update."""
        whole = super().spread(job, target_hidden)
        with job.timed("solve"):
            masked = {
                layer: DenseUpdate(
                    matrix=keep_largest(edit.update.dense(), edit.before, self.kept_share)
                )
                for layer, edit in whole.items()
            }
            return job.add_all(masked)
