"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langedit.errors import OutputError


def check_output(folder: Path) -> None:
    """See, without writing, that a folder can be made or is empty.

    Raises:
        OutputError: It is a file, has something in it, or its place is not writable.
    """
    if folder.is_dir():
        if any(folder.iterdir()):
            raise OutputError(
                f"{folder}: expected a new or empty folder, got one with files in it; choose "
                "another, or empty it yourself"
            )
    elif folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder}: expected a folder, got a file; choose another name")
    ground = _nearest_existing(folder.absolute().parent)
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder}: expected a place that can be written, but {ground} cannot; choose another"
        )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`, which takes its name when the body succeeds.

    If the body fails or is interrupted, nothing remains of either.

    Raises:
        OutputError: The folder is not empty, or cannot be written.
    """
    check_output(folder)
    folder = folder.absolute()
    missing = [parent for parent in folder.parents if not parent.exists()]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(missing)
        if isinstance(error, OSError):
            raise OutputError(
                f"{folder}: cannot be written ({error}); free or choose room"
            ) from error
        raise


def _nearest_existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as far as they are there and empty."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
