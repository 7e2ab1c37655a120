"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def heading(level: int, text: str) -> str:
    """A heading."""
    return f"{'#' * level} {text}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """A table; the first column is text, the others are figures or text, too."""
    rule = ["---", *("---:" if figures else "---" for _ in heads[1:])]
    lines = [heads, rule, *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def link(path: Path, base: Path, text: str) -> str:
    """A figure, by its path from the folder of the page."""
    return f"![{text}]({path.relative_to(base).as_posix()})"


def details(summary: str, text: str) -> str:
    """A part that is folded away."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
