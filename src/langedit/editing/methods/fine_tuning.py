"""Fine-tuning of the edited weights alone: FT, and FT-L with a bound on the change.

Both are the baselines of ROME (Meng et al. 2022); the bound is that of Zhu et al. (2020), on every
entry. The published code predicts all tokens of a target from the last token of the prompt; here
each is predicted at its own position, from the target's tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from langedit.editing.batch import BatchEdit, BatchJob
from langedit.editing.methods.base import GENERAL, LayerState
from langedit.editing.training import TrainingRow, train_weights
from langedit.errors import ConfigError
from langedit.linalg import DenseUpdate, SecondMoment, Update

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig
    from langedit.editing.requests import EditRequest


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Adam on the edited weights until the targets of the batch are likely after bare prompts."""

    needs_null_space: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = GENERAL | {"spread", "ft_steps", "ft_lr", "ft_stop_loss"}
    steps: int
    lr: float
    stop_loss: float
    change_limit: float | None = None

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """Reads `ft_steps`, `ft_lr` and `ft_stop_loss`."""
        return cls(steps=config.ft_steps, lr=config.ft_lr, stop_loss=config.ft_stop_loss)

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Keeps nothing of the corpus; keys are remembered for the measures in reports."""
        return LayerState.begin(moment)

    def remember(self, state: LayerState, keys: Tensor, update: Update, base: Tensor) -> LayerState:
        """The state after a batch edited before: its keys join the history."""
        return state.after(keys)

    def rows(self, requests: Iterable[EditRequest]) -> list[TrainingRow]:
        """What is trained on: each bare prompt with its target, every token at its own position."""
        rows = []
        for request in (member for group in requests for member in group.members):
            prompt = request.prompts[0].ids
            ids = (*prompt, *request.target_ids[:-1])
            wanted = tuple(range(len(prompt) - 1, len(ids)))
            rows.append(
                TrainingRow(name=request.name, ids=ids, wanted=wanted, tokens=request.target_ids)
            )
        return rows

    def edit(self, job: BatchJob) -> BatchEdit:
        """Train all edited weights at once on the whole batch.

        Raises:
            ConfigError: targets of hidden states are given.
            NumericalError: the loss or a weight is not finite.
        """
        if job.given is not None:
            raise ConfigError(
                f"target_hidden: expected none, since {job.config.method} trains weights and has "
                "no targets for hidden states: leave it out"
            )
        with job.timed("solve"):
            updates, losses = job.first(lambda: self._train(job))
            edits = job.add_all(updates)
        with job.timed("advance"):
            states = job.remember(
                lambda: {layer: job.states[layer].after(edit.keys) for layer, edit in edits.items()}
            )
        return BatchEdit(layers=edits, states=states, losses=losses)

    def _train(self, job: BatchJob) -> tuple[dict[int, DenseUpdate], tuple[float, ...]]:
        """Layer -> what training adds to its weight; and the mean loss at each step."""
        names = {layer: job.model.weight_name(layer) for layer in job.config.edited_layers}
        trained = train_weights(
            job.model,
            {names[layer]: weight for layer, weight in job.weights.items()},
            self.rows(job.requests),
            steps=self.steps,
            lr=self.lr,
            stop_loss=self.stop_loss,
            change_limit=self.change_limit,
            max_tokens=job.config.micro_batch_tokens,
        )
        updates = {
            layer: DenseUpdate(matrix=trained.weights[name] - job.weights[layer])
            for layer, name in names.items()
        }
        return updates, trained.losses


@dataclass(frozen=True, kw_only=True)
class ConstrainedFineTuning(FineTuning):
    """FT-L: no entry of a weight moves by more than `ft_change_limit` in a batch."""

    reads: ClassVar[frozenset[str]] = FineTuning.reads | {"ft_change_limit"}

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """Reads the settings of `ft`, and `ft_change_limit`."""
        return cls(
            steps=config.ft_steps,
            lr=config.ft_lr,
            stop_loss=config.ft_stop_loss,
            change_limit=config.ft_change_limit,
        )
