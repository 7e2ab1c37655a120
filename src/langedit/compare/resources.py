"""What a run cost, and on what it ran."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from langedit.profiler import Profiler

_PACKAGES = ("langedit", "torch", "transformers", "tokenizers", "pydantic", "babel")


class Stages:
    """Seconds and peak memory by stage; a stage may come several times.

    Memory is the largest resident set of the process during the stage where Linux lets us reset the
    counter, elsewhere the largest since the process began; and the most memory allocated by torch
    on each GPU.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, dict[str, int]] = {}
        self._begun = 0.0
        self._seen: dict[str, int] = {}

    def share_with(self, profiler: Profiler) -> None:
        """Keep the peaks of stages in which a profiler resets the counters for its own."""
        profiler.before_reset = self._note_peaks

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the body to a stage; stages do not nest."""
        self.begin()
        try:
            yield
        finally:
            self.end(name)

    def begin(self) -> None:
        """Start the clock, and set the peaks to what is used now."""
        _reset_peaks()
        self._seen = {}
        self._begun = perf_counter()

    def end(self, name: str) -> None:
        """Count everything since `begin` to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - self._begun
        self._note_peaks()
        most = self.peak_bytes.setdefault(name, {})
        for place, used in self._seen.items():
            most[place] = max(most.get(place, 0), used)

    def _note_peaks(self) -> None:
        for place, used in _peaks().items():
            self._seen[place] = max(self._seen.get(place, 0), used)


def hardware() -> dict[str, Any]:
    """Machine, processor, memory and GPUs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": pages,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what its numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def code_digest() -> str:
    """SHA-256 of the package's own source files, which a version number alone does not tell."""
    root = Path(str(files("langedit")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _reset_peaks() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    for device in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(device)


def _peaks() -> dict[str, int]:
    found = {"process": _resident_peak()}
    for device in range(torch.cuda.device_count()):
        found[f"cuda:{device}"] = torch.cuda.max_memory_allocated(device)
    return found


def _resident_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
