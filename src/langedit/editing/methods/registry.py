"""Methods by name: those of this package, and those of plug-ins."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from langedit.errors import ConfigError

if TYPE_CHECKING:
    from langedit.editing.methods.base import Method

GROUP = "langedit.methods"
"""Entry point group in which a plug-in names its `Method` classes."""

BUILT_IN = tuple(
    EntryPoint(name=name, value=f"langedit.editing.methods.{value}", group=GROUP)
    for name, value in (
        ("langedit", "langedit:LangEdit"),
        ("alphaedit", "alphaedit:AlphaEdit"),
        ("memit", "memit:Memit"),
        ("memit-seq", "memit_seq:MemitSeq"),
        ("rome", "rome:Rome"),
        ("rect", "rect:Rect"),
        ("prune", "prune:Prune"),
        ("ft", "fine_tuning:FineTuning"),
        ("ft-l", "fine_tuning:ConstrainedFineTuning"),
    )
)


def method_names() -> tuple[str, ...]:
    """Names of all methods, ours first. Plug-ins are looked up at each call, not loaded."""
    return tuple(point.name for point in _points())


def find_method(name: str) -> type[Method]:
    """The class of a method, imported now.

    Raises:
        ConfigError: no method has this name, or several have.
    """
    found = [point for point in _points() if point.name == name]
    if len(found) != 1:
        given = " and ".join(point.value for point in found) or "none"
        raise ConfigError(
            f"method {name!r}: expected one class, got {given}; the methods are "
            f"{', '.join(method_names())}"
        )
    method: type[Method] = found[0].load()
    return method


def _points() -> tuple[EntryPoint, ...]:
    return (*BUILT_IN, *entry_points(group=GROUP))
