"""Comparisons from TOML files, and the settings that each cell of one gets."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from langedit.compare.config import OWN, CompareConfig
from langedit.compare.nearest import require_name
from langedit.editing import EditConfig, method_names
from langedit.editing.methods import settings_read
from langedit.errors import ConfigError

_ALTERNATIVES = (("null_threshold", "null_share"), ("ridge", "relative_ridge"))
"""Settings of which one stands for the other: the one given last counts."""


def shipped_comparisons() -> tuple[str, ...]:
    """Names of the comparisons that come with the package."""
    return _names_in(shipped_folder())


def read_comparison(source: str | Path, **changes: Any) -> CompareConfig:
    """Read a comparison, with the settings chosen by tuning if it names such a file.

    Args:
        source: a `.toml` file, or the name of a shipped comparison.
        **changes: values to use instead of those in the file.

    Raises:
        ConfigError: there is no such file, it is no TOML, or something in it is wrong.
    """
    path = Path(source)
    if not (path.suffix == ".toml" or path.is_file()):
        require_name(
            "comparison: a .toml file, or a shipped one", str(source), shipped_comparisons()
        )
        path = shipped_folder() / f"{source}.toml"
    values = {**read_toml(path), **changes}
    try:
        config = CompareConfig(**{"name": path.stem, **values, "folder": path.parent})
        return config if config.chosen is None else _with_chosen(config, values, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def edit_config(config: CompareConfig, label: str, model: str) -> EditConfig:
    """The settings of a method on a model.

    From weak to strong: common settings, the model's file, the model's settings, then each entry
    of the method's chain, with its settings for this model.

    Raises:
        ConfigError: a setting is unknown or wrong, or a table of its own gives the method one that
            it does not read; names the method and the model.
    """
    own = config.models[model]
    settings = dict(config.common)
    if own.settings_file is not None:
        settings = overlay(settings, _settings_file(config, own.settings_file))
    settings = overlay(settings, own.settings)
    for name in config.chain(label):
        entry = config.entry(name)
        _require_read(config, name, model)
        settings = overlay(settings, entry.settings)
        settings = overlay(settings, entry.on.get(model, {}))
    try:
        return EditConfig(**{**settings, "method": config.method_of(label)})
    except ConfigError as error:
        raise ConfigError(f"method {label} on model {model}: {error}") from None


def prefix_language(config: CompareConfig, label: str) -> str:
    """`own`, or the language of all context prefixes of a method."""
    named = [config.entry(name).prefix_language for name in config.chain(label)]
    return next((language for language in reversed(named) if language is not None), OWN)


def overlay(settings: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings on top of others; one of two alternatives takes the other's place."""
    dropped = {
        other
        for pair in _ALTERNATIVES
        for name, other in (pair, pair[::-1])
        if name in new and other not in new
    }
    return {**{name: value for name, value in settings.items() if name not in dropped}, **new}


def located(config: CompareConfig, text: str) -> str:
    """A path as the file means it: `$NAME` filled in, relative to the file's folder.

    Raises:
        ConfigError: an environment variable is not set.
    """
    full = os.path.expandvars(os.path.expanduser(text))
    if "$" in full:
        raise ConfigError(
            f"{text}: expected the environment variable in it to be set, it is not: set it to the "
            "folder of the data"
        )
    return str(config.folder / full)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable TOML file, got: {error}") from None


def _require_read(config: CompareConfig, label: str, model: str) -> None:
    """Refuse settings in an entry's own tables that its method does not read.

    What an entry takes over from its `base`, which may be of another method, is no concern here;
    nor are the common settings.
    """
    entry, method = config.entry(label), config.method_of(label)
    reads = settings_read(method)
    given = {**entry.settings, **entry.on.get(model, {})}
    known = (name for name in given if name in EditConfig.model_fields)
    idle = [] if reads is None else [name for name in known if name not in reads]
    if idle:
        raise ConfigError(
            f"method {label} on model {model}: expected settings that {method} reads, got "
            f"{', '.join(idle)}; it reads {', '.join(sorted(reads or ()))}: remove the others, or "
            "give them to all methods in [common]"
        )


def _with_chosen(config: CompareConfig, values: Mapping[str, Any], folder: Path) -> CompareConfig:
    """Put the settings of a file written by `langedit tune` in place of those given.

    It may have settings of more methods: a comparison of some of those that were tuned.
    """
    path = folder / str(config.chosen)
    tables = read_toml(path).get("methods", {})
    changed = {kind: dict(values.get(kind, {})) for kind in ("methods", "ablations")}
    known = [*config.all_methods(), *config.ablations]
    for label, new in tables.items():
        if label in method_names() and label not in known:
            continue
        require_name(f"{path}: methods", label, known)
        kind = "ablations" if label in config.ablations else "methods"
        changed[kind][label] = _merged(changed[kind].get(label, {}), new)
    return CompareConfig(**{"name": config.name, **values, **changed, "folder": folder})


def _merged(entry: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A method's table with another on top, model by model."""
    on = dict(entry.get("on", {}))
    on |= {model: overlay(on.get(model, {}), own) for model, own in new.get("on", {}).items()}
    return {**overlay(entry, new), **({"on": on} if on else {})}


def _settings_file(config: CompareConfig, name: str) -> dict[str, Any]:
    if not name.endswith(".toml"):
        folder = Path(str(files("langedit"))) / "configs"
        require_name("settings_file: a .toml file, or shipped settings", name, _names_in(folder))
        return read_toml(folder / f"{name}.toml")
    return read_toml(Path(located(config, name)))


def _names_in(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def shipped_folder() -> Path:
    """Folder of the comparisons that come with the package."""
    return Path(str(files("langedit.compare"))) / "configs"
