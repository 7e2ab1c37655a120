from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import JOBS, Ended, environment, side_by_side

from langedit.errors import ConfigError, FactError, ProcessError
from langedit.parallel import ALONE, Processes, join_processes


def test_one_process_does_everything_itself():
    with join_processes({}) as processes:
        assert processes is ALONE
    with join_processes({"WORLD_SIZE": "1"}) as processes:
        assert processes is ALONE
    assert ALONE.is_first
    assert ALONE.spread([3, 4], lambda own: [item + 1 for item in own]) == [4, 5]
    marker = object()
    assert ALONE.first(lambda: marker) is marker
    assert ALONE.only_first(lambda: marker) is marker
    assert ALONE.together(lambda: marker) is marker
    ALONE.agree("anything", marker)
    assert torch.equal(ALONE.sum(torch.ones(2)), torch.ones(2, dtype=torch.float64))
    assert ALONE.place("cuda") == "cuda"
    with pytest.raises(ZeroDivisionError):
        ALONE.together(lambda: 1 / 0)


def test_items_are_dealt_in_turn():
    everyone = [Processes(rank=rank, count=3) for rank in range(3)]
    taken = [[number for number in range(7) if one.takes(number)] for one in everyone]
    assert taken == [[0, 3, 6], [1, 4], [2, 5]]


def test_they_go_on_together_after_an_error_of_all():
    own, shared, lost = FactError("own"), FactError("shared"), ProcessError("lost")
    shared.everywhere = lost.everywhere = True
    together = Processes(count=2)
    assert [together.all_raise(error) for error in (own, shared, lost)] == [False, True, False]
    assert not together.all_raise(KeyboardInterrupt())
    assert ALONE.all_raise(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE to be a whole number, got 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK to be a whole number, got ''"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK to be a whole number, got '-1'"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LANGEDIT_PROCESS_TIMEOUT": "long"},
            "LANGEDIT_PROCESS_TIMEOUT to be",
        ),
    ],
)
def test_incomplete_variables_are_refused(variables, message):
    with pytest.raises(ConfigError, match=message), join_processes(variables):
        pass


def test_without_a_launcher_torch_is_not_even_imported():
    code = (
        "import sys\nfrom langedit.parallel import join_processes\n"
        "with join_processes() as processes:\n    assert processes.count == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, object]], list[Ended]]:
    """What each of three processes found, and how they ended."""
    output: Path = tmp_path_factory.mktemp("together") / "found.json"
    ended = side_by_side(JOBS / "together.py", output, count=3, LANGEDIT_PROCESS_TIMEOUT="5")
    assert output.is_file(), [one.err for one in ended]
    found: list[dict[str, object]] = json.loads(output.read_text(encoding="utf-8"))
    return found, ended


@pytest.fixture
def told(run: tuple[list[dict[str, object]], list[Ended]]) -> list[dict[str, object]]:
    return run[0]


def test_results_reach_everyone(told):
    assert [one["rank"] for one in told] == [0, 1, 2]
    for one in told:
        assert one["told"] == [0, [1.0, 5.0, 9.0], [0, 2], "torch.bfloat16"]
        assert one["spread"] == [[item, item % 3] for item in range(7)]
        assert one["few"] == [10]
    assert [one["only first"] for one in told] == ["here", None, None]
    assert [one["together"] for one in told] == [0, 1, 2]
    assert told[2]["place"] == ["cuda:2", "auto", "cuda:7", None]


def test_sums_are_added_in_the_order_of_ranks(told):
    """2**53 + 1 + 1 is 2**53 in this order, and 2**53 + 2 in the other."""
    assert [one["sum"] for one in told] == [[2.0**53]] * 3


def test_what_fails_in_one_is_raised_in_all(told):
    assert [one["error of one"] for one in told] == [
        ["FactError", "process 1: no fact", True],
        ["FactError", "no fact", True],
        ["FactError", "process 1: no fact", True],
    ]
    here, *_, there = (one["unexpected error"] for one in told)
    assert here == ["ProcessError", "process 2: ZeroDivisionError: by 0", True]
    assert there == ["ZeroDivisionError", "by 0", None]
    first = [one["error of the first"] for one in told]
    assert first[0] == ["FactError", "none", True]
    assert first[1] == first[2] == ["FactError", "process 0: none", True]
    assert all(one["still together"] for one in told)


def test_other_inputs_are_noticed(told):
    for one in told:
        assert one["same"] == ["nothing"]
        kind, message, everywhere = one["other"]
        assert (kind, everywhere) == ("ProcessError", True)
        assert message.startswith("expected the same thing in all 3 processes, but process 2 has")


def test_a_process_that_stands_still_is_noticed(run):
    """The dead are in tests/cli/test_processes.py: their connections break at once."""
    *others, still = run[1]
    for one in others:
        assert one.code == 3, one.err
        assert "fell silent" in one.out
        assert "LANGEDIT_PROCESS_TIMEOUT" in one.out
    assert still.code == -9
