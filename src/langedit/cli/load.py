"""The model that a command names."""

from __future__ import annotations

from collections.abc import Mapping

from langedit.demo.bundled import bundled_folder
from langedit.models import EditableModel, load_model

BUNDLED = "bundled"
"""Stands for the checkpoint that comes with the package."""


def load_named(
    source: str,
    *,
    revision: str | None,
    dtype: str,
    device_map: str | None,
    structure: Mapping[str, str] | None = None,
) -> EditableModel:
    """Load the model of the options `--model`, `--revision`, `--dtype` and `--device-map`.

    Args:
        source: Folder, hub id, or `bundled`.
        revision: Of a hub model.
        dtype: Precision to load the model in.
        device_map: Where the model goes.
        structure: Names of modules that are not found by themselves.

    Raises:
        LangEditError: As `load_model`.
    """
    return load_model(
        named_source(source),
        revision=revision,
        dtype=dtype,
        device_map=device_map,
        structure_overrides=structure or None,
    )


def named_source(source: str) -> str:
    """Folder or hub id of a model that a user names: the bundled one has a name of its own."""
    return str(bundled_folder()) if source == BUNDLED else source
