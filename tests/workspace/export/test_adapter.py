"""The adapter says in peft what the live model says; a smaller rank loses the least it can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exports import LAYOUTS, edited, logits, plain
from peft import PeftModel
from safetensors.torch import load_file

from langedit.errors import ConfigError, MomentsError, RecordError
from langedit.linalg import DenseUpdate, LowRankUpdate
from langedit.workspace.export import export_adapter, export_merged, split_languages
from langedit.workspace.export.adapter import exact_factors

# Of transformers, about a name that peft asks it for.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

BF16 = 2.0**-8
"""Half the distance of neighbouring bfloat16 values, relative to them: one rounding."""


@pytest.mark.parametrize("family", LAYOUTS)
def test_peft_says_what_the_live_model_says(tmp_path: Path, family: str) -> None:
    made = edited(tmp_path, family)
    outcome = export_adapter(made.record, tmp_path / "out")
    assert (outcome.rank, outcome.loss) == (6, None)
    model = PeftModel.from_pretrained(plain(made.base), tmp_path / "out").eval()
    assert torch.allclose(logits(model), made.logits, atol=1e-5, rtol=0)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), made.logits, atol=1e-2)
    merged = model.merge_and_unload()
    assert torch.allclose(logits(merged), made.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", LAYOUTS)
def test_merging_into_bfloat16_is_one_rounding_away(tmp_path: Path, family: str) -> None:
    made = edited(tmp_path, family, torch.bfloat16)
    export_adapter(made.record, tmp_path / "out")
    model = PeftModel.from_pretrained(plain(made.base), tmp_path / "out").merge_and_unload()
    for layer, where in made.record.layers.items():
        base = plain(made.base).get_parameter(where.weight_name).float()
        update = made.record.total(layer).dense()
        exact = base + (update.T if where.transposed else update)
        found = model.get_parameter(where.weight_name)
        assert found.dtype == torch.bfloat16
        assert bool(((found.float() - exact).abs() <= BF16 * exact.abs() * 1.001).all())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_configuration_names_modules_and_base_exactly(tmp_path: Path, family: str) -> None:
    made = edited(tmp_path, family)
    record = replace(made.record, base=replace(made.record.base, revision="main"))
    export_adapter(record, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 6
    names = [made.editor.model.projection_name(layer) for layer in (0, 1)]
    assert config["target_modules"] == names
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert (config["base_model_name_or_path"], config["revision"]) == (str(made.base), "main")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(tensors) == 4
    update = made.record.total(1)
    assert torch.equal(tensors[f"base_model.model.{names[1]}.lora_B.weight"], update.left)
    assert torch.equal(tensors[f"base_model.model.{names[1]}.lora_A.weight"], update.right)


def test_layers_of_different_ranks_are_filled_up_with_zeros(tmp_path: Path) -> None:
    """One layer's update has no factors, as those of methods that mask or train have none."""
    made = edited(tmp_path)
    full = DenseUpdate(matrix=made.record.batches[0].updates[0].dense())
    first = replace(made.record.batches[0], updates={**made.record.batches[0].updates, 0: full})
    record = replace(made.record, batches=(first, *made.record.batches[1:]))
    assert export_adapter(record, tmp_path / "out").rank == 32
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tuple(t.shape) for t in tensors.values()} == {(32, 48), (32, 32)}
    model = PeftModel.from_pretrained(plain(made.base), tmp_path / "out").eval()
    assert torch.allclose(logits(model), made.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_factors_with_too_many_rows_are_multiplied_out(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    update = LowRankUpdate(
        left=torch.randn(shape[0], 9, generator=generator),
        right=torch.randn(9, shape[1], generator=generator),
    )
    small = exact_factors(update)
    assert small.rank == 3
    assert torch.allclose(small.dense(), update.dense(), atol=1e-5)
    assert exact_factors(small) is small


def test_a_smaller_rank_is_scored_and_says_what_it_lost(tmp_path: Path) -> None:
    made = edited(tmp_path)
    outcome = export_adapter(made.record, tmp_path / "out", max_rank=2, moments=made.moments)
    assert outcome.rank == 2
    assert outcome.loss is not None
    assert outcome.loss.rank == 6
    assert all(0 < lost < 1 for lost in outcome.loss.layers.values())
    assert len(outcome.scores) == len(outcome.loss.exact) == 6
    model = PeftModel.from_pretrained(plain(made.base), tmp_path / "out").eval()
    assert not torch.allclose(logits(model), made.logits, atol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "The exact adapter has rank 6, this one 2." in card
    assert " → " in card


def test_a_rank_that_is_large_enough_is_exact(tmp_path: Path) -> None:
    made = edited(tmp_path)
    export_adapter(made.record, tmp_path / "exact")
    outcome = export_adapter(made.record, tmp_path / "out", max_rank=6)  # no moments needed
    assert outcome.loss is None
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "exact" / name).read_bytes()


def test_what_compression_needs(tmp_path: Path) -> None:
    made = edited(tmp_path)
    other = replace(made.moments.identity, weights_hash="0" * 64)
    batches = tuple(replace(batch, keys=None) for batch in made.record.batches)
    for record, moments, rank, error, message in (
        (made.record, None, 2, MomentsError, "second moments"),
        (made.record, replace(made.moments, identity=other), 2, MomentsError, "0" * 64),
        (
            made.record,
            replace(made.moments, layers={0: made.moments.layers[0]}),
            2,
            MomentsError,
            r"none of \[1\]",
        ),
        (replace(made.record, batches=batches), made.moments, 2, RecordError, "keys of the facts"),
        (made.record, made.moments, 0, ConfigError, "above 0"),
    ):
        with pytest.raises(error, match=message):
            export_adapter(record, tmp_path / "out", max_rank=rank, moments=moments)
        assert not (tmp_path / "out").exists()


def test_adapters_of_languages_add_up_to_the_merged_model(tmp_path: Path) -> None:
    made = edited(tmp_path)
    export_merged(made.record, tmp_path / "merged")
    parts = split_languages(made.record)
    assert list(parts) == ["en", "zh", "de"]
    for code, part in parts.items():
        export_adapter(part, tmp_path / code)
    model = PeftModel.from_pretrained(plain(made.base), tmp_path / "en", adapter_name="en")
    for code in ("zh", "de"):
        model.load_adapter(tmp_path / code, adapter_name=code)
    model.add_weighted_adapter(["en", "zh", "de"], [1.0, 1.0, 1.0], "all", combination_type="cat")
    found = {}
    for name in ("en", "all"):
        model.set_adapter(name)
        found[name] = logits(model.eval())
    whole = logits(plain(tmp_path / "merged"))
    assert torch.allclose(found["all"], whole, atol=1e-5, rtol=0)
    assert not torch.allclose(found["en"], whole, atol=1e-2)
