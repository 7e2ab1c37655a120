"""Progress on the terminal; silent when the error stream is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Done(Protocol):
    """Told how many steps are done in all, and what is being done where that has changed."""

    def __call__(self, done: int, title: str | None = None) -> None:
        """Show it."""
        ...


@contextmanager
def progress(title: str, total: int | None = None, *, shown: bool = True) -> Iterator[Done]:
    """Show a bar on the error stream while the body runs; it disappears afterwards.

    Args:
        title: What is being done.
        total: How many steps there are; None where that is not known.
        shown: False for processes that leave it to another one.

    Yields:
        A function that is told how many steps are done in all.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda done, title=None: bar.update(task, completed=done, description=title)


def note(message: str) -> None:
    """Write a line for people on the error stream, which keeps results apart from remarks."""
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
