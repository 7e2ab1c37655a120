"""Planned peaks against the memory of a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measured_memory import SHAPES

from langedit.editing.planning import plan_memory, shaped_model

TESTS = Path(__file__).parents[2]

# The C library gives memory back as soon as it is freed, so that it can be seen.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", SHAPES)
def test_the_planned_peak_is_within_a_fifth_of_the_measured_one(name):
    shape, config, work = SHAPES[name]
    plan = plan_memory(shaped_model(shape, torch.float32), config, work, cpu=True)
    path = os.pathsep.join([str(TESTS), *sys.path])
    result = subprocess.run(
        [sys.executable, str(TESTS / "measured_memory.py"), name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ALLOCATOR, "PYTHONPATH": path},
    )
    measured = json.loads(result.stdout.splitlines()[-1])
    planned = {stage.name: stage.bytes(shared=True) for stage in plan.stages}
    most = max(planned[stage] for stage in measured if stage in planned)
    assert most == pytest.approx(max(measured.values()), rel=0.2)
    for stage in measured.keys() & planned.keys():
        assert planned[stage] == pytest.approx(measured[stage], rel=0.35), stage
