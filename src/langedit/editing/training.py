"""Train a few weights of a model on token sequences, leaving the model itself as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from langedit.editing.batching import micro_batches, with_less_memory
from langedit.editing.forwards import frozen, head_on_tokens
from langedit.errors import ModelError, NumericalError
from langedit.models import EditableModel, find_offloaded, pad_batch


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One sequence: `tokens[i]` shall be the most probable one after position `wanted[i]`.

    Messages call it by its name.
    """

    name: str
    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """Result of a training.

    Attributes:
        weights: by name, in float32 and the orientation in which they came.
        losses: mean loss in nats at each step, before its update.
    """

    weights: Mapping[str, Tensor]
    losses: tuple[float, ...]


def train_weights(
    model: EditableModel,
    weights: Mapping[str, Tensor],
    rows: Sequence[TrainingRow],
    *,
    steps: int,
    lr: float,
    stop_loss: float,
    change_limit: float | None,
    max_tokens: int,
) -> Trained:
    """Minimise the mean over rows of the mean negative log-likelihood of their tokens, by Adam.

    The weights are trained in float32, whatever the model is stored in, and put in the place of
    the model's own for each forward pass; the model is never written.

    Args:
        model: the model.
        weights: names of parameters and where to begin; matrices as (d_out, d_in).
        rows: what to train on. Every step sees all of them.
        steps: steps at most.
        lr: learning rate of Adam.
        stop_loss: training ends at a mean loss below, before an update.
        change_limit: bound on the change of every entry, kept after each update.
        max_tokens: padded tokens in one forward pass; halved where memory runs out.

    Raises:
        ModelError: a weight is offloaded.
        NumericalError: the loss of a row is not finite; the message names it.
        LangEditError: memory does not hold the longest row.
    """
    training = WeightTraining(model, weights, lr=lr, change_limit=change_limit)
    lengths = [len(row.ids) for row in rows]
    losses: list[float] = []

    def loss_of_all(limit: int) -> float:
        """The mean loss, in passes of so many tokens; leaves its gradient with the weights."""
        training.begin()
        total = 0.0
        for group in micro_batches(lengths, limit):
            own = training.losses([rows[i] for i in group])
            _require_finite([rows[i] for i in group], own.detach(), len(losses) + 1)
            loss = own.sum() / len(rows)
            total += float(loss.detach())
            torch.autograd.backward(loss)
        return total

    with frozen(model.model):
        for _ in range(steps):
            losses.append(
                with_less_memory(
                    loss_of_all,
                    max_tokens,
                    most=len(rows) * max(lengths),
                    least=max(lengths),
                    limits=model.limits,
                    kind="training",
                    what="the longest prompt with its target",
                )
            )
            if losses[-1] < stop_loss:
                break
            training.step()
    return Trained(weights=training.weights, losses=tuple(losses))


class WeightTraining:
    """Weights being trained, in float32, with Adam over all of them.

    The model's own weights are left as they are.
    """

    def __init__(
        self,
        model: EditableModel,
        weights: Mapping[str, Tensor],
        *,
        lr: float,
        change_limit: float | None,
    ) -> None:
        """Begin; arguments as for `train_weights`.

        Raises:
            ModelError: a weight is offloaded.
        """
        for name in weights:
            if find_offloaded(model.model, name) is not None:
                raise ModelError(
                    f"expected {name} on a device, found it offloaded: weights that are trained "
                    "must stay where they compute; give the edited layers a device in the device "
                    "map, or choose a method that does not train weights"
                )
        self._model = model
        self._limit = change_limit
        self._start = {name: weight.detach().float() for name, weight in weights.items()}
        self._trained = {name: own.clone().requires_grad_() for name, own in self._start.items()}
        self._adam = torch.optim.Adam(list(self._trained.values()), lr=lr)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now, in the orientation in which they came."""
        return {name: weight.detach() for name, weight in self._trained.items()}

    def begin(self) -> None:
        """Forget the gradients of the step before."""
        self._adam.zero_grad()

    def losses(self, rows: Sequence[TrainingRow]) -> Tensor:
        """(rows,) mean negative log-likelihood of their tokens, with a graph to the weights."""
        return _losses(self._model, self._trained, rows)

    def step(self) -> None:
        """Change the weights by the gradients there are, within the bound."""
        self._adam.step()
        if self._limit is not None:
            _clamp(self._trained, self._start, self._limit)


def _require_finite(rows: Sequence[TrainingRow], losses: Tensor, step: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if bad:
        names = "; ".join(dict.fromkeys(rows[i].name for i in bad))
        raise NumericalError(
            f"expected a finite training loss, got {float(losses[bad[0]])} at step {step} of "
            f"{names}: load the model in float32 or bfloat16, or lower ft_lr"
        )


def _losses(
    model: EditableModel, weights: Mapping[str, Tensor], rows: Sequence[TrainingRow]
) -> Tensor:
    """(rows,) mean negative log-likelihood of their tokens."""
    batch = pad_batch([row.ids for row in rows], model.pad_id)
    places = [(i, place) for i, row in enumerate(rows) for place in row.wanted]
    at = torch.tensor(places)
    stored = {name: _as_stored(model, name, weight) for name, weight in weights.items()}
    with head_on_tokens(model, at[:, 0], at[:, 1]):
        output = functional_call(model.model, stored, kwargs=model.inputs(batch), strict=False)
    logits = output.logits[0].float()
    tokens = torch.tensor([token for row in rows for token in row.tokens], device=logits.device)
    share = torch.tensor([1 / len(row.tokens) for row in rows for _ in row.tokens])
    picked = logits.log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    owner = at[:, 0].to(picked.device)
    losses: Tensor = picked.new_zeros(len(rows)).index_add(0, owner, -share.to(picked) * picked)
    return losses


def _as_stored(model: EditableModel, name: str, weight: Tensor) -> Tensor:
    """A weight in the precision, on the device and in the orientation of the model's own."""
    own = model.model.get_parameter(name)
    weight = weight.to(device=own.device, dtype=own.dtype)
    module = model.model.get_submodule(name.rpartition(".")[0])
    transposed = isinstance(module, Conv1D) and weight.ndim == 2
    return weight.T if transposed else weight


@torch.no_grad()
def _clamp(weights: Mapping[str, Tensor], start: Mapping[str, Tensor], limit: float) -> None:
    """Bring every entry back to within `limit` of where it began."""
    for name, weight in weights.items():
        weight.copy_(torch.clamp(weight, start[name] - limit, start[name] + limit))
