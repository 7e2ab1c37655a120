"""What is needed to make an edited model again from its base: the one thing that exports read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from langedit.errors import RecordError
from langedit.facts import Fact
from langedit.linalg import DenseUpdate, LowRankUpdate, Update
from langedit.models import ChatSettings, ModelIdentity

Score = Mapping[str, float | None]
"""Scores of a fact in [0, 1]: efficacy, generalization, specificity; `None` where not probed."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
_WEIGHT_NAME = re.compile(r"\w+(\.\w+)*\.weight", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class EditedLayer:
    """Where the edited weight of a layer is.

    Attributes:
        weight_name: the parameter's name, such as "model.layers.4.mlp.down_proj.weight".
        transposed: whether the module stores it as (d_in, d_out), as GPT-2's Conv1D does.

    Raises:
        RecordError: the name is none of a weight.
    """

    weight_name: str
    transposed: bool

    def __post_init__(self) -> None:
        if not _WEIGHT_NAME.fullmatch(self.weight_name):
            raise RecordError(
                "expected the name of a weight, such as model.layers.4.mlp.down_proj.weight, got "
                f"{self.weight_name[:100]!r}"
            )

    @property
    def module_name(self) -> str:
        """Name of the module that holds the weight."""
        return self.weight_name.removesuffix(".weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class EditedBatch:
    """One batch of a record.

    Attributes:
        number: what the batch is called, from 0.
        facts: the facts.
        updates: layer -> what was added to its weight.
        rows: for each fact its row in the factors and keys: several may share one.
        keys: layer -> (rows, d_in) keys of the facts; `None` where they were not kept.
        scores: scores of the facts with all edits of the record in the model; `None` where they
            were not measured.
    """

    number: int
    facts: tuple[Fact, ...]
    updates: Mapping[int, Update]
    rows: tuple[int, ...]
    keys: Mapping[int, Tensor] | None = None
    scores: tuple[Score, ...] | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the facts, in order of first appearance."""
        return tuple(dict.fromkeys(fact.language for fact in self.facts))

    @property
    def row_count(self) -> int:
        """How many rows the facts have."""
        return len(set(self.rows))

    @property
    def by_fact(self) -> bool:
        """Whether the rows of the factors belong to facts."""
        return all(update.rank == self.row_count for update in self.updates.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class EditedModelRecord:
    """A base model and the updates that make an edited model of it.

    Attributes:
        base: the weights before the first edit.
        dtype: precision in which the model is stored: "bfloat16".
        layers: edited layer -> where its weight is.
        method: how the updates were made.
        structure: names of modules that are not found by themselves.
        settings: all settings, for people; exports read how facts are asked (`chat`).
        batches: the batches, oldest first. Their updates are summed in this order.
        selection: what was left out of a longer record, in words; `None` if nothing was.

    Raises:
        RecordError: parts contradict one another.
    """

    base: ModelIdentity
    dtype: str
    layers: Mapping[int, EditedLayer]
    method: str
    structure: Mapping[str, str]
    settings: Mapping[str, Any]
    batches: tuple[EditedBatch, ...]
    selection: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise RecordError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        names = [layer.weight_name for layer in self.layers.values()]
        if not names or len(set(names)) < len(names) or min(self.layers) < 0:
            raise RecordError(
                f"layers: expected one weight for each of at least one layer, got {len(names)} "
                f"weights for the layers {sorted(self.layers)}"
            )
        if not self.batches:
            raise RecordError("batches: expected at least one, got none: edit something first")
        numbers = [batch.number for batch in self.batches]
        if len(set(numbers)) < len(numbers):
            raise RecordError(f"batches: expected each number once, got {numbers}")
        for batch in self.batches:
            self._check_batch(batch)

    @property
    def chat(self) -> ChatSettings | None:
        """How the facts were put to the model, by the settings; `None`: as plain text.

        Raises:
            RecordError: the settings say it in values of the wrong kind.
        """
        if not self.settings.get("chat"):
            return None
        prompt = self.settings.get("system_prompt")
        date = self.settings.get("chat_date", ChatSettings().date)
        if not isinstance(prompt, str | None) or not isinstance(date, str):
            raise RecordError(
                "settings: expected text as system_prompt and chat_date, got "
                f"{prompt!r} and {date!r}: export again from the edited folder"
            )
        return ChatSettings(system_prompt=prompt, date=date)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of all batches."""
        return tuple(fact for batch in self.batches for fact in batch.facts)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the facts, in order of first appearance."""
        return tuple(dict.fromkeys(fact.language for fact in self.facts))

    @property
    def scores(self) -> tuple[Score, ...] | None:
        """Scores of all facts, in order; `None` if those of a batch are missing."""
        found: list[Score] = []
        for batch in self.batches:
            if batch.scores is None:
                return None
            found += batch.scores
        return tuple(found)

    def with_scores(self, scores: Sequence[Score]) -> EditedModelRecord:
        """The same record with scores of all facts, in order.

        Raises:
            RecordError: there is not one score for each fact.
        """
        dealt = split_scores([batch.facts for batch in self.batches], scores)
        pairs = zip(self.batches, dealt, strict=True)
        return replace(self, batches=tuple(replace(batch, scores=own) for batch, own in pairs))

    def updates(self, layer: int) -> tuple[Update, ...]:
        """The updates of a layer, oldest first."""
        return tuple(batch.updates[layer] for batch in self.batches)

    def total(self, layer: int) -> Update:
        """The sum of the updates of a layer in float32, on the CPU: factors side by side.

        A matrix where one of the updates is one.
        """
        parts = [update.to(device="cpu", dtype=torch.float32) for update in self.updates(layer)]
        factors = [part for part in parts if isinstance(part, LowRankUpdate)]
        if len(factors) == len(parts):
            return LowRankUpdate.join(factors)
        exact = [part.to(dtype=torch.float64).dense() for part in parts]
        return DenseUpdate(matrix=torch.stack(exact).sum(dim=0).float())

    def _check_batch(self, batch: EditedBatch) -> None:
        count, rows, where = len(batch.facts), batch.row_count, f"batch {batch.number}"
        if count == 0:
            raise RecordError(f"{where}: expected at least one fact, got none")
        if len(batch.rows) != count or set(batch.rows) != set(range(rows)):
            raise RecordError(
                f"{where}: expected a row, from 0, for each of {count} facts, got {batch.rows}"
            )
        if batch.scores is not None and len(batch.scores) != count:
            raise RecordError(
                f"{where}: expected scores for each fact, got {len(batch.scores)} for {count}"
            )
        if batch.updates.keys() != self.layers.keys():
            raise RecordError(
                f"{where}: expected updates of the layers {sorted(self.layers)}, got "
                f"{sorted(batch.updates)}"
            )
        for layer, update in batch.updates.items():
            shape = update_shape(update)
            if shape != update_shape(self.batches[0].updates[layer]):
                raise RecordError(f"{where}, layer {layer}: {shape} is no shape of earlier updates")
            if batch.keys is None:
                continue
            came = tuple(batch.keys[layer].shape) if layer in batch.keys else None
            if came != (rows, shape[1]):
                raise RecordError(
                    f"{where}, layer {layer}: expected keys of shape {(rows, shape[1])}, got {came}"
                )


def update_shape(update: Update) -> tuple[int, int]:
    """(d_out, d_in) of what an update is added to."""
    if isinstance(update, LowRankUpdate):
        return update.left.shape[0], update.right.shape[1]
    return update.matrix.shape[0], update.matrix.shape[1]


def split_scores(
    batches: Sequence[Sequence[Fact]], scores: Sequence[Score] | None
) -> list[tuple[Score, ...] | None]:
    """Deal scores of all facts out to their batches.

    Raises:
        RecordError: there is not one score for each fact.
    """
    if scores is None:
        return [None] * len(batches)
    total = sum(map(len, batches))
    if len(scores) != total:
        raise RecordError(f"scores: expected one for each of {total} facts, got {len(scores)}")
    rest = iter(scores)
    return [tuple(next(rest) for _ in batch) for batch in batches]
