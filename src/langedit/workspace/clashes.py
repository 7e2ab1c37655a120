"""Facts that contradict what is in a workspace's model."""

from __future__ import annotations

from collections.abc import Sequence

from langedit.errors import FactError
from langedit.facts import Fact
from langedit.facts.batches import comparable
from langedit.facts.listing import listed
from langedit.workspace.history import Standing
from langedit.workspace.rows import FactRow
from langedit.workspace.workspace import Workspace


def clashing(
    workspace: Workspace, standing: Sequence[Standing], facts: Sequence[Fact]
) -> list[tuple[Fact, FactRow]]:
    """Facts that give another answer than one in the model to the same question, with that one."""
    dropped = {item.batch: item.dropped for item in standing}
    return [
        (fact, row)
        for fact in facts
        for row in workspace.ledger.asking_the_same(fact)
        if row.event in dropped
        and row.position not in dropped[row.event]
        and comparable(row.fact.target) != comparable(fact.target)
    ]


def contradiction(clashes: Sequence[tuple[Fact, FactRow]]) -> FactError:
    """The error for facts that contradict the model."""
    lines = [
        f"{fact.language}: {fact.text!r} -> {fact.target!r}; batch {old.event} says "
        f"{old.fact.target!r}"
        for fact, old in clashes
    ]
    return FactError(
        "expected facts that agree with those edited before, got others for the same prompts; "
        f"leave them out, or replace the earlier ones with --supersede:\n{listed(lines)}"
    )
