"""What a ledger answers without the model: its state, and what changed between two events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langedit.errors import WorkspaceError
from langedit.facts import Fact
from langedit.workspace.database import reading
from langedit.workspace.history import History, Standing
from langedit.workspace.ledger import Ledger
from langedit.workspace.rows import Event, FactRow, text_hash


@dataclass(frozen=True, kw_only=True)
class Status:
    """A workspace at a glance.

    Attributes:
        model: source, revision, dtype and hash of the unedited model.
        method: of the settings.
        layers: edited layers.
        weights: hash of the edited weights now.
        original: whether they are the original ones.
        batches: numbers of the batches in the model.
        events: how many events there are in all.
        refused: how many batches the guard rails refused.
        languages: language -> facts in the model.
        replaced: facts that later ones replaced.
        rank_left: layer -> directions left to edits; empty for methods without a limit, and before
            the first batch.
        guards: names of the guard rails that are set.
    """

    model: Mapping[str, Any]
    method: str
    layers: tuple[int, ...]
    weights: str
    original: bool
    batches: tuple[int, ...]
    events: int
    refused: int
    languages: Mapping[str, int]
    replaced: int
    rank_left: Mapping[str, int]
    guards: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the model says otherwise after one event than after another.

    Attributes:
        weights: hashes of the weights after the two.
        added: facts only in the second.
        removed: facts only in the first.
        changed: facts in both with other targets: the earlier and the later one.
        rank_left: layer -> directions left after the two, where both are known.
    """

    weights: tuple[str, str]
    added: tuple[FactRow, ...]
    removed: tuple[FactRow, ...]
    changed: tuple[tuple[FactRow, FactRow], ...]
    rank_left: Mapping[str, tuple[int, int]]


def status_of(ledger: Ledger) -> Status:
    """The present state.

    Raises:
        WorkspaceError: the ledger is damaged.
    """
    history = ledger.history()
    standing = set(history.batches)
    facts = Counter[str]()
    for batch, language, count in ledger.languages():
        if batch in standing:
            facts[language] += count
    replaced = [fact for own in history.replaced.values() for fact in own if fact[0] in standing]
    for batch, position in replaced:
        facts[ledger.fact(batch, position).fact.language] -= 1
    origin, config, guards = ledger.origin(), ledger.table("config"), ledger.table("guards")
    moments = ledger.table("moments")
    weights = ledger.head()[0]
    last = ledger.last_change()
    with reading(ledger.path):
        settings = guards["settings"]
        return Status(
            model={name: getattr(origin, name) for name in ("source", "revision", "dtype", "base")},
            method=str(config["method"]),
            layers=tuple(int(layer) for layer in moments),
            weights=weights,
            original=weights == origin.weights,
            batches=tuple(history.batches),
            events=ledger.count(),
            refused=ledger.count("refused"),
            languages={name: count for name, count in facts.items() if count},
            replaced=len(replaced),
            rank_left={} if last is None else last.summary.rank_left,
            guards=tuple(
                name
                for name, value in settings.items()
                if value not in (None, []) and name not in ("texts", "retention_facts")
            ),
        )


def difference(ledger: Ledger, first: int, second: int) -> Difference:
    """Compare the model after two events; 0 is the unedited model.

    Raises:
        WorkspaceError: there is no such event, or the ledger is damaged.
    """
    events = ledger.events()
    for number in (first, second):
        if not 0 <= number <= len(events):
            raise WorkspaceError(
                f"expected the number of an event, or 0 for the unedited model, up to "
                f"{len(events)}, got {number}: langedit log lists them"
            )
    base = ledger.origin().weights
    old, new = (_facts_after(ledger, events[:number], base) for number in (first, second))
    hashes = [events[number - 1].weights_after if number else base for number in (first, second)]
    left = [_rank_left(events[:number]) for number in (first, second)]
    same_place = {
        key: (old[key], new[key])
        for key in old
        if key in new and _said(old[key]) != _said(new[key])
    }
    return Difference(
        weights=(hashes[0], hashes[1]),
        added=tuple(row for key, row in new.items() if key not in old),
        removed=tuple(row for key, row in old.items() if key not in new),
        changed=tuple(same_place.values()),
        rank_left={
            layer: (left[0][layer], left[1][layer]) for layer in left[0] if layer in left[1]
        },
    )


def in_model(standing: Sequence[Standing], row: FactRow) -> bool:
    """Whether a fact is in the model: its batch is, and nothing replaced it."""
    return any(item.batch == row.event and row.position not in item.dropped for item in standing)


def _facts_after(
    ledger: Ledger, events: Sequence[Event], base: str
) -> dict[tuple[str, str], FactRow]:
    """What is asked -> the fact that answers, after some events."""
    with reading(ledger.path):
        history = History.of(base, (event.change for event in events))
    return {
        _asked(row.fact): row
        for item in history.standing()
        for row in ledger.facts(item.batch)
        if row.position not in item.dropped
    }


def _rank_left(events: Sequence[Event]) -> Mapping[str, int]:
    kept = (event for event in reversed(events) if event.kind != "refused")
    event = next(kept, None)
    return {} if event is None else event.summary.rank_left


def _asked(fact: Fact) -> tuple[str, str]:
    return fact.language, text_hash(fact)


def _said(row: FactRow) -> str:
    return row.fact.target
