"""Say what names there are when one is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from langedit.errors import ConfigError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """A message: what was expected, what came, and the nearest known name if one is near."""
    names = tuple(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{kind}: expected one of {', '.join(names) or '(none)'}, got {name!r}{hint}"


def require_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise a `ConfigError` if a name is not known."""
    names = tuple(known)
    if name not in names:
        raise ConfigError(unknown_name(kind, name, names))


def one_of(kind: str, name: object, known: Any) -> object:
    """A name that a validator is given, if it is one of those known.

    Raises:
        ValueError: it is not; the nearest ones are named.
    """
    if name not in known:
        raise ValueError(unknown_name(kind, str(name), known))
    return name
