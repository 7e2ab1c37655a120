"""What every test needs: no network, one thread, and data where it is.

The tensors of the tests are tiny: a second thread gains nothing, and waiting for it makes them
several times slower where other processes use the processor too.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")
torch.set_num_threads(1)


LONGEST = (
    "test_readme.py",
    "demo/test_run.py",
    "cli/test_memory_plan.py",
    "demo/test_training.py",
    "cli/test_workspace_processes.py",
    "editing/test_processes.py",
)
"""Files of tests that take a minute or so: whoever got one last would let the others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; all else stays in its order."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def _folder_named_by(variable: str) -> Path:
    """The folder that an environment variable names; a wrong one is an error, none is a skip."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}: expected a folder, got {value!r}")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Public editing data sets and texts, outside the repository."""
    return _folder_named_by("LANGEDIT_DATA")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Recorded runs of the original code, outside the repository."""
    return _folder_named_by("LANGEDIT_GOLDEN")
