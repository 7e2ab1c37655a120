"""What to edit: facts, their languages, and the files they are read from."""

from __future__ import annotations

from langedit.facts.batches import check_batch, comparable, make_batches
from langedit.facts.fact import Fact, FactFieldError, Probe
from langedit.facts.languages import Language
from langedit.facts.readers import FactFile, read_facts, write_facts
from langedit.facts.rows import RejectedRow

__all__ = [
    "Fact",
    "FactFieldError",
    "FactFile",
    "Language",
    "Probe",
    "RejectedRow",
    "check_batch",
    "comparable",
    "make_batches",
    "read_facts",
    "write_facts",
]
