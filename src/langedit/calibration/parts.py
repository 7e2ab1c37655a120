"""Parts of a sample that share no subject: to look at layers, to search, to confirm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from langedit.errors import FactError
from langedit.facts import Fact
from langedit.facts.batches import comparable

SHARES = (0.2, 0.4, 0.4)
"""Of the subjects: looked at, searched on, confirmed on."""

_LEAST = 5
"""Subjects a language with which each part can have one."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Facts by what they are for; languages take turns within each.

    Attributes:
        probe: for tracing, reachability and statistics.
        search: what trials edit.
        confirm: what the settings found are compared on with those at the start.
    """

    probe: tuple[Fact, ...]
    search: tuple[Fact, ...]
    confirm: tuple[Fact, ...]


def split_facts(facts: Sequence[Fact]) -> Parts:
    """Split by subject: facts of one subject, or of one group, are in one part.

    Which part follows from the names alone, and from how many there are.

    Raises:
        FactError: there are too few facts.
    """
    languages = tuple(dict.fromkeys(fact.language for fact in facts))
    owners = _owners(facts)
    order = sorted(set(owners), key=lambda name: hashlib.sha256(name.encode()).digest())
    ends = [round(len(order) * sum(SHARES[: i + 1])) for i in range(len(SHARES))]
    part_of = {name: sum(at >= end for end in ends) for at, name in enumerate(order)}
    found = [
        [fact for fact, name in zip(facts, owners, strict=True) if part_of[name] == part]
        for part in range(len(SHARES))
    ]
    short = [
        code for code in languages if any(code not in {f.language for f in own} for own in found)
    ]
    if short or not facts:
        raise FactError(
            f"calibrate: expected at least {_LEAST} subjects in each language, better 30 or more, "
            "which are split into three parts with facts of every language, got "
            f"{len(facts)} facts of {len(order)} subjects in all, too few in "
            f"{', '.join(short) or 'every language'}: give more facts"
        )
    return Parts(probe=in_turn(found[0]), search=in_turn(found[1]), confirm=in_turn(found[2]))


def in_turn(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The facts with the languages taking turns, in the order of each language."""
    by_language: dict[str, list[Fact]] = {}
    for fact in facts:
        by_language.setdefault(fact.language, []).append(fact)
    turns = chain.from_iterable(zip_longest(*by_language.values()))
    return tuple(fact for fact in turns if fact is not None)


def _owners(facts: Sequence[Fact]) -> list[str]:
    """For each fact a name that facts of its subject and of its group share."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for fact in facts:
        subject = f"subject {comparable(fact.subject)}"
        if fact.group is not None:
            first, second = sorted((root(subject), root(f"group {fact.group}")))
            parent[second] = first
    return [root(f"subject {comparable(fact.subject)}") for fact in facts]
