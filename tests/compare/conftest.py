"""The ground of a tiny comparison, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_helpers import write_ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    write_ground(folder)
    return folder
