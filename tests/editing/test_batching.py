"""Groups that memory does not hold are divided, and what fitted is remembered."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scarce import ERRORS

from langedit.editing.batching import halve_on_oom, with_less_memory
from langedit.errors import LangEditError
from langedit.models.memory import MemoryLimits

Lengths = list[int]


def size(group: Lengths) -> int:
    return len(group) * max(group)


class Device:
    """Runs what its memory holds; counts what it does not."""

    def __init__(self, room: int, error=ERRORS[0]) -> None:
        self.room, self.error, self.failed = room, error, 0

    def run(self, group: Lengths) -> int:
        if size(group) > self.room:
            self.failed += 1
            raise self.error()
        return sum(group)

    def divided(self, group: Lengths, limits: MemoryLimits) -> list[tuple[Lengths, int]]:
        return halve_on_oom(group, self.run, limits=limits, kind="texts", size=size)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 500))
def test_all_items_are_run_once_in_order(lengths: Lengths, room: int) -> None:
    lengths.sort(reverse=True)
    limits, device = MemoryLimits(), Device(room)
    first = device.divided(lengths, limits)
    assert [item for group, _ in first for item in group] == lengths
    assert all(found == sum(group) and size(group) <= room for group, found in first)
    device.failed = 0
    again = device.divided(lengths, limits)
    assert device.failed == 0
    assert [item for group, _ in again for item in group] == lengths


@pytest.mark.parametrize("error", ERRORS)
def test_a_limit_is_found_by_few_failures_and_kept_for_its_kind(error) -> None:
    limits, device = MemoryLimits(), Device(130, error)
    for _ in range(10):  # groups that get no larger
        device.divided([10] * 100, limits)
    assert device.failed == 3  # of 1000, 500 and 250; 12 and 13 items fit
    assert limits.within("texts", 1000) == 130
    assert limits.within("answers", 1000) == 1000
    forgetting = Device(130)
    for _ in range(10):  # control: without it each group fails anew
        forgetting.divided([10] * 100, MemoryLimits())
    assert forgetting.failed == 10 * device.failed


def test_one_item_that_does_not_fit_is_an_error_and_lowers_no_limit() -> None:
    limits, device = MemoryLimits(), Device(130)
    with pytest.raises(LangEditError, match="one fact"):
        device.divided([200, 10, 10, 10], limits)
    assert limits.within("texts", 10**6) == 10**6


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        Device(1, lambda: RuntimeError("shape")).divided([2, 2], MemoryLimits())


def test_a_limit_of_tokens_is_halved_and_kept() -> None:
    limits, tried = MemoryLimits(), []

    def run(limit: int) -> int:
        tried.append(limit)
        if limit > 30:
            raise torch.OutOfMemoryError("out of memory")
        return limit

    def fitted(least: int = 1) -> int:
        return with_less_memory(
            run, 1000, most=200, least=least, limits=limits, kind="keys", what="the longest prompt"
        )

    with pytest.raises(LangEditError, match="the longest prompt"):
        fitted(least=60)
    assert limits.within("keys", 200) == 200  # nothing smaller was seen to fit
    tried.clear()
    assert fitted() == 25
    assert fitted() == 25
    assert tried == [1000, 100, 50, 25, 25]
