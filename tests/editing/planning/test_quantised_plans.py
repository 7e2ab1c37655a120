"""Plans of quantised checkpoints, and what their stand-ins store against what libraries store."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from edits import settings
from quantised import SCHEMES
from tiny import FAMILIES, tiny_model
from transformers import AutoModelForCausalLM

from langedit.editing.planning import (
    Choice,
    Planner,
    Workload,
    device_map,
    pass_costs,
    plan_memory,
    read_shape,
    shaped_model,
)
from langedit.editing.planning.stand_ins import StandIn
from langedit.errors import ConfigError, ModelError
from langedit.models.quantised import quantised_modules, stored_tensors

WORK = Workload(edits=20, batch_size=10, stats_tokens=64)
D_IN, D_MODEL = 48, 32


def of_torchao(kind, **options):
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": options}}}


def granularity(kind, **options):
    return {"_type": kind, "_data": options}


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True}
ROWS = of_torchao("Int8WeightOnlyConfig", granularity=granularity("PerRow", dim=-1))
GROUPS = of_torchao(
    "IntxWeightOnlyConfig",
    weight_dtype={"_type": "torch.dtype", "_data": "int4"},
    granularity=granularity("PerGroup", group_size=16),
)
SETTINGS = {
    "nf4": NF4,
    "nf4 twice": {**NF4, "bnb_4bit_use_double_quant": True},
    "8-bit": EIGHT,
    "rows": ROWS,
    "one scale": of_torchao("Int8WeightOnlyConfig", granularity=granularity("PerTensor")),
    "8-bit groups": of_torchao(
        "Int8WeightOnlyConfig", granularity=granularity("PerGroup", group_size=16)
    ),
    "groups": GROUPS,
}


def shape_of(family, quantised):
    shape = copy.deepcopy(tiny_model(family).config)
    shape.quantization_config = quantised
    return shape


def planned(quantised, *, family="llama", work=WORK, **changes):
    model = shaped_model(shape_of(family, quantised), torch.float32)
    return plan_memory(model, settings(**changes), work, cpu=False)


def stage(plan, name):
    return next(stage for stage in plan.stages if stage.name == name)


def step_bytes(quantised, dtype=torch.float32):
    """What a step of the targets takes, of few tokens, so that logits are small."""
    model = shaped_model(shape_of("llama", quantised), dtype)
    work = Workload(edits=1, prompt_tokens=4, target_tokens=1, stats_tokens=64)
    return pass_costs(model, settings(layers=(0,), prefix_count=0, kl_weight=0), work).step.bytes


def stored_bytes(module):
    return sum(own.numel() * own.itemsize for own in module.parameters())


def stand_ins(model):
    return {name: own for name, own in model.named_modules() if isinstance(own, StandIn)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", SETTINGS)
def test_every_family_can_be_planned_quantised(family, scheme):
    plan, plain = (planned(own, family=family) for own in (SETTINGS[scheme], None))
    assert plan.parameters == plain.parameters
    of_torchao = "quant_type" in SETTINGS[scheme]
    untouched = family == "gpt2" if of_torchao else family.startswith("falcon")
    assert plan.quantised == (not untouched)
    assert (plan.stored == plain.stored) == untouched
    assert plan.stored <= plain.stored
    for name in ("stats", "targets", "solve"):
        assert stage(plan, name).matmul == pytest.approx(stage(plain, name).matmul)


@pytest.mark.parametrize("method", ["rect", "prune", "rome", "ft"])
def test_quantised_models_are_planned_with_every_kind_of_method(method):
    plan, plain = (planned(own, method=method, layers=(1,)) for own in (NF4, None))
    assert stage(plan, "solve").matmul == pytest.approx(stage(plain, "solve").matmul)
    assert plan.stored < plain.stored


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        ("nf4", D_IN * D_MODEL // 2 + 4 * D_IN * D_MODEL // 64 + 64),
        ("nf4 twice", D_IN * D_MODEL // 2 + D_IN * D_MODEL // 64 + 64 + 4 + 1024 + 4),
        ("8-bit", D_IN * D_MODEL + 4 * D_MODEL),
        ("rows", D_IN * D_MODEL + 5 * D_MODEL),
        ("one scale", D_IN * D_MODEL + 5),
        ("8-bit groups", D_IN * D_MODEL + 5 * D_MODEL * 3),
        ("groups", D_IN * D_MODEL + 5 * D_MODEL * 3),
    ],
)
def test_edited_projections_are_made_plain_for_edits(scheme, size):
    model = shaped_model(shape_of("llama", SETTINGS[scheme]), torch.float32)
    assert stored_bytes(model.projection(0)) == size
    plan = plan_memory(model, settings(), WORK, cpu=False)
    assert stage(plan, "stats").device["weights"] == plan.stored
    grown = 2 * (4 * D_IN * D_MODEL - size)
    for name in ("open", "targets", "solve"):
        assert stage(plan, name).device["weights"] == plan.stored + grown
    assert stored_bytes(model.projection(0)) == size  # the next plan begins with it again


def test_gradients_keep_what_torchao_unpacks_and_no_more_of_bitsandbytes():
    steps = {name: step_bytes(own) for name, own in {**SETTINGS, "plain": None}.items()}
    model = shaped_model(shape_of("llama", ROWS), torch.float32)
    names = stand_ins(model.model)
    above = sum(
        4 * own.in_features * own.out_features
        for name, own in names.items()
        if not name.startswith(model.layer_name(0))
    )
    one = max(4 * own.in_features * own.out_features for own in names.values())
    for name in ("rows", "groups"):
        assert above <= steps[name] - steps["plain"] < above + 3 * one
    assert 0 <= steps["nf4"] - steps["plain"] < 3 * one
    assert steps["8-bit"] > steps["plain"] + one  # inputs of every product


def test_products_are_in_the_compute_precision():
    half, full = (
        step_bytes({**NF4, "bnb_4bit_compute_dtype": dtype}, torch.bfloat16)
        for dtype in ("bfloat16", "float32")
    )
    assert half < full
    assert planned(NF4) == planned({**NF4, "bnb_4bit_compute_dtype": "torch.float32"})


def test_modules_that_are_skipped_stay_plain():
    model = shaped_model(shape_of("llama", NF4), torch.float32)
    names, layers = stand_ins(model.model), model.structure.layers
    assert "lm_head" not in names
    assert len(names) == 7 * model.structure.n_layers
    skipped = {**NF4, "llm_int8_skip_modules": ["q_proj", f"{layers}.1", "lm_head"]}
    fewer = stand_ins(shaped_model(shape_of("llama", skipped), torch.float32).model)
    assert names.keys() - fewer.keys() == {
        name for name in names if "q_proj" in name or name.startswith(f"{layers}.1.")
    }
    # torchao compares names of weights
    skipped = {**ROWS, "modules_to_not_convert": ["q_proj", f"{layers}.1", "lm_head"]}
    fewer = stand_ins(shaped_model(shape_of("llama", skipped), torch.float32).model)
    assert names.keys() - fewer.keys() == {n for n in names if n.startswith(f"{layers}.1.")}


@pytest.mark.parametrize(
    ("quantised", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq: what its library stores"),
        ({"quant_method": "awq"}, "quantised by awq"),
        ({"bits": 3}, "quantised by quantization_config"),
        ({**EIGHT, "llm_int8_has_fp16_weight": True}, "bitsandbytes: .* weights stay in 16 bits"),
        (of_torchao("Int4WeightOnlyConfig", group_size=32), "packed int4 have no gradients"),
        (of_torchao("Float8WeightOnlyConfig"), "what its Float8WeightOnlyConfig stores"),
        (
            of_torchao("Int8WeightOnlyConfig", granularity=granularity("PerBlock")),
            "has scales PerBlock",
        ),
        ({**ROWS, "include_input_output_embeddings": True}, "its embeddings are quantised"),
        ({"quant_method": "torchao", "quant_type": {"a": 1}}, "no configuration for all modules"),
    ],
)
def test_other_kinds_are_refused(tmp_path, quantised, said):
    shape_of("llama", quantised).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{said}.*without quantization_config") as error:
        read_shape(str(tmp_path))
    assert "bitsandbytes in 4 or 8 bits" in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_quantised_weights_are_spread_and_not_offloaded():
    planner = Planner(shape_of("llama", NF4), cpu=False)
    asked = Choice(dtype=torch.float32, config=settings(), work=WORK)
    with pytest.raises(ConfigError, match="got quantised ones"):
        planner.plan(replace(asked, offloaded=True))
    assert not any(change(asked).offloaded for change in planner._options(asked))
    spread = replace(asked, cards=2)
    plan = planner.plan(spread)
    assert plan.beside_weights < planner.plan(asked).peak
    # Of what is allowed transformers gives quantised weights nine tenths.
    found = device_map(spread, plan, plan.beside_weights + 9 * 10**6)
    assert found is not None
    assert found["max_memory"] == {"0": "10MB", "1": "10MB"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("scheme", [*SCHEMES, "double"])
def test_stand_ins_store_what_the_libraries_store(tmp_path, scheme, family, dtype):
    own = SCHEMES["bitsandbytes 4-bit" if scheme == "double" else scheme]
    if find_spec(own.library) is None:
        pytest.skip(f"{own.library} is not installed")
    made = own.make()
    if scheme == "double":
        made.bnb_4bit_use_double_quant = True
    tiny_model(family).to(dtype).save_pretrained(tmp_path / "plain")
    real = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=made, device_map="cpu", dtype=dtype
    )
    stored = {
        name: sum(
            value.numel() * value.itemsize
            for key, value in stored_tensors(name, module)
            if not key.endswith(("quant_state.bitsandbytes__nf4", "weight_format"))
        )
        for name, module in quantised_modules(real).items()
    }
    real.config.save_pretrained(tmp_path / "packed")
    shaped = shaped_model(read_shape(str(tmp_path / "packed")), dtype)
    offset = 4 if scheme == "double" else 0  # the library writes it into quant_state
    assert {name: stored_bytes(own) - offset for name, own in stand_ins(shaped.model).items()} == (
        stored
    )
