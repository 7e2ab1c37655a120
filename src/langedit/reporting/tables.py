"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from langedit.profiler import Profile


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with one digit; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def score_table(
    title: str, first: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> Table:
    """A table of finished cells, one row a name.

    Args:
        title: above the table.
        first: heading of the column of names.
        columns: headings of the other columns.
        rows: name -> one cell a column.

    Raises:
        ValueError: a row has another number of cells.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for heading in columns:
        table.add_column(heading.replace(" ", "\n"), justify="right")
    for name, cells in rows.items():
        if len(cells) != len(columns):
            raise ValueError(f"expected {len(columns)} cells for {name}, got {len(cells)}")
        table.add_row(name, *cells)
    return table


def profile_table(profile: Profile) -> Table:
    """Time, operations, rate, share of the peak rate where it is known, and memory by stage."""
    rows = {}
    for name, own in profile.items():
        seconds, flops, peak = own["seconds"], own["flops"], own["peak_bytes"]
        rows[name] = [
            f"{own['calls']}",
            f"{seconds:.2f}",
            f"{flops / 1e9:,.1f}",
            f"{flops / seconds / 1e9:,.1f}" if seconds else "–",
            percent(own["share_of_peak"]),
            "–" if peak is None else f"{peak / 2**20:,.0f}",
        ]
    columns = ("times", "seconds", "GFLOP", "GFLOP/s", "% of bf16 peak", "peak MiB")
    return score_table("Cost by stage", "stage", columns, rows)


def definition_table(definitions: Mapping[str, str]) -> Table:
    """What scores mean, name by name, to be printed beside their numbers."""
    table = Table(title="What the scores mean", title_justify="left", title_style="bold")
    table.add_column("score")
    table.add_column("definition")
    for name, definition in definitions.items():
        table.add_row(name, definition)
    return table
