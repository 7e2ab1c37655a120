"""Time, operations and memory of stages, against counts made by hand."""

from __future__ import annotations

import pytest
import torch

from langedit.compare.resources import Stages
from langedit.linalg import MomentAccumulator
from langedit.profiler import Profiler, StageCost, join_profiles, peak_of, timed
from langedit.reporting import profile_table


def test_products_and_decompositions_are_counted() -> None:
    profiler = Profiler()
    a, b = torch.randn(7, 5), torch.randn(5, 3)
    with profiler.stage("product"):
        a @ b
    assert profiler.costs["product"].flops == 2 * 7 * 5 * 3
    square = (a.T @ a).double() + torch.eye(5)
    for name, run, expected in (
        ("eigh", lambda: torch.linalg.eigh(square), 9 * 125),
        ("cholesky", lambda: torch.linalg.cholesky(square), 125 // 3),
        ("solve", lambda: torch.linalg.solve(square, b.double()), int(250 / 3 + 2 * 5 * 15)),
        ("r", lambda: torch.linalg.qr(a, mode="r"), int(2 * 7 * 25 - 250 / 3)),
        ("qr", lambda: torch.linalg.qr(a), int(2 * (2 * 7 * 25 - 250 / 3))),
        ("svd", lambda: torch.linalg.svd(a, full_matrices=False), 6 * 7 * 25 + 20 * 125),
        (
            "triangular",
            lambda: torch.linalg.solve_triangular(square, b.double(), upper=True),
            5 * 15,
        ),
        ("in place", lambda: torch.zeros(7, 3).addmm_(a, b), 2 * 7 * 5 * 3),
        (
            "in place, many",
            lambda: torch.zeros(2, 7, 3).baddbmm_(a.expand(2, 7, 5), b.expand(2, 5, 3)),
            2 * (2 * 7 * 5 * 3),
        ),
        ("vector", lambda: a.mv(b[:, 0]), 2 * 7 * 5),
        ("factored", lambda: torch.cholesky_solve(b.double(), square), 2 * 5 * 15),
    ):
        with profiler.stage(name):
            run()
        assert profiler.costs[name].flops == expected, name


def test_panels_of_second_moments_are_counted() -> None:
    profiler, rows = Profiler(), torch.randn(11, 600)
    accumulator = MomentAccumulator(600)
    with profiler.stage("moments"):
        accumulator.add(rows)
    panels = ((256, 256), (256, 512), (88, 600))  # rows of the panel, columns up to its diagonal
    assert profiler.costs["moments"].flops == sum(2 * 11 * own * upto for own, upto in panels)


def test_the_share_of_the_peak_says_of_which() -> None:
    profiler = Profiler()
    with profiler.stage("any"):
        pass
    heads = [
        " ".join(str(column.header).split()) for column in profile_table(profiler.to_dict()).columns
    ]
    assert "% of bf16 peak" in heads


@pytest.mark.parametrize(
    ("card", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_a_card_has_the_peak_of_its_own_name(card: str, rate: float | None) -> None:
    assert peak_of(card) == rate


def test_gradients_and_attention_are_counted() -> None:
    profiler = Profiler()
    x, w = torch.randn(4, 6, requires_grad=True), torch.randn(6, 5)
    with profiler.stage("forward and backward"):
        (x @ w).sum().backward()
    assert profiler.costs["forward and backward"].flops == 2 * (2 * 4 * 6 * 5)
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 9, 8)
    with profiler.stage("attention"):
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert profiler.costs["attention"].flops == 2 * (2 * 3) * (2 * 4 * 9 * 8)


def test_stages_add_up_and_are_counted_when_they_fail() -> None:
    profiler, a = Profiler(), torch.ones(3, 3)
    for _ in range(2):
        with profiler.stage("outer"), profiler.stage("inner"):
            a @ a
    with pytest.raises(ValueError, match="no"), profiler.stage("inner"):
        raise ValueError("no")
    assert profiler.costs["inner"].calls == 3
    assert profiler.costs["outer"].calls == 2
    assert profiler.costs["outer"].flops == profiler.costs["inner"].flops == 2 * 54
    assert profiler.costs["outer"].seconds >= 0
    figures = profiler.to_dict()["outer"]
    assert figures["share_of_peak"] is None  # no rate is known of a processor
    assert figures["calls"] == 2


def test_peak_memory_is_seen() -> None:
    profiler = Profiler()
    with profiler.stage("small"):
        pass
    with profiler.stage("large"):
        torch.ones(60_000_000).sum()
    small, large = profiler.costs["small"].peak_bytes, profiler.costs["large"].peak_bytes
    assert small is not None
    assert large is not None
    assert large - small > 100_000_000
    with profiler.stage("outer"), profiler.stage("inner"):
        torch.ones(60_000_000).sum()
    outer = profiler.costs["outer"].peak_bytes
    assert outer is not None
    assert outer >= (profiler.costs["inner"].peak_bytes or 0) > small


def test_costs_add() -> None:
    one = StageCost(seconds=1.0, flops=5, peak_bytes=None, calls=1)
    two = StageCost(seconds=2.0, flops=6, peak_bytes=7, calls=2)
    assert one.plus(two) == StageCost(seconds=3.0, flops=11, peak_bytes=7, calls=3)


def test_a_lap_has_what_was_measured_since_the_last() -> None:
    profiler, a = Profiler(), torch.ones(3, 3)
    for name in ("one", "two", "one"):
        with profiler.stage(name):
            a @ a
    assert {name: cost.calls for name, cost in profiler.lap().items()} == {"one": 2, "two": 1}
    assert profiler.lap() == {}
    with profiler.stage("one"):
        a @ a
    lap = profiler.lap()
    assert lap["one"].flops == 54
    assert profiler.to_dict(lap)["one"]["calls"] == 1
    assert profiler.costs["one"].calls == 3  # of all laps


def test_figures_of_several_runs_are_joined() -> None:
    half = {"seconds": 1.0, "flops": 5, "peak_bytes": None, "calls": 1, "share_of_peak": 0.5}
    third = {"seconds": 3.0, "flops": 6, "peak_bytes": 7, "calls": 2, "share_of_peak": 0.1}
    none = {**half, "share_of_peak": None, "peak_bytes": 3}
    joined = join_profiles([{"a": half}, {"a": third, "b": none}, {"b": none}])
    assert joined["a"] == {
        "seconds": 4.0,
        "flops": 11,
        "peak_bytes": 7,
        "calls": 3,
        "share_of_peak": pytest.approx(0.2),
    }
    assert joined["b"]["share_of_peak"] is None
    assert half["flops"] == 5


def test_who_watches_the_same_peaks_is_told_before_they_are_lost() -> None:
    profiler, stages = Profiler(), Stages()
    seen = {}
    for name, shared in (("lost", False), ("kept", True)):
        if shared:
            stages.share_with(profiler)
        with stages.stage(name):
            torch.ones(60_000_000).sum()
            with profiler.stage("inner"):
                pass
        seen[name] = stages.peak_bytes[name]["process"]
    assert seen["kept"] - seen["lost"] > 100_000_000


def test_time_is_kept_with_and_without_a_profiler() -> None:
    seconds: dict[str, float] = {}
    profiler = Profiler()
    with timed(seconds, "a", None):
        pass
    with timed(seconds, "a", profiler), timed(seconds, "b", profiler):
        pass
    assert set(seconds) == {"a", "b"}
    assert set(profiler.costs) == {"a", "b"}


def test_a_stage_waits_for_the_gpus_in_use_before_and_after(monkeypatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda number: 100 * (number != 1))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with timed({}, "stage", None):
        assert waited == [0, 2]
    assert waited == [0, 2, 0, 2]
