"""Plans of known shapes, of every family, and of options that make a run fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edits import settings
from tiny import FAMILIES, tiny_model

from langedit.editing import EditConfig
from langedit.editing.planning import (
    Choice,
    PassCost,
    PassCosts,
    Planner,
    Rates,
    Workload,
    device_map,
    dtype_of,
    plan_memory,
    read_shape,
    shape_names,
    shaped_model,
)
from langedit.editing.planning.quantisation import is_stand_in, value_count
from langedit.editing.planning.sizes import most_directions, most_remembered
from langedit.errors import ConfigError, ModelError
from langedit.linalg import NullSpaceProjector, RecursiveRidge

PARAMETERS = {
    "gpt-j-6b": 6_050_882_784,
    "llama3-70b": 70_553_706_496,
    "llama3-70b-nf4": 70_553_706_496,
    "llama3-8b": 8_030_261_248,
    "llama3-8b-nf4": 8_030_261_248,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-32b": 32_762_123_264,
}
"""As published with the checkpoints."""

WORK = Workload(edits=40, batch_size=10, stats_tokens=64)


def test_the_shipped_shapes_are_those_with_known_sizes():
    assert shape_names() == tuple(sorted(PARAMETERS))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_without_weights(name):
    shape = read_shape(name)
    model = shaped_model(shape, dtype_of("auto", shape))
    assert value_count(model.model) == PARAMETERS[name]
    assert all(p.is_meta for p in model.model.parameters())
    packed = is_stand_in(model.model)
    assert packed == name.endswith("-nf4")
    assert packed or all(p.itemsize == 2 for p in model.model.parameters())
    assert dtype_of("float32", shape) == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_planned(family):
    real = tiny_model(family)
    plan = plan_memory(shaped_model(real.config, torch.float32), settings(), WORK, cpu=True)
    stored = sum(p.numel() * 4 for p in real.parameters())
    assert plan.stored == stored
    assert plan.parameters * 4 == stored
    assert [stage.name for stage in plan.stages] == ["stats", "open", "targets", "solve", "advance"]
    assert all(stage.bytes(shared=True) > stored for stage in plan.stages)
    assert all(stage.matmul + stage.double + stage.eigen > 0 for stage in plan.stages)
    assert plan.peak == plan.peak_stage.bytes(shared=True)


def tiny_shape():
    return tiny_model("llama").config


def planned(**changes):
    choice = replace(Choice(dtype=torch.float32, config=settings(), work=WORK), **changes)
    return Planner(tiny_shape(), cpu=False).plan(choice)


def stage(plan, name):
    return next(stage for stage in plan.stages if stage.name == name)


def test_more_edits_take_their_directions_keys_and_updates():
    works = WORK, replace(WORK, edits=45)
    few, many = (planned(work=work) for work in works)
    grown = stage(many, "targets").bytes(shared=False) - stage(few, "targets").bytes(shared=False)
    rank = 14  # of 48 directions, 70 % of which are open, all are taken after 34 edits
    # one with room for all directions that there are
    assert stage(few, "targets").device["bases of forbidden directions"] == 2 * 8 * 48 * 48
    assert rank + 40 > 48
    keys = [most_directions(0, work, None)[0] for work in works]
    # factors of five more updates, and their keys in the reports
    assert grown == 2 * 4 * 48 * (keys[1] - keys[0]) + 5 * 2 * 4 * (48 + 32 + 48)
    fixed = planned(config=settings(method="alphaedit"))
    assert stage(fixed, "targets").device["bases of forbidden directions"] == 2 * 8 * 48 * rank


@pytest.mark.parametrize(("rank", "size", "batches"), [(20, 10, 9), (200, 6, 12), (0, 40, 8)])
def test_bases_grow_as_planned(rank, size, batches):
    torch.manual_seed(0)
    width = 256
    start = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q[:, :rank].clone()
    states = [NullSpaceProjector(basis=start)]

    def held(*projectors):
        """Rows of the storages that these keep alive."""
        storages = (p.basis.untyped_storage() for p in projectors)
        return sum({s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}.values()) / 8 / width

    kept, growing = [], []
    for _ in range(batches):  # the start, the state before the last batch, the present one
        grown = states[-1].extend(torch.randn(size, width), 1e-6)
        kept.append(held(*states))
        growing.append(held(*states, grown))
        states = [*(own.sharing(grown) for own in (states[0], states[-1])), grown]
    work = Workload(edits=size * batches, batch_size=size)
    assert most_directions(rank, work, width) == (max(kept), max(growing))


@pytest.mark.parametrize(("size", "batches"), [(10, 4), (10, 30), (25, 12), (60, 7)])
def test_what_solves_know_of_past_keys_grows_as_planned(size, batches):
    """Also when it was made smaller: then the state before shares nothing with the one after."""
    width, generator = 96, torch.Generator().manual_seed(0)
    earlier, present = None, RecursiveRidge.begin(width, 1.0)

    def held(*known):
        storages = (own.soft.untyped_storage() for own in known if own is not None)
        return sum({s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}.values()) / 8 / width

    kept, growing = [], []
    for _ in range(batches):
        kept.append(held(earlier, present))
        after = present.after(torch.randn(size, width, dtype=torch.float64, generator=generator))
        growing.append(held(earlier, present, after))
        earlier, present = present.sharing(after), after
    work = Workload(edits=size * batches, batch_size=size)
    planned = most_remembered(work, width)
    assert planned[0] == max(kept)
    smaller = size * batches > 1.25 * width
    work_space = 3.5 * width + 2 * size if smaller else 0  # of making rows fewer
    assert max(growing) <= planned[1] <= max(growing) + work_space
    assert (planned[0] > 1.25 * width) == (batches > 4), "the control"


def test_smaller_passes_and_precision_and_offloading_take_less():
    full = planned()
    assert planned(config=settings(micro_batch_tokens=64)).peak < full.peak
    half = planned(dtype=torch.bfloat16)
    assert half.stored * 2 == full.stored
    assert half.peak < full.peak
    away = planned(offloaded=True)
    weights = [stage(plan, "solve").device["weights"] for plan in (away, full)]
    assert weights[0] < weights[1]
    waiting = stage(away, "solve").host["offloaded weights"]
    assert weights[0] + waiting == weights[1]


LLAMA_70B_LAYER = 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192)
"""Bytes of attention (queries and outputs, keys and values), of the MLP, and of two norms."""


@pytest.mark.parametrize(
    ("loss_layer", "held"), [(None, 71), (20, 12), (8, 0)], ids=["all", "to 20", "none"]
)
def test_gradients_hold_the_layers_above_the_edited_ones_on_the_card(loss_layer, held):
    nothing = PassCost(bytes=0, flops=0.0)
    costs = PassCosts(prepare=nothing, step=nothing, groups=1, walk=nothing, stats=nothing)
    config = EditConfig(layers=(4, 5, 6, 7, 8), null_share=0.5, loss_layer=loss_layer)
    model = shaped_model(read_shape("llama3-70b"), torch.bfloat16)
    work = Workload(edits=1)
    away = plan_memory(model, config, work, cpu=False, offloaded=True, costs=costs)
    resident = 2 * (2 * 128256 * 8192 + 8192) + 2 * LLAMA_70B_LAYER
    assert stage(away, "solve").device["weights"] == resident == 7_625_326_592
    assert stage(away, "targets").device["weights"] == resident + held * LLAMA_70B_LAYER
    assert stage(away, "targets").host["offloaded weights"] == away.stored - resident
    spread = plan_memory(model, config, work, cpu=False, cards=4, costs=costs)
    table = 2 * 128256 * 8192
    assert stage(spread, "targets").device["weights"] == 141_107_412_992 // 4 + table
    assert spread.embeddings == table
    with pytest.raises(ConfigError, match="got both"):
        plan_memory(model, config, work, cpu=False, offloaded=True, cards=2, costs=costs)


def test_device_maps_leave_room_for_what_editing_needs():
    planner = Planner(tiny_shape(), cpu=False)
    asked = Choice(dtype=torch.float32, config=settings(), work=WORK)
    away, spread = replace(asked, offloaded=True), replace(asked, cards=2)
    assert device_map(asked, planner.plan(asked), 10**9) is None
    plan = planner.plan(away)
    limit = plan.peak + 7 * 10**6
    found = device_map(away, plan, limit)
    room = (7 * 10**6 + plan.embeddings) // 10**6
    assert found["max_memory"] == {"0": f"{room}MB", "cpu": f"{-(-plan.stored // 10**6)}MB"}
    plan = planner.plan(spread)
    found = device_map(spread, plan, plan.beside_weights + 5 * 10**6)
    assert found == {"device_map": "auto", "max_memory": {"0": "5MB", "1": "5MB"}}


def test_memory_on_the_cpu_is_one():
    shape = tiny_shape()
    choice = Choice(dtype=torch.float32, config=settings(), work=WORK)
    together, apart = (Planner(shape, cpu=cpu).plan(choice) for cpu in (True, False))
    assert together.stages == apart.stages
    moments = 2 * 8 * 48 * 48
    assert stage(apart, "targets").host == {"second moments": moments}
    assert together.peak >= apart.peak


def test_methods_keep_what_they_need():
    memit = planned(config=settings(method="memit"))
    assert "bases of forbidden directions" not in stage(memit, "solve").device
    assert stage(memit, "solve").device["factored moments"] == 2 * 8 * 48 * 48
    assert stage(memit, "open").eigen == 0
    weighed = planned(config=settings(corpus_weight=1.0))
    null = round(0.7 * 48)
    assert stage(weighed, "solve").device["factored moments"] == 2 * 8 * 48 * null
    bases = [
        stage(plan, "solve").device["bases of forbidden directions"]
        for plan in (weighed, planned())
    ]
    assert bases[0] - bases[1] == 2 * 8 * null**2  # what is closed in the corpus's coordinates


def test_states_that_wait_in_main_memory_leave_the_device():
    config = settings(corpus_weight=1.0)
    here, apart = planned(config=config), planned(config=config.replace(states_on="cpu"))
    for name in ("targets", "solve", "advance"):
        own, other = stage(here, name), stage(apart, name)
        moved = sum(other.host.values()) - sum(own.host.values())
        assert moved > 0
        one = other.device.get("state of one layer", 0)
        assert (one > 0) == (name != "targets")
        assert own.bytes(shared=False) - other.bytes(shared=False) == moved - one
    assert apart.peak < here.peak
    memit = planned(config=settings(method="memit", states_on="cpu"))  # whose keys join the waiting
    assert "state of one layer" in stage(memit, "solve").device
    assert "state of one layer" not in stage(memit, "advance").device
    planner = Planner(tiny_shape(), cpu=True)  # where they are there anyway
    on_cpu = [
        planner.plan(
            Choice(dtype=torch.float32, config=config.replace(states_on=place), work=WORK)
        ).peak
        for place in ("device", "cpu")
    ]
    assert on_cpu[0] == on_cpu[1]


def test_what_is_not_known_is_refused():
    for projection in ("pooled", "released"):
        with pytest.raises(ConfigError, match=f"expected orthogonal, got {projection}"):
            planned(config=settings(projection=projection))


def test_advice_is_the_first_change_that_fits_and_fits():
    planner = Planner(tiny_shape(), cpu=False)
    asked = Choice(
        dtype=torch.float32,
        config=settings(micro_batch_tokens=8192),
        work=replace(WORK, edits=80, batch_size=100),
    )
    peak = planner.plan(asked).peak
    choice, plan = planner.advise(asked, int(peak * 0.9))
    assert choice.changes == ("micro_batch_tokens = 2048",)
    assert plan.peak <= 0.9 * peak
    assert planner.plan(choice) == plan
    least = min(planner.plan(choice).peak for choice in singles(planner, asked))
    heap, plan = planner.advise(asked, least - 1)
    assert len(heap.changes) > 1
    assert len({change.split()[0] for change in heap.changes}) == len(heap.changes)
    assert plan.peak < least
    options = planner._options(asked)
    without = [change for change in options if change(asked).changes[0] in heap.changes]
    for change in without:  # none is superfluous
        rest = [other for other in without if other is not change]
        assert planner._heaped(asked, rest)[1].peak >= least
    assert planner.plan(heap) == plan
    assert planner.advise(asked, 1000) is None


def singles(planner, asked):
    """What advice tries one by one."""
    return [change(asked) for change in planner._options(asked)]


def test_layers_out_of_range_and_unknown_models_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="expected indices from 0 to 2"):
        planned(config=EditConfig(layers=(7,), null_share=0.5))
    with pytest.raises(ModelError, match=r"one of the shapes gpt-j-6b, .*no-such"):
        read_shape(str(tmp_path / "no-such"))


def test_a_folder_with_a_configuration_alone_is_enough(tmp_path):
    tiny_model("gpt2").config.save_pretrained(tmp_path)
    model = shaped_model(read_shape(str(tmp_path)), torch.float32)
    assert model.structure.d_in == 48


def test_times_are_arithmetic_over_rates():
    plan = planned()
    rates = Rates(matmul=2.0, double=4.0, eigen=8.0)
    solve = stage(plan, "solve")
    assert rates.seconds(solve) == solve.matmul / 2 + solve.double / 4
    assert stage(plan, "open").eigen == 9 * 2 * 48**3
