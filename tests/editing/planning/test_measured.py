"""Planned peaks against the memory of a real process and of a GPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measured_memory import QUANTISED, SHAPES
from quantised import SCHEMES

from langedit.editing.planning import MemoryPlan, plan_memory, shaped_model

TESTS = Path(__file__).parents[2]

# The C library gives memory back as soon as it is freed, so that it can be seen.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def measured(name: str, device: str) -> dict[str, int]:
    """Stage -> peak in bytes, of a process of its own."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    result = subprocess.run(
        [sys.executable, str(TESTS / "measured_memory.py"), name, device],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ALLOCATOR, "PYTHONPATH": path},
    )
    found: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return found


def compare(plan: MemoryPlan, found: dict[str, int]) -> None:
    """The peak of the whole run within a fifth, that of each stage within about a third."""
    planned = {stage.name: stage.bytes(shared=plan.cpu) for stage in plan.stages}
    assert found.keys() - planned.keys() <= {"advance", "hash", "report", "whole"}
    rows = [f"{stage}: planned {planned[stage]:,}, measured {found[stage]:,}" for stage in planned]
    print("\n".join(rows))
    assert plan.peak == pytest.approx(found["whole"], rel=0.2), rows
    for stage, size in planned.items():
        assert size == pytest.approx(found[stage], rel=0.35), rows


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", SHAPES)
def test_the_planned_peak_is_within_a_fifth_of_the_measured_one(name):
    shape, config, work = SHAPES[name]
    plan = plan_memory(shaped_model(shape, torch.float32), config, work, cpu=True)
    compare(plan, measured(name, "cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", QUANTISED)
def test_the_planned_peak_of_a_quantised_model_is_as_near(name):
    if not SCHEMES[name].installed:
        pytest.skip(f"{SCHEMES[name].library} is not installed")
    shape, config, work = QUANTISED[name]
    shape = copy.deepcopy(shape)
    shape.quantization_config = SCHEMES[name].make().to_dict()
    plan = plan_memory(shaped_model(shape, torch.float32), config, work, cpu=True)
    assert plan.quantised
    compare(plan, measured(name, "cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", SHAPES)
def test_the_planned_peak_is_within_a_fifth_of_what_a_gpu_allocates(name):
    shape, config, work = SHAPES[name]
    plan = plan_memory(shaped_model(shape, torch.float32), config, work, cpu=False)
    compare(plan, measured(name, "cuda"))
