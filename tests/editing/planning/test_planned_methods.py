"""What plans say of each method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edits import settings
from tiny import FAMILIES, tiny_model

from langedit.editing.planning import Choice, Planner, Stage, Workload, plan_memory, shaped_model
from langedit.editing.planning.stages import STAGES
from langedit.errors import ConfigError
from langedit.linalg import RecursiveRidge
from langedit.method_points import BUILT_IN

D_IN, D_MODEL = 48, 32
WEIGHT = 4 * D_IN * D_MODEL
WORK = Workload(edits=40, batch_size=10, stats_tokens=64)

NAMES = {
    "rome": ["stats", "open", "targets", "solve"],
    "rect": ["stats", "open", "targets", "solve", "advance", "report"],
    "ft": ["stats", "open", "solve", "report"],
    "ft-l": ["stats", "open", "solve", "report"],
}
COMMON = ["stats", "open", "targets", "solve", "advance"]


def planned(method, *, cpu=False, work=WORK, **changes):
    layers = (1,) if method == "rome" else (0, 1)
    config = settings(method=method, layers=layers, **changes)
    shape = tiny_model("llama").config
    return Planner(shape, cpu=cpu).plan(Choice(dtype=torch.float32, config=config, work=work))


def stage(plan, name) -> Stage:
    return next(stage for stage in plan.stages if stage.name == name)


def test_every_method_of_the_package_is_planned():
    assert set(STAGES) == {point.name for point in BUILT_IN}


@pytest.mark.parametrize("method", STAGES)
def test_a_plan_has_the_stages_of_its_method(method):
    plan = planned(method, cpu=True)
    assert [stage.name for stage in plan.stages] == NAMES.get(method, COMMON)
    assert all(stage.bytes(shared=True) > plan.stored for stage in plan.stages)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rome", "rect", "prune", "ft"])
def test_every_family_can_be_planned_with_every_kind_of_method(family, method):
    config = settings(method=method, layers=(1,))
    shape = shaped_model(tiny_model(family).config, torch.float32)
    plan = plan_memory(shape, config, replace(WORK, edits=10), cpu=False)
    assert stage(plan, "solve").matmul > 0


@pytest.mark.parametrize("method", ["rect", "ft"])
def test_dense_updates_wait_in_main_memory(method):
    few, many = (planned(method, work=replace(WORK, edits=edits)) for edits in (30, 40))
    for name in ("solve", "report"):
        grown = [
            sum(other.values()) - sum(own.values())
            for own, other in (
                (getattr(stage(few, name), place), getattr(stage(many, name), place))
                for place in ("device", "host")
            )
        ]
        # On the device keys of ten facts more; in main memory the two updates of their batch.
        assert grown[0] <= 2 * 2 * 4 * D_IN * 60
        assert 2 * WEIGHT <= grown[1] <= 3 * WEIGHT
    for name in ("advance", "report") if method == "rect" else ("report",):
        assert stage(many, name).host["dense updates"] == 4 * 2 * WEIGHT
    assert "dense updates" not in stage(planned("memit"), "solve").host


def test_updates_that_are_masked_are_there_once_on_a_cpu():
    apart, together = (stage(planned("rect", cpu=cpu), "solve") for cpu in (False, True))
    assert apart.host["dense updates"] == 4 * 2 * WEIGHT
    assert together.host["dense updates"] == 3 * 2 * WEIGHT
    assert apart.device["masked updates"] == 2 * WEIGHT
    assert apart.device["weights after the batch"] == 2 * 2 * WEIGHT


@pytest.mark.parametrize(("batches", "copies"), [(1, 0), (2, 1), (3, 2), (4, 2)])
def test_prune_keeps_weights_and_totals_without_restraint(batches, copies):
    plan = planned("prune", work=replace(WORK, edits=10 * batches))
    targets = stage(plan, "targets")
    assert targets.device["weights without restraint"] == copies * 2 * WEIGHT
    edits = 10 * (batches - 1) + 10 * max(0, batches - 2)
    assert targets.device["total changes"] == 2 * 4 * edits * (D_IN + D_MODEL)
    memit = planned("memit", work=replace(WORK, edits=10 * batches))
    assert stage(plan, "solve").eigen > stage(memit, "solve").eigen == 0


def test_rome_optimises_one_fact_at_a_time():
    one, ten = (planned("rome", work=replace(WORK, batch_size=size)) for size in (1, 10))
    activations = [stage(plan, "targets").device["activations"] for plan in (one, ten)]
    assert activations[0] == activations[1]
    assert activations[0] < stage(planned("memit"), "targets").device["activations"]
    arithmetic = [stage(plan, "targets").matmul for plan in (one, ten)]
    assert arithmetic[0] == pytest.approx(arithmetic[1])


def test_training_keeps_four_copies_and_activations():
    plan = planned("ft", prefix_count=0, ft_steps=3)
    solve = stage(plan, "solve")
    assert solve.device["weights in training, gradients, means"] == 4 * 2 * WEIGHT
    assert solve.device["activations"] > 0
    smaller = planned("ft", prefix_count=0, ft_steps=3, micro_batch_tokens=16)
    assert stage(smaller, "solve").device["activations"] < solve.device["activations"]
    longer = planned("ft", prefix_count=0, ft_steps=6)
    per_step = (stage(longer, "solve").matmul - solve.matmul) / (4 * 3)
    assert 0 < per_step < solve.matmul / (4 * 3)
    assert stage(plan, "open").eigen == 0
    assert "factored moments" not in solve.device


def test_weights_that_are_trained_are_not_offloaded():
    planner = Planner(tiny_model("llama").config, cpu=False)
    asked = Choice(
        dtype=torch.float32, config=settings(method="ft"), work=replace(WORK, batch_size=10)
    )
    with pytest.raises(
        ConfigError, match=r"method: expected one that can edit offloaded .* got ft"
    ):
        planner.plan(replace(asked, offloaded=True))
    places = {change(asked).offloaded for change in planner._options(asked)}
    assert places == {False}
    found = planner.advise(asked, planner.plan(replace(asked, cards=8)).peak)
    assert found is not None
    assert not found[0].offloaded


def test_methods_of_plug_ins_are_refused(tmp_path, monkeypatch):
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[langedit.methods]\nmine = langedit.editing.methods.memit:Memit\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"method: expected one of langedit, .*, got mine"):
        planned("mine")


@pytest.mark.parametrize(
    ("method", "changes", "width"),
    [
        ("memit-seq", {}, 48),
        ("alphaedit", {}, 48),
        ("alphaedit", {"corpus_weight": 1.0}, 34),
        ("alphaedit", {"solve_history": False}, 0),
        ("memit", {}, 0),
    ],
)
def test_what_solves_know_of_past_keys_is_kept(method, changes, width):
    """As much as an editor of this shape keeps, batch for batch."""
    work = replace(WORK, edits=30, batch_size=10)
    kept = stage(planned(method, work=work, **changes), "targets").device
    if not width:
        assert "solves of past keys" not in kept
        return
    known, held = RecursiveRidge.begin(width, 1.0), 0
    for _ in range(2):
        known = known.after(torch.randn(10, width, dtype=torch.float64))
        held = known.soft.untyped_storage().nbytes()
    layers = 2
    assert kept["solves of past keys"] == layers * held
