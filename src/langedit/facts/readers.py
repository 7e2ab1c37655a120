"""Files of facts, read and written. Every row that is no fact is reported, none is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from langedit.errors import FactError, OutputError
from langedit.facts.fact import Fact, FactFieldError
from langedit.facts.jsonl import fact_to_json, jsonl_rows
from langedit.facts.listing import listed
from langedit.facts.rows import RejectedRow, Row, to_fact
from langedit.facts.tables import csv_rows


@dataclass(frozen=True, slots=True)
class FactFile:
    """What a file of facts holds.

    Attributes:
        path: The file as it was named by the caller.
        facts: The good rows, in the file's order.
        lines: For each of them the line on which its row begins, counted from 1.
        rejected: The other rows, in the file's order.
    """

    path: Path
    facts: tuple[Fact, ...]
    lines: tuple[int, ...]
    rejected: tuple[RejectedRow, ...]


def read_facts(path: str | os.PathLike[str], *, strict: bool = False) -> FactFile:
    """Read a file of facts: JSON Lines (``.jsonl``) or CSV (``.csv``), in UTF-8.

    JSON Lines hold one object a line, with the keys of `Fact`; see `langedit.facts.tables` for
    CSV. A byte order mark is skipped. A fact without an id is called ``<file name>:<line>``.

    Args:
        path: The file.
        strict: Take no file in which any row is rejected.

    Raises:
        FactError: The file cannot be read, is of another kind, has a wrong CSV header, or holds
            no fact that can be used; or, if ``strict``, a row was rejected.
    """
    path = Path(path)
    parse = {".jsonl": jsonl_rows, ".csv": csv_rows}.get(path.suffix.lower())
    if parse is None:
        raise FactError(f"expected a file of facts that ends in .jsonl or .csv, got {str(path)!r}")
    facts: list[Fact] = []
    lines: list[int] = []
    rejected: list[RejectedRow] = []
    for row in parse(decoded(path), str(path)):
        outcome = _fact_or_rejection(row, path) if isinstance(row, Row) else row
        if isinstance(outcome, Fact):
            facts.append(outcome)
            lines.append(row.line)
        else:
            rejected.append(outcome)
    refuse(path, len(facts), rejected, strict)
    return FactFile(path, tuple(facts), tuple(lines), tuple(rejected))


def write_facts(path: str | os.PathLike[str], facts: Iterable[Fact]) -> None:
    """Write facts as JSON Lines, replacing the file. `read_facts` gives back equal facts.

    A fact without an id has one when read back, since the reader names it.

    Raises:
        OutputError: The path does not end in ``.jsonl``, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise OutputError(f"expected a path that ends in .jsonl for the facts, got {str(path)!r}")
    text = "".join(f"{fact_to_json(fact)}\n" for fact in facts)
    try:
        path.write_bytes(text.encode("utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write facts to {str(path)!r}: {reason}") from error


def decoded(path: Path) -> str:
    """The text of a file.

    Raises:
        FactError: the file is a folder, is missing, or is not UTF-8.
    """
    if path.is_dir():
        raise FactError(f"expected a file of facts, got the folder {str(path)!r}: name one file")
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise FactError(f"cannot read the file of facts {str(path)!r}: {reason}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FactError(
            f"expected UTF-8 in {str(path)!r}, got the byte 0x{error.object[error.start]:02x} in "
            f"line {line}: save the file as UTF-8"
        ) from error


def _fact_or_rejection(row: Row, path: Path) -> Fact | RejectedRow:
    try:
        return to_fact(row, default_id=f"{path.name}:{row.line}")
    except FactFieldError as error:
        return RejectedRow(str(path), row.line, error.field, error.reason)


def refuse(path: Path, n_facts: int, rejected: list[RejectedRow], strict: bool) -> None:
    """Raise if the rows read are not enough, or not good enough."""
    if not n_facts and not rejected:
        raise FactError(f"expected facts in {str(path)!r}, got an empty file")
    if not n_facts:
        found = f"got no row that can be used, of {len(rejected)}:\n{listed(rejected)}"
        raise FactError(f"expected facts in {str(path)!r}, {found}")
    if strict and rejected:
        found = f"got {len(rejected)} rejected rows of {n_facts + len(rejected)}"
        advice = "mend them, or read without strict to leave them out"
        raise FactError(
            f"expected only good rows in {str(path)!r}, {found}; {advice}:\n{listed(rejected)}"
        )
