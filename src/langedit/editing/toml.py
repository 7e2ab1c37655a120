"""Write a flat table of settings as TOML (the standard library only reads it)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def to_toml(settings: Mapping[str, Any]) -> str:
    """A TOML document: scalars and lists first, then one table for each mapping.

    Args:
        settings: names of letters, digits, `_` and `-` to strings, numbers, booleans, lists of
            these, or mappings of these.

    Raises:
        TypeError: a value is of another type.
    """
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {toml_value(value)}" for key, value in plain.items()]
    for name, table in tables.items():
        if table:
            lines += [
                "",
                f"[{name}]",
                *(f"{toml_value(k)} = {toml_value(v)}" for k, v in table.items()),
            ]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it; a mapping as an inline table.

    Raises:
        TypeError: a value is of another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{toml_value(k)} = {toml_value(v)}' for k, v in value.items())} }}"
    raise TypeError(
        f"expected a string, number, boolean, list or mapping, got {type(value).__name__}"
    )
