"""Where a model's parts go when it is loaded, as a device map or a file that holds one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langedit.errors import ConfigError

Device = str | int
DeviceMap = str | Mapping[str, Device]
"""A device (`cuda:1`), a strategy (`auto`), module names to devices, or the name of a file."""

_HOW = (
    'give a device ("cuda"), a strategy ("auto"), or a .json file with an object of module names '
    'to devices, or with the keys device_map, max_memory ({"0": "20GiB", "cpu": "60GiB"}) and '
    "offload_folder"
)


@dataclass(frozen=True)
class Placement:
    """Arguments of transformers that say where parts of a model go.

    Attributes:
        device_map: as transformers takes it; `None` is the CPU.
        max_memory: device -> memory that its parts of the model may take, for strategies.
        offload_folder: for weights on disk that the checkpoint has in another form only.
    """

    device_map: DeviceMap | None = None
    max_memory: Mapping[Device, str | int] | None = None
    offload_folder: str | None = None

    @classmethod
    def of(cls, device_map: DeviceMap | None) -> Placement:
        """Read a device map; text that ends in `.json` names a file.

        Raises:
            ConfigError: a file cannot be read or holds something else, or accelerate is missing.
        """
        if device_map is None:
            return cls()
        if importlib.util.find_spec("accelerate") is None:
            raise ConfigError("device_map needs the package accelerate: pip install accelerate")
        if isinstance(device_map, str) and device_map.endswith(".json"):
            return cls._from_file(Path(device_map))
        return cls(device_map)

    @classmethod
    def _from_file(cls, path: Path) -> Placement:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as a device map: {error}; {_HOW}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: expected an object, got {type(found).__name__}; {_HOW}")
        if "device_map" not in found:
            return cls(_device_map(path, found))
        unknown = sorted(found.keys() - {"device_map", "max_memory", "offload_folder"})
        memory = found.get("max_memory")
        folder = found.get("offload_folder")
        if unknown or not isinstance(memory, dict | None) or not isinstance(folder, str | None):
            raise ConfigError(f"{path}: {', '.join(unknown) or 'a value'} is not known; {_HOW}")
        named = found["device_map"]
        return cls(
            device_map=named if isinstance(named, str) else _device_map(path, named),
            max_memory=memory and {_device(name): limit for name, limit in memory.items()},
            offload_folder=folder,
        )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`: those that are set."""
        given = {
            "max_memory": self.max_memory and dict(self.max_memory),
            "offload_folder": self.offload_folder,
        }
        named = self.device_map
        device_map = dict(named) if isinstance(named, Mapping) else named
        return {"device_map": device_map} | {k: v for k, v in given.items() if v is not None}


def _device_map(path: Path, found: object) -> dict[str, Device]:
    """Module names to devices, as read from a file."""
    if not isinstance(found, dict) or not all(isinstance(v, str | int) for v in found.values()):
        raise ConfigError(f"{path}: expected module names to devices, got {found!r}; {_HOW}")
    return {name: _device(value) for name, value in found.items()}


def _device(name: Device) -> Device:
    """A device; JSON has no numbers as names, so that `"0"` is the first card too."""
    return int(name) if isinstance(name, str) and name.isdigit() else name
