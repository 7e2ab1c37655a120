"""Which batches are in the model: what the events, read from the first to the last, come to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["batch", "refused", "undo"]


@dataclass(frozen=True)
class Standing:
    """A batch that is in the model, but for the facts that later batches replaced.

    Attributes:
        batch: number of its event.
        dropped: positions of the replaced facts, rising.
    """

    batch: int
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Change:
    """The part of an event that decides which batches are in the model."""

    number: int
    kind: Kind
    removed: tuple[int, ...] = ()
    superseded: tuple[tuple[int, int], ...] = ()
    weights_after: str = ""


@dataclass(kw_only=True)
class History:
    """Folds changes, one after another.

    Attributes:
        base: weights hash with no batch.
        batches: numbers of the batches in the model, in the order of their updates.
        replaced: batch -> facts that it replaced, for the batches in the model.
    """

    base: str
    batches: list[int] = field(default_factory=list)
    replaced: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)
    _key: str = ""

    def __post_init__(self) -> None:
        self._known[self._key] = self.base

    @classmethod
    def of(cls, base: str, changes: Iterable[Change]) -> History:
        """Fold all changes."""
        history = cls(base=base)
        for change in changes:
            history.add(change)
        return history

    def add(self, change: Change) -> None:
        """Fold one more.

        Raises:
            ValueError: it takes back a batch that is not there, or replaces a fact of such a one.
        """
        if change.kind == "batch":
            unknown = {batch for batch, _ in change.superseded} - set(
                self.batches if change.superseded else ()
            )
            if unknown:
                raise ValueError(f"event {change.number} replaces facts of unknown batches")
            self.batches.append(change.number)
            if change.superseded:
                self.replaced[change.number] = change.superseded
                self._key = key_of(self.standing())
            else:
                self._key = _next_key(self._key, Standing(change.number))
        elif change.kind == "undo":
            gone = set(change.removed)
            if not gone or not gone <= set(self.batches):
                raise ValueError(f"event {change.number} takes back batches that are not there")
            self.batches = [number for number in self.batches if number not in gone]
            self.replaced = {b: facts for b, facts in self.replaced.items() if b not in gone}
            self._key = key_of(self.standing())
        self._known.setdefault(self._key, change.weights_after)

    def standing(self) -> tuple[Standing, ...]:
        """The batches in the model; one whose facts were all replaced is still listed."""
        dropped = self.dropped()
        return tuple(Standing(n, tuple(sorted(dropped.get(n, ())))) for n in self.batches)

    def dropped(self) -> Mapping[int, set[int]]:
        """Batch -> positions of its facts that others replaced."""
        dropped: dict[int, set[int]] = {}
        for facts in self.replaced.values():
            for batch, position in facts:
                dropped.setdefault(batch, set()).add(position)
        return dropped

    def weights_of(self, standing: Iterable[Standing]) -> str | None:
        """Weights hash recorded when just these were in the model; `None` if they never were."""
        return self._known.get(key_of(standing))

    def without(self, batches: Iterable[int]) -> tuple[Standing, ...]:
        """What would be in the model if some batches were taken back."""
        copy = History(base=self.base, batches=list(self.batches), replaced=dict(self.replaced))
        copy.add(Change(number=0, kind="undo", removed=tuple(batches)))
        return copy.standing()


def key_of(standing: Iterable[Standing]) -> str:
    """A name for a list of batches; that of an empty list is empty."""
    key = ""
    for item in standing:
        key = _next_key(key, item)
    return key


def _next_key(key: str, item: Standing) -> str:
    return hashlib.sha256(f"{key} {item.batch} {item.dropped}".encode()).hexdigest()
