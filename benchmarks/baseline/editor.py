"""A batch from facts to weights, straightforwardly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.baseline.keys import baseline_keys, baseline_lookup_hidden
from benchmarks.baseline.solve import DenseLayer
from benchmarks.baseline.targets import baseline_target
from langedit.editing import EditConfig, EditRequest
from langedit.errors import ConfigError
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineBatch:
    """What a batch did, and how long it took.

    Attributes:
        targets: (n, d_model).
        keys: layer -> (n, d_in).
        updates: layer -> added matrix (d_out, d_in).
        seconds: stage -> wall-clock seconds.
        comparing: seconds spent on what only the comparison of results needs; in no stage.
    """

    targets: Tensor
    keys: Mapping[int, Tensor]
    updates: Mapping[int, Tensor]
    seconds: Mapping[str, float]
    comparing: float


_UNREAD = (
    *("method", "projection", "spread", "stop_margin", "merge_shared", "loss_layer"),
    "basis_tolerance",
)
"""Settings that would change the editor's result and are not read here."""


class BaselineEditor:
    """Orthogonal LangEdit in the manner of the published code.

    Raises:
        ConfigError: a setting that is not read here is not at its default.
    """

    def __init__(
        self, model: EditableModel, config: EditConfig, layers: Mapping[int, DenseLayer]
    ) -> None:
        changed = [
            name
            for name in _UNREAD
            if getattr(config, name) != EditConfig.model_fields[name].get_default()
        ]
        if changed:
            raise ConfigError(
                f"baseline: expected the defaults of settings that it does not read, got others "
                f"of {', '.join(changed)}: leave them out"
            )
        self.model = model
        self.config = config
        self.layers = layers

    def apply(self, requests: Sequence[EditRequest]) -> BaselineBatch:
        """Edit one batch."""
        seconds = dict.fromkeys(("targets", "keys", "projector", "solve"), 0.0)
        comparing = {"": 0.0}
        model, config = self.model, self.config
        trained = [p for p in model.model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        with _timed(seconds, "targets"):
            found = [baseline_target(model, request, config) for request in requests]
            targets = torch.stack([own.hidden for own in found])
        contexts = [request.prompts for request in requests]
        bare = [request.prompts[0] for request in requests]
        keys, updates = {}, {}
        for done, layer in enumerate(config.layers):
            with _timed(seconds, "keys"):
                keys[layer] = baseline_keys(model, contexts, layer)
                hidden = baseline_lookup_hidden(model, bare, config.layers[-1])
            residuals = (targets - hidden) / (len(config.layers) - done)
            with _timed(seconds, "projector"):
                self.layers[layer].refresh()
            with _timed(comparing, ""):
                self.layers[layer].make_exact()
            with _timed(seconds, "solve"):
                updates[layer] = self.layers[layer].solve(keys[layer], residuals).float()
                model.write_weight(layer, model.read_weight(layer) + updates[layer])
        for layer in config.layers:  # what the edited model makes of the same prompts is kept
            with _timed(seconds, "keys"):
                after = baseline_keys(model, contexts, layer)
            with _timed(seconds, "projector"):
                self.layers[layer].remember(after)
            with _timed(comparing, ""):
                self.layers[layer].forbid(after)
        return BaselineBatch(
            targets=targets, keys=keys, updates=updates, seconds=seconds, comparing=comparing[""]
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[stage] += perf_counter() - start
