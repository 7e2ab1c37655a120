"""Two processes edit as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs.edit_tiny import RUNS, everything
from processes import JOBS, torchrun

from langedit.editing.batching import micro_batches, share_micro_batches

WHOLE = [name for name in RUNS if name != "one group"]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output: Path = tmp_path_factory.mktemp("two") / "found.pt"
    ended = torchrun(JOBS / "edit_tiny.py", output)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = torch.load(output, weights_only=False)
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_bits_where_micro_batches_are_the_same(
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


def test_within_a_millionth_where_a_micro_batch_is_split(
    alone: dict[str, Any], two: dict[str, Any]
) -> None:
    mine, theirs = alone["runs"]["one group"], two["runs"]["one group"]
    for one, other in zip(mine["weights"], theirs["weights"], strict=True):
        for layer in one:
            difference = torch.linalg.norm(one[layer] - other[layer])
            assert difference <= 1e-6 * torch.linalg.norm(one[layer])
    assert mine["scores"] == theirs["scores"]


def test_moments_differ_by_the_order_of_a_float64_sum(
    alone: dict[str, Any], two: dict[str, Any]
) -> None:
    mine, theirs = alone["moments"], two["moments"]
    assert (mine.corpus, mine.identity) == (theirs.corpus, theirs.identity)
    for layer, own in mine.layers.items():
        other = theirs.layers[layer]
        assert own.counts == other.counts
        assert torch.equal(own.sample, other.sample)
        scale = own.moment.mean.abs().max()
        assert (own.moment.mean - other.moment.mean).abs().max() <= 1e-14 * scale


def test_groups_are_made_smaller_only_where_there_are_too_few() -> None:
    lengths, rows = [9, 7, 7, 3], [2, 2, 2, 2]
    whole = micro_batches(lengths, 40, rows=rows)
    assert len(whole) == 2
    for shares in (1, 2):
        assert share_micro_batches(lengths, 40, rows, shares) == whole
    assert len(share_micro_batches(lengths, 40, rows, 3)) >= 3
    assert sorted(share_micro_batches(lengths, 40, rows, 9)) == [[0], [1], [2], [3]]
    assert share_micro_batches([], 40, [], 2) == []
