"""A fact as a published data set states it, and what is dropped from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from langedit.facts.fact import Fact
from langedit.facts.rows import RejectedRow

HowFound = Literal[
    "marked", "as given", "normalised", "English subject", "English, normalised", "shared name"
]
"""How the subject was found in the prompt; see `langedit.facts.datasets.subjects`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFact:
    """A fact with what its data set says beyond it.

    Attributes:
        fact: What would be edited. Its id is ``<language>/<key>``, its group is the key.
        key: Equal for the same fact in other languages, also in other files of the data set.
        found: How the subject was found in the prompt.
    """

    fact: Fact
    key: str
    found: HowFound


@dataclass(frozen=True, slots=True)
class RejectedRecord(RejectedRow):
    """A record, or one language of it, that is no fact.

    ``line`` is where the record begins (its number from 1 where the source has no lines), and
    ``field`` names record and field: ``"[12].de.subject"`` is in the thirteenth record.

    Attributes:
        language: The language of the rejected text, where it is known.
    """

    language: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFile:
    """What a source holds.

    Attributes:
        source: File or hub id as it was named by the caller.
        format: Name of the format in which it was read.
        entries: The good records, in the source's order.
        rejected: Everything else, in the source's order.
    """

    source: str
    format: str
    entries: tuple[DatasetFact, ...]
    rejected: tuple[RejectedRecord, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the entries."""
        return tuple(entry.fact for entry in self.entries)
