"""What is wrong with a comparison, in words: pydantic finds it, people have to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from langedit.compare.nearest import unknown_name

Place = tuple[int | str, ...]
"""Names of the tables down to a value."""

_IN_WORDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "tuple_type": ("a list", "put it in [ ]"),
        "string_type": ("text", "put it in quotes"),
        "int_type": ("a whole number", "write one"),
        "int_parsing": ("a whole number", "write one"),
        "int_from_float": ("a whole number", "write one"),
        "float_type": ("a number", "write one"),
        "float_parsing": ("a number", "write one"),
        "bool_type": ("true or false", "write one of them"),
        "bool_parsing": ("true or false", "write one of them"),
        "greater_than_equal": ("{ge} or more", "raise it"),
        "less_than_equal": ("{le} or less", "lower it"),
        "literal_error": ("one of {expected}", "choose one"),
        "dict_type": ("a table", "write names and values"),
        "mapping_type": ("a table", "write names and values"),
        "model_type": ("a table", "write names and values"),
        "too_short": ("at least {min_length}", "add some"),
    }
)
"""Kind of a fault of a value -> what was expected, and what to do."""


def explain(error: ValidationError, fields_at: Callable[[Place], Iterable[str]]) -> str:
    """One line for each fault: where, what was expected, what came, and what to do.

    Args:
        error: of pydantic.
        fields_at: names of the settings in the table at a place.
    """
    lines = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(unknown_name(place, str(item["loc"][-1]), fields_at(item["loc"][:-1])))
        elif item["type"] == "missing":
            lines.append(f"{place}: expected a value, got none: add it")
        elif item["msg"].startswith("Value error, "):
            message = item["msg"].removeprefix("Value error, ")
            prefix = "" if not place or message.startswith(place) else f"{place}: "
            lines.append(f"{prefix}{message}")
        else:
            lines.append(f"{place}: {_in_words(item)}")
    return "\n".join(lines)


def _in_words(item: ErrorDetails) -> str:
    """What was expected of a value, what came, and what to do."""
    if item["type"] in _IN_WORDS:
        expected, advice = _IN_WORDS[item["type"]]
        expected = expected.format(**item.get("ctx", {}))
    else:
        expected, advice = item["msg"].removeprefix("Input should be "), "change it"
    return f"expected {expected}, got {item['input']!r}: {advice}"
