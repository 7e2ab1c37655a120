"""Facts as CSV: a header, then one fact a record.

The header names the fields in any order: language, prompt, subject and target, and if wanted
paraphrases, neighbourhood, portability, old, group and id. Fields are separated by commas and
quoted by ``"`` where they hold a comma, a quote (doubled) or a line break. Several paraphrases in
one cell are separated by ``|``, and so are probes, each of them ``prompt => answer``. A text that
itself holds ``|`` or ``=>`` needs JSON Lines.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from langedit.errors import FactError
from langedit.facts.fact import FactFieldError
from langedit.facts.rows import FIELDS, REQUIRED_FIELDS, RejectedRow, Row

_BETWEEN = "|"
_ARROW = "=>"


def csv_rows(text: str, file: str) -> Iterator[Row | RejectedRow]:
    """Read one row a record; a record may span several lines.

    Blank lines are skipped, and so are the records of empty cells that spreadsheets leave behind.

    Raises:
        FactError: The header misses a column or has one that is unknown or comes twice.
    """
    records = _records(text)
    header: list[str] | None = None
    for line, record in records:
        if header is None:
            header = _header(record, file)
        elif isinstance(record, csv.Error):
            yield RejectedRow(file, line, None, f"not CSV: {record}; check the quotes")
        elif len(record) != len(header):
            reason = f"expected {len(header)} cells as in the header, got {len(record)}"
            yield RejectedRow(file, line, None, f"{reason}; quote a text that holds a comma")
        else:
            try:
                yield Row(line, _values(dict(zip(header, record, strict=True))))
            except FactFieldError as error:
                yield RejectedRow(file, line, error.field, error.reason)


def _records(text: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield the first line and the cells of each record, or what is wrong with it."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, error
        else:
            if any(cell.strip() for cell in cells):
                yield line, cells


def _header(record: list[str] | csv.Error, file: str) -> list[str]:
    """Return the columns' names, all known, the required ones among them."""
    optional = [name for name in FIELDS if name not in REQUIRED_FIELDS]
    expected = f"expected the columns {', '.join(REQUIRED_FIELDS)} and if wanted "
    expected += f"{', '.join(optional)}, separated by commas, in the first line of {file}"
    if isinstance(record, csv.Error):
        raise FactError(f"{expected}; it is not CSV: {record}")
    names = [name.strip() for name in record]
    faults = [f"{name} is missing" for name in REQUIRED_FIELDS if name not in names]
    faults += [f"{name!r} is unknown" for name in names if name not in FIELDS]
    faults += [f"{name!r} comes twice" for name, times in Counter(names).items() if times > 1]
    if faults:
        raise FactError(f"{expected}; found {', '.join(names)!r}: {'; '.join(faults)}")
    return names


def _values(cells: dict[str, str]) -> dict[str, Any]:
    """Return a fact's values; empty optional cells are left out."""
    values: dict[str, Any] = {name: cells[name] for name in REQUIRED_FIELDS}
    if cells.get("paraphrases", "").strip():
        values["paraphrases"] = _parts(cells["paraphrases"], _BETWEEN)
    for name in ("neighbourhood", "portability"):
        if cells.get(name, "").strip():
            values[name] = _probes(name, cells[name])
    for name in ("old", "group", "id"):
        if cells.get(name, "").strip():
            values[name] = cells[name].strip()
    return values


def _probes(field: str, cell: str) -> list[Sequence[str]]:
    probes = [_parts(probe, _ARROW) for probe in cell.split(_BETWEEN)]
    for index, probe in enumerate(probes):
        if len(probe) != 2:
            raise FactFieldError(
                f"{field}[{index}]",
                f"expected one {_ARROW!r} between prompt and answer, got {len(probe) - 1}: "
                f"{_ARROW.join(probe)!r}; write texts that hold | or => as JSON Lines",
            )
    return list(probes)


def _parts(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator)]
