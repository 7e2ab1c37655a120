"""Lines and tables of words from models, facts and ledgers: no markup, nothing unprintable."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT = 8
"""Characters of a hash that people read."""

_NUMBERS = frozenset(
    ("#", "batch", "facts", "efficacy", "as text", "kept", "room", "seconds", "rank", "layer")
)
_WHOLE = _NUMBERS | {"when (UTC)", "weights", "language"}


def say(*lines: str) -> None:
    """Print lines; what no terminal should get is escaped."""
    console = Console()
    for line in lines:
        console.print(shown(line), markup=False, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    print("\n".join(map(shown, text.split("\n"))))


def shown(text: str) -> str:
    """A text with control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def plain_table(*columns: str) -> Table:
    """A table with these columns; those of numbers are on the right."""
    table = Table()
    for column in columns:
        side: Literal["left", "right"] = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=side, no_wrap=column in _WHOLE)
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of cells as they are: no markup, no control characters."""
    table.add_row(*(Text(shown(str(cell))) for cell in cells))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
