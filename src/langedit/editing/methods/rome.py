"""ROME (Meng et al. 2022): one fact after another, each a rank-one update of one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from langedit.editing.batch import BatchEdit, BatchJob
from langedit.editing.finite import fact_names, naming_facts, require_finite_facts
from langedit.editing.key_weights import keys_of_edits
from langedit.editing.keys import compute_keys, lookup_projected, prompt_keys
from langedit.editing.methods.base import GENERAL, TARGETS, LayerState
from langedit.editing.methods.memit import solver_of
from langedit.editing.targets import Targets, join_targets
from langedit.errors import ConfigError, NumericalError
from langedit.linalg import LowRankUpdate, MomentSolver, SecondMoment, Update, rome_update

if TYPE_CHECKING:
    from langedit.editing.config import EditConfig


@dataclass(frozen=True, kw_only=True)
class Rome:
    """`dW = (v* - W k) u^T / (u^T k)`, `u = C0^-1 mean(k over contexts)` (equation 2).

    The target v* is of the edited projection's output, not of the layer's; k is the key in the
    bare prompt, so that the edited weight gives exactly v* there. Each fact of a batch is edited in
    the model as the facts before it have left it.
    """

    needs_null_space: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = GENERAL | TARGETS

    @classmethod
    def from_config(cls, config: EditConfig) -> Self:
        """Reads the layer.

        Raises:
            ConfigError: more than one layer is to be edited.
        """
        if len(config.edited_layers) != 1:
            raise ConfigError(
                f"layers: rome edits one layer, got {', '.join(map(str, config.edited_layers))}: "
                "name one of them, for example layers = [5] for a model of 32 layers"
            )
        return cls()

    def start(self, layer: int, moment: SecondMoment) -> LayerState:
        """Factors C0, once for all facts."""
        return LayerState.begin(moment, solver=MomentSolver.from_moment(moment, 1.0))

    def remember(self, state: LayerState, keys: Tensor, update: Update, base: Tensor) -> LayerState:
        """The state after a batch edited before: its keys join the history."""
        return state.after(keys)

    def edit(self, job: BatchJob) -> BatchEdit:
        """Edit the facts one after another."""
        (layer,) = job.config.edited_layers
        updates: list[LowRankUpdate] = []
        found: list[Targets] = []
        edit = None
        with job.timed("solve"):
            near = job.remember(lambda: {layer: job.state(layer)})
        with job.timed("keys"):  # only layers below could change them
            keys = job.first(partial(_keys, job, layer))
        for i in range(len(job.requests)):
            given = None if job.given is None else job.given[i : i + 1]
            single = replace(job, requests=job.requests[i : i + 1], given=given, states=near)
            with job.timed("targets"):
                targets, wanted = single.find_targets("projection")
                found += [] if targets is None else [targets]
            with job.timed("solve"):
                updates.append(job.first(partial(_solve, single, layer, wanted[0])))
                so_far = replace(job, requests=job.requests[: i + 1])
                edit = so_far.add(layer, keys, LowRankUpdate.join(updates))
        assert edit is not None  # a batch has at least one fact
        edited = edit.keys
        with job.timed("targets"):
            targets = join_targets(found) if found else None
        with job.timed("advance"):
            states = job.remember(lambda: {layer: job.states[layer].after(edited)})
        return BatchEdit(layers={layer: edit}, states=states, targets=targets)


def _keys(job: BatchJob, layer: int) -> Tensor:
    """The facts' keys (n, d_in).

    Raises:
        NumericalError: a key is not finite, or one of a bare prompt is zero; the message names the
            fact.
    """
    sizes = [len(request.prompts) for request in job.requests]
    prompts = [prompt for request in job.requests for prompt in request.prompts]
    limit = job.config.micro_batch_tokens
    rows = prompt_keys(job.model, prompts, [layer], max_tokens=limit)[layer]
    keys = keys_of_edits(sizes, rows)
    require_finite_facts("key", keys, job.requests, layer)
    bare = rows[[0, *accumulate(sizes[:-1])]].any(dim=1).tolist()
    zero = [own for own, there in zip(job.requests, bare, strict=True) if not there]
    if zero:
        raise NumericalError(
            f"layer {layer}: expected keys that are not zero, got one of zeros alone in the bare "
            f"prompt of {fact_names(zero)}: whatever is added to this weight, it gives the same "
            f"there; edit another layer (layers), or leave the fact out"
        )
    return keys


def _solve(job: BatchJob, layer: int, wanted: Tensor) -> LowRankUpdate:
    """The update of one fact, so that the projection gives `wanted` (d_model,) there.

    Raises:
        NumericalError: a value is not finite; the message names the fact.
    """
    prompts, limit = job.requests[0].prompts, job.config.micro_batch_tokens
    contexts = [[prompt] for prompt in prompts]
    keys = compute_keys(job.model, contexts, [layer], max_tokens=limit)[layer]
    output = lookup_projected(job.model, prompts[:1], layer)[0]
    missing, mean = wanted.to(output) - output, keys.mean(dim=0)
    require_finite_facts("key", mean.unsqueeze(0), job.requests, layer)
    require_finite_facts("residual", missing.unsqueeze(0), job.requests, layer)
    with naming_facts(job.requests, layer):
        return rome_update(solver_of(job.states[layer]), mean, keys[0], missing)
