"""One batch between the editor and its method: what is given, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor

from langedit.editing.finite import naming_culprit, require_finite_facts, single_precision
from langedit.editing.keys import compute_keys
from langedit.editing.requests import EditRequest
from langedit.editing.targets import Targets, optimise_targets
from langedit.errors import NumericalError
from langedit.linalg import DenseUpdate, Update, row_major
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler, timed

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig
    from langedit.editing.methods.base import LayerState

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerEdit:
    """What a batch does to one layer.

    Attributes:
        keys: (n, d_in) float32 keys of the batch in the edited model.
        update: added to the weight, in float32.
        before: (d_out, d_in) weight before, not rounded to the model's precision.
        after: the same after, `before + update.dense()`.
    """

    keys: Tensor
    update: Update
    before: Tensor
    after: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchEdit:
    """What a method did with a batch.

    Attributes:
        layers: layer -> what was done; every edited layer is there.
        states: layer -> what the method remembers from now on.
        kept: layer -> (n,) lengths that projection leaves of the batch's keys, relative to theirs.
            A method with a projector measures them where it is near; else the report does, where
            the state waits.
        targets: how the targets were found; `None` if they were given, or there are none.
        losses: mean loss of the batch at each step of methods that train weights.
    """

    layers: Mapping[int, LayerEdit]
    states: Mapping[int, LayerState]
    kept: Mapping[int, Tensor] = field(default_factory=dict)
    targets: Targets | None = None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchJob:
    """What a method is given of a batch.

    Attributes:
        model: the model with the weights as they are now. The method writes the edited layers;
            when it fails the editor restores them.
        config: the settings; `edited_layers` are those to edit.
        requests: n edits, encoded.
        states: layer -> what the method remembered after the batch before.
        base: layer -> (d_out, d_in) weight before the first batch.
        weights: layer -> (d_out, d_in) weight so far, not rounded to the model's precision.
        given: (n, d_model) targets known from an earlier run; `None`: find them.
        processes: that edit together. All call `edit` and write every layer; the first one alone
            solves and has `states` (`first`, `remember`).
        seconds: stage -> wall-clock seconds, filled by `timed`.
        profiler: also told of the stages, if there is one.
    """

    model: EditableModel
    config: EditConfig
    requests: tuple[EditRequest, ...]
    states: Mapping[int, LayerState]
    base: Mapping[int, Tensor]
    weights: Mapping[int, Tensor]
    given: Tensor | None = None
    processes: Processes = ALONE
    seconds: dict[str, float] = field(default_factory=dict)
    profiler: Profiler | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what is spent inside to "prepare", "targets", "keys", "solve" or "advance"."""
        with timed(self.seconds, stage, self.profiler):
            yield

    def state(self, layer: int) -> LayerState:
        """What the method remembers of a layer, on the device where its solves run."""
        return self.states[layer].to(solve_device(self.weights[layer]))

    def parked(self, layer: int, state: LayerState, near: LayerState) -> LayerState:
        """A layer's new state where that of the batch before waits, beside it.

        Args:
            layer: which.
            state: the new one, made from `near`.
            near: as `state` returned it.
        """
        return state.beside(self.states[layer], near)

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process solve; all get the result, the others with tensors on the CPU."""
        return self.processes.first(work)

    def remember(self, work: Callable[[], Mapping[int, LayerState]]) -> Mapping[int, LayerState]:
        """Let the first process, which alone remembers, make the states; empty in the others."""
        return self.processes.only_first(work) or {}

    def find_targets(
        self, site: Literal["layer", "projection"] = "layer"
    ) -> tuple[Targets | None, Tensor]:
        """Optimise the targets of the requests, unless they are given.

        Args:
            site: what is to have a target: the last edited layer, or its edited projection.

        Returns:
            The optimisation, `None` if there was none, and the targets (n, d_model).

        Raises:
            NumericalError: what is given has another shape or is not finite, or the optimisation
                fails.
        """
        if self.given is None:
            targets = optimise_targets(
                self.model, self.requests, self.config, site=site, processes=self.processes
            )
            return targets, targets.target_hidden
        expected = (len(self.requests), self.model.structure.d_model)
        if tuple(self.given.shape) != expected or not bool(torch.isfinite(self.given).all()):
            raise NumericalError(
                f"target_hidden: expected finite values of shape {expected}, got shape "
                f"{tuple(self.given.shape)} or values that are not finite: give one row for each "
                "fact, or for each group of facts that merge_shared puts together"
            )
        return None, self.given.float()

    def keys(self, layers: tuple[int, ...]) -> dict[int, Tensor]:
        """Layer -> keys (n, d_in) of the requests, in the model as it is now.

        Raises:
            NumericalError: a key is not finite; the message names the fact.
        """
        contexts = [request.prompts for request in self.requests]
        limit = self.config.micro_batch_tokens
        found = compute_keys(self.model, contexts, layers, max_tokens=limit)
        for layer, keys in found.items():
            require_finite_facts("key", keys, self.requests, layer)
        return found

    def add(self, layer: int, keys: Tensor, update: Update) -> LayerEdit:
        """Write one layer's weight with an update added to it.

        Keys and update are laid out row by row, as they are when they are read back from a record:
        what follows from them then has the same bits.

        Args:
            layer: which.
            keys: (n, d_in) of the batch.
            update: rounded to float32; what is written is exactly the weight plus its rounded form.
                A pair of factors as wide as the batch is taken to have one column for each fact.

        Raises:
            NumericalError: the update, or the weight as it is stored, is not finite; the message
                names the fact, or the facts of the batch where it is not one fact's doing.
        """
        return self.processes.together(lambda: self._add(layer, keys, update))

    def _add(self, layer: int, keys: Tensor, update: Update) -> LayerEdit:
        before = self.weights[layer]
        rounded = single_precision(update, self.requests, layer)
        rounded = row_major(rounded.to(device=before.device))
        after = sum_updates(before, [rounded])
        stored = self.model.stored_dtype(layer)
        with naming_culprit(rounded, after, stored, self.requests, layer):
            self.model.write_weight(layer, after)
        if isinstance(rounded, DenseUpdate):  # as large as the weight: not on the accelerator
            rounded = rounded.to(device="cpu")
        return LayerEdit(keys=_laid_out(keys), update=rounded, before=before, after=after)

    def add_all(self, updates: Mapping[int, Update]) -> dict[int, LayerEdit]:
        """Write every layer with its update added, then read the keys in the edited model."""
        unread = torch.empty(0)
        edits = {layer: self.add(layer, unread, update) for layer, update in updates.items()}
        keys = self.first(lambda: self.keys(tuple(updates)))
        return {layer: replace(edit, keys=_laid_out(keys[layer])) for layer, edit in edits.items()}


def solve_device(weight: Tensor) -> torch.device:
    """Where the solves of a layer run: with its weight, but where float64 exists."""
    return with_float64(weight.device)


def with_float64(device: torch.device) -> torch.device:
    """This device, or the CPU where it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def sum_updates(base: Tensor, updates: Iterable[Update]) -> Tensor:
    """Base weight (d_out, d_in) plus updates, one after the other in the base's precision.

    Products are formed where the base weight is. Floating-point sums depend on their order; adding
    an update to a sum made here before gives the same bits as making the whole sum again.
    """
    total = base
    for update in updates:
        total = total + update.to(device=total.device).dense().to(total)
    return total


def _laid_out(keys: Tensor) -> Tensor:
    return keys.contiguous()
