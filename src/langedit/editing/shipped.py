"""Settings that come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from langedit.editing.config import EditConfig
from langedit.errors import ConfigError


def shipped_names() -> tuple[str, ...]:
    """Names of the settings that come with the package."""
    names = (entry.name for entry in (files("langedit") / "configs").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def shipped_settings(name: str, **changes: Any) -> EditConfig:
    """Read shipped settings.

    Args:
        name: one of `shipped_names`.
        **changes: settings to use instead of what the file says, such as `method`.

    Raises:
        ConfigError: there are none of this name, or a setting is wrong.
    """
    if name not in shipped_names():
        raise ConfigError(
            f"expected a .toml or .json file, or one of {', '.join(shipped_names())}, got {name!r}"
        )
    with as_file(files("langedit") / "configs" / f"{name}.toml") as path:
        return EditConfig.from_toml(path, **changes)
