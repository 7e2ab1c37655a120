"""Settings of an edit from a file, from a shipped file, or from the moments alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langedit.cli.options import layers_text
from langedit.console import note
from langedit.editing import EditConfig
from langedit.editing.moment_files import find_layers
from langedit.editing.shipped import shipped_names, shipped_settings
from langedit.errors import ConfigError
from langedit.workspace.guards import GuardSettings, read_guard_texts

_NULL_SHARE = 0.5
"""Share of key directions left to edits where no settings say otherwise: needs no scale."""


GUARDS = "guards"
"""Table of a settings file that only workspaces read."""


def read_settings(
    source: str | None,
    moments: Path | None,
    method: str | None,
    seed: int | None,
    *,
    guarded: bool = False,
) -> EditConfig:
    """Read the settings, then put method and seed in their place if given.

    Args:
        source: A `.toml` file, hyperparameters in a `.json` file, or the name of a shipped file.
            None takes the layers of the moments, half of the directions as null, and the defaults.
        moments: Folder of second moments.
        method: Instead of the method in the settings.
        seed: Instead of the seed in the settings.
        guarded: Whether the file may hold guard rails, which `read_guards` reads.

    Raises:
        ConfigError: There is no such file, or a setting is wrong.
    """
    given = {"method": method, "seed": seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if source is None:
        return _from_moments(moments, changes)
    path = Path(source)
    if path.suffix == ".json":
        return EditConfig.from_hparams(path, **changes)
    if path.is_file() or path.suffix == ".toml":
        return EditConfig.from_toml(path, apart=(GUARDS,) if guarded else (), **changes)
    try:
        return shipped_settings(source, **changes)
    except ConfigError as error:
        raise ConfigError(f"--config: {error}") from None


def read_guards(source: str | None) -> tuple[GuardSettings, list[str]]:
    """Read the table `[guards]` of a settings file, and the texts that it names.

    Raises:
        ConfigError: A limit is wrong, or a text cannot be read.
    """
    path = Path(source or "")
    if source is None or path.suffix != ".toml" or not path.is_file():
        return GuardSettings(), []
    table = tomllib.loads(path.read_text(encoding="utf-8")).get(GUARDS, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: guards: expected a table, got {table!r}")
    try:
        guards = GuardSettings.of(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return guards, read_guard_texts(guards.texts, path.parent)


def _from_moments(moments: Path | None, changes: dict[str, Any]) -> EditConfig:
    if moments is None:
        raise ConfigError(
            "expected --config or --moments, which say what layers are edited, got neither; the "
            f"shipped settings are {', '.join(shipped_names())}"
        )
    layers = tuple(find_layers(moments))
    config = EditConfig(layers=layers, null_share=_NULL_SHARE, **changes)
    note(
        f"no --config: editing layers {layers_text(layers)}, those of the moments, with "
        f"null_share = {_NULL_SHARE} and defaults; see docs/config.md"
    )
    return config
