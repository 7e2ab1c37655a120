"""Two processes edit as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs.edit_tiny import GOAL, RUNS, everything
from processes import JOBS, side_by_side


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output: Path = tmp_path_factory.mktemp("two") / "found.pt"
    for ended in side_by_side(JOBS / "edit_tiny.py", output):
        assert ended.code == 0, ended.err
    found: dict[str, Any] = torch.load(output, weights_only=False)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_given_the_same_moments(
    alone: dict[str, Any], two: dict[str, Any], name: str
) -> None:
    mine, theirs = alone["runs"][name], two["runs"][name]
    for one, other in zip(mine["weights"], theirs["weights"], strict=True):
        assert all(torch.equal(one[layer], other[layer]) for layer in one)
    assert mine["scores"] == theirs["scores"]
    assert mine["prefixes"] == theirs["prefixes"]
    assert mine["hash"] == theirs["hash"]
    figures = [
        {k: v for k, v in run["figures"].items() if k != "seconds"} for run in (mine, theirs)
    ]
    assert figures[0] == figures[1]


def test_moments_in_a_folder_are_read_by_the_first_process_alone(
    alone: dict[str, Any], two: dict[str, Any]
) -> None:
    mine, theirs = alone["from folder"], two["from folder"]
    assert all(torch.equal(mine[layer], theirs[layer]) for layer in mine)


@pytest.mark.parametrize("way", ["moments", "until"])
def test_moments_differ_by_the_order_of_a_float64_sum(
    alone: dict[str, Any], two: dict[str, Any], way: str
) -> None:
    mine, theirs = alone[way], two[way]
    assert (mine.corpus, mine.identity) == (theirs.corpus, theirs.identity)
    for layer, own in mine.layers.items():
        other = theirs.layers[layer]
        assert own.counts == other.counts
        assert torch.equal(own.sample, other.sample)
        scale = own.moment.mean.abs().max()
        assert (own.moment.mean - other.moment.mean).abs().max() <= 1e-14 * scale


def test_both_stop_at_the_same_look(alone: dict[str, Any], two: dict[str, Any]) -> None:
    for found in (alone["until"], two["until"]):
        for layer in found.layers.values():
            assert layer.angle.degrees < GOAL.degrees
            assert layer.angle.tokens == layer.moment.count < 4000
    for layer, own in alone["until"].layers.items():
        other = two["until"].layers[layer]
        assert own.angle.degrees == pytest.approx(other.angle.degrees, rel=1e-6)
