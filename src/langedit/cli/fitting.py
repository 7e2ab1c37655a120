"""Facts of a file against the model that is to be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langedit.editing import EditConfig
from langedit.errors import TokenError
from langedit.evaluation.fitting import misfits
from langedit.facts import Fact, FactFile, RejectedRow
from langedit.facts.listing import listed
from langedit.models import EditableModel


def require_fitting(
    model: EditableModel,
    file: FactFile,
    facts: Sequence[Fact],
    config: EditConfig,
    prefixes: Mapping[str, Sequence[str]],
) -> None:
    """See that the model can be asked every text of the facts, before time is spent on the first.

    Args:
        model: The model as it is edited.
        file: Where the facts come from.
        facts: Those of them that will be edited.
        config: What they are edited with.
        prefixes: The context prefixes that are known so far.

    Raises:
        TokenError: It cannot; the message names file, line and field of each such text.
    """
    lines = dict(zip(file.facts, file.lines, strict=True))
    found = [
        RejectedRow(str(file.path), lines[facts[own.fact]], own.field, own.reason)
        for own in misfits(model, facts, config, prefixes)
    ]
    if found:
        raise TokenError(
            f"expected texts that the model can read, got {len(found)} that it cannot; nothing was "
            f"edited:\n{listed(found)}"
        )
