"""`kill -9` of real processes at random times: the finished runs have the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from workspaces import new_workspace

HERE = Path(__file__).parent


def test_killed_runs_end_with_the_weights_of_an_uninterrupted_one(tmp_path):
    folder = new_workspace(tmp_path)
    roots = [str(HERE.parent), *sys.path]
    result = subprocess.run(
        [sys.executable, HERE / "kills.py", folder, "10"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("10 kills"), result.stdout
