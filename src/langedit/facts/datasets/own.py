"""Facts with our own field names, in a table or an array instead of a file of facts."""

from __future__ import annotations

from langedit.facts.datasets.entries import DatasetFact
from langedit.facts.datasets.formats import Context, Format
from langedit.facts.datasets.values import Values
from langedit.facts.fact import Fact, FactFieldError
from langedit.facts.rows import REQUIRED_FIELDS, Row, to_fact


def own_entry(fact: Fact, index: int) -> DatasetFact:
    """Return a fact that needed no reading as the entry of a data set."""
    return DatasetFact(fact=fact, key=fact.group or fact.id or str(index), found="marked")


def _read(values: Values, context: Context) -> DatasetFact:
    given = {name: value for name, value in values.fields.items() if value is not None}
    try:
        fact = to_fact(Row(context.index + 1, given), f"{context.language.code}/{context.index}")
    except FactFieldError as error:
        raise FactFieldError(values.name(error.field), error.reason) from None
    return own_entry(fact, context.index)


OWN = Format(
    name="langedit",
    summary="our own fields, as in a file of facts",
    keys=frozenset(REQUIRED_FIELDS),
    read=_read,
    language_field="language",
)
