"""What the rows of a ledger say, as values; a row that says nothing sensible is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from langedit.facts import Fact
from langedit.facts.batches import comparable
from langedit.workspace.history import Change, Kind


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The few figures of an event that lists of events show.

    Attributes:
        facts: how many facts were edited, refused or taken back.
        languages: language -> how many of them.
        efficacy: mean efficacy in [0, 1] of the batch right after it.
        plain_efficacy: the same asked as plain text, where the model is edited in a chat; `None`
            elsewhere, and in rows from before this was recorded.
        retention: mean efficacy of earlier facts after the batch, divided by what it was right
            after their own batches; `None` where there are none.
        independence_max: largest |dW k| / |W k| over earlier keys.
        update_ratio: largest |dW| / |W| over the layers.
        rank_left: layer -> directions left to the next batch; empty for methods without a limit.
        seconds: wall-clock time of the edit.
        breaches: what guard rails the batch broke, in words.
        then: what followed a breach: `stop`, `skip` or `split`.
        how: how batches were taken back: `last`, `removal`, `replay` or `all`.
    """

    facts: int
    languages: Mapping[str, int]
    efficacy: float | None = None
    plain_efficacy: float | None = None
    retention: float | None = None
    independence_max: float | None = None
    update_ratio: float | None = None
    rank_left: Mapping[str, int]
    seconds: float = 0.0
    breaches: tuple[str, ...] = ()
    then: str | None = None
    how: str | None = None

    def to_json(self) -> str:
        """The value of the column."""
        return json.dumps(self.__dict__, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read the value of the column.

        Raises:
            ValueError, TypeError, KeyError: it is no summary.
        """
        said = {"plain_efficacy": None, **json.loads(text)}
        counts = (said["languages"], said["rank_left"])
        numbers = ("efficacy", "plain_efficacy", "retention", "independence_max", "update_ratio")
        words = (said["then"], said["how"])
        good = (
            isinstance(said["facts"], int)
            and all(isinstance(own, dict) for own in counts)
            and all(isinstance(value, int) for own in counts for value in own.values())
            and all(isinstance(said[name], int | float | None) for name in numbers)
            and isinstance(said["seconds"], int | float)
            and isinstance(said["breaches"], list)
            and all(isinstance(word, str) for word in said["breaches"])
            and all(isinstance(word, str | None) for word in words)
        )
        if not good:
            raise ValueError("an event's summary holds values of the wrong kind")
        return cls(**{**said, "breaches": tuple(said["breaches"])})


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to the weights, or was kept from happening.

    Attributes:
        number: counted from 1; batches are called by it.
        kind: a batch, a batch refused by the guard rails, or an undo.
        created: when, UTC, ISO 8601.
        weights_before: `Editor.weights_hash` before it.
        weights_after: the same after it.
        state_after: `Editor.state_hash` after it.
        job: the run of `langedit apply` that it belongs to.
        place: where in that run's stream: "3", or "3.0" for the first half of it.
        artefact: SHA-256 of the file with its tensors.
        removed: batches taken back.
        superseded: (batch, position) of the facts that it replaced.
        replays: the batch whose facts it edits once more.
        summary: the figures shown in lists.
    """

    number: int
    kind: Kind
    created: str
    weights_before: str
    weights_after: str
    state_after: str
    job: int | None
    place: str | None
    artefact: str | None
    removed: tuple[int, ...]
    superseded: tuple[tuple[int, int], ...]
    replays: int | None
    summary: Summary

    @property
    def change(self) -> Change:
        """The part that decides which batches are in the model."""
        return Change(
            number=self.number,
            kind=self.kind,
            removed=self.removed,
            superseded=self.superseded,
            weights_after=self.weights_after,
        )

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Event:
        """Read a row of `EVENT_COLUMNS`.

        Raises:
            ValueError, TypeError, KeyError: a value is no such thing.
        """
        kind = row[1]
        if kind not in get_args(Kind):
            raise ValueError(f"event {row[0]} is of an unknown kind")
        superseded = tuple((int(b), int(p)) for b, p in json.loads(row[10]))
        return cls(
            number=int(row[0]),
            kind=cast(Kind, kind),
            created=str(row[2]),
            weights_before=str(row[3]),
            weights_after=str(row[4]),
            state_after=str(row[5]),
            job=row[6],
            place=row[7],
            artefact=row[8],
            removed=tuple(int(number) for number in json.loads(row[9])),
            superseded=superseded,
            replays=row[11],
            summary=Summary.from_json(row[12]),
        )


EVENT_COLUMNS = (
    "number, kind, created, weights_before, weights_after, state_after, job, place, artefact, "
    "removed, superseded, replays, summary"
)


@dataclass(frozen=True, kw_only=True)
class FactRow:
    """A fact of a batch with its scores right after the batch, in [0, 1]."""

    event: int
    position: int
    fact: Fact
    efficacy: float | None = None
    generalization: float | None = None
    specificity: float | None = None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> FactRow:
        """Read a row of `FACT_COLUMNS`.

        Raises:
            FactError, ValueError, TypeError: it holds no fact.
        """
        return cls(
            event=int(row[0]),
            position=int(row[1]),
            fact=fact_from_json(row[2]),
            efficacy=row[3],
            generalization=row[4],
            specificity=row[5],
        )


FACT_COLUMNS = (
    "fact.event, fact.position, fact.record, fact.efficacy, fact.generalization, fact.specificity"
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The unedited model, and the editor before its first batch.

    Attributes:
        source: folder or hub id.
        revision: of a hub model.
        dtype: precision to load it in.
        device_map: where it goes.
        base: hash of all of its weights.
        weights: `Editor.weights_hash`.
        state: `Editor.state_hash`.
    """

    source: str
    revision: str | None
    dtype: str
    device_map: str | None
    base: str
    weights: str
    state: str

    @classmethod
    def from_json(cls, said: Any) -> Origin:
        """Read the value that `vars` gave.

        Raises:
            ValueError, TypeError: it is no such thing.
        """
        origin = cls(**said)
        needed = (origin.source, origin.dtype, origin.base, origin.weights, origin.state)
        others = (origin.revision, origin.device_map)
        if not all(isinstance(own, str) for own in needed) or not all(
            isinstance(own, str | None) for own in others
        ):
            raise ValueError("the model is described by values of the wrong kind")
        return origin


@dataclass(frozen=True, kw_only=True)
class Run:
    """One file of facts given to `langedit apply`.

    Attributes:
        facts_sha256: of the facts as they were read, and of the batch size.
        batch_size: facts in a batch.
        taken: positions of the facts that are edited; the others were in the model already.
    """

    facts_sha256: str
    batch_size: int
    taken: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Job(Run):
    """A run that is noted in the ledger; its number is counted from 1."""

    number: int


def fact_from_json(text: str) -> Fact:
    """The fact that `fact_to_json` wrote.

    Raises:
        FactError, ValueError, TypeError: the text is no such thing.
    """
    return Fact(**json.loads(text))


def text_hash(fact: Fact) -> str:
    """Equal for facts that ask the same: by case, white space and composition of their texts."""
    return hashlib.sha256(comparable(fact.text).encode()).hexdigest()[:32]
