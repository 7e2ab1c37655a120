"""Methods by name: those of this package, and those of plug-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langedit.errors import ConfigError
from langedit.method_points import method_names, method_points

if TYPE_CHECKING:
    from langedit.editing.methods.base import Method


def settings_read(name: str) -> frozenset[str] | None:
    """Names of the settings that a method reads; `None` if it does not say.

    The class says so in an attribute `reads` of its own: what a plug-in inherits from a method of
    ours does not count, since it may read more.

    Raises:
        ConfigError: no method has this name, or several have.
    """
    reads: frozenset[str] | None = vars(find_method(name)).get("reads")
    return reads


def find_method(name: str) -> type[Method]:
    """The class of a method, imported now.

    Raises:
        ConfigError: no method has this name, or several have.
    """
    found = [point for point in method_points() if point.name == name]
    if len(found) != 1:
        given = " and ".join(point.value for point in found) or "none"
        raise ConfigError(
            f"method {name!r}: expected one class, got {given}; the methods are "
            f"{', '.join(method_names())}"
        )
    method: type[Method] = found[0].load()
    return method
