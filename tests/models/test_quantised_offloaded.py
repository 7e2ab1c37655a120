"""Quantised projections that are offloaded, with and without bias, are edited as resident ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dispatched import WAYS
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from quantised import QUANTISERS, quantise
from tiny import tiny_editable

from langedit.editing import Editor, collect_moments
from langedit.errors import ModelError
from langedit.models import EditableModel, dequantise_projections, weights_hash
from langedit.models.offload import find_offloaded, loaded
from langedit.models.quantised import is_quantised, require_savable

# Hooks on each module, in memory and on disk, and hooks on whole layers; the other ways load a
# checkpoint, which modules in miniature cannot.
KEPT = ("memory", "disk", "whole layers")
BIASED = {"llama": {"mlp_bias": True}, "opt": {}, "gpt_neox": {}}
PLAIN: dict[str, dict[str, bool]] = {"qwen2": {}}
FAMILIES = BIASED | PLAIN
IDS = torch.tensor([[5, 6, 7]])


def pair(family: str, kind: str, way: str, folder: Path) -> tuple[EditableModel, EditableModel]:
    """A quantised model whose weights are at hand, and the same with weights elsewhere."""
    models = [quantise(tiny_editable(family, **FAMILIES[family]), kind) for _ in range(2)]
    return models[0], WAYS[way](models[1], folder)


@pytest.mark.parametrize("way", KEPT)
@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_are_those_of_a_model_at_hand(family, kind, way, tmp_path):
    at_hand, away = pair(family, kind, way, tmp_path)
    assert weights_hash(away.model) == weights_hash(at_hand.model)
    assert isinstance(away.projection(1).bias, torch.Tensor) is (family in BIASED)
    moments = random_moments(at_hand)
    editors = [Editor(model, None, settings(), moments, PREFIXES) for model in (at_hand, away)]
    bias = at_hand.projection(1).bias
    assert list(editors[1].dequantised) == [0, 1]
    for batch in (FACTS, LATER):
        for editor in editors:
            editor.apply(batch)
        same(at_hand, away)
    for editor in editors:
        editor.undo()
    same(at_hand, away)
    assert is_quantised(away.projection(2))
    if bias is not None:
        name = f"{away.projection_name(1)}.bias"
        kept = find_offloaded(away.model, name)
        own = away.projection(1).bias if kept is None else kept.read()
        assert torch.equal(own, bias)
        assert float(bias.abs().max()) > 0


def same(at_hand: EditableModel, away: EditableModel) -> None:
    for layer in (0, 1):
        assert torch.equal(away.read_weight(layer), at_hand.read_weight(layer))
    for _ in range(2):  # what a pass loads and puts away again is what was written
        logits = away.model(input_ids=IDS).logits
        assert torch.equal(logits, at_hand.model(input_ids=IDS).logits)
    assert weights_hash(away.model) == weights_hash(at_hand.model)
    require_savable(away.model)


@pytest.mark.parametrize("way", KEPT)
@pytest.mark.parametrize("kind", QUANTISERS)
def test_a_bias_takes_no_part_in_the_rounding_of_the_weight(kind, way, tmp_path):
    at_hand, away = pair("llama", kind, way, tmp_path)
    true, name = at_hand.projection(1).true_weight(), away.projection_name(1)
    large = torch.full((32,), 1e6)
    kept = find_offloaded(away.model, f"{name}.bias")
    assert kept is not None
    kept.write(large)
    dequantise_projections(away, (1,))
    assert torch.equal(away.read_weight(1), true)
    with loaded(away.model, name):
        assert torch.equal(away.projection(1).bias, large)


@pytest.mark.parametrize("way", KEPT)
def test_moments_are_those_of_a_model_at_hand(way, tmp_path):
    at_hand, away = pair("opt", "int8", way, tmp_path)
    corpus = [("en", "The water is in Peru"), ("de", "Wien")]
    mine, theirs = (collect_moments(model, corpus, [0, 1]) for model in (at_hand, away))
    assert mine.identity.weights_hash == theirs.identity.weights_hash
    assert torch.equal(mine.layers[1].moment.mean, theirs.layers[1].moment.mean)


@pytest.mark.parametrize("way", KEPT)
def test_what_was_loaded_is_put_away_again_after_an_error(way, tmp_path):
    _, away = pair("llama", "int8", way, tmp_path)
    name = away.projection_name(1)

    def fail() -> None:
        with loaded(away.model, name):
            assert not away.projection(1).bias.is_meta
            raise RuntimeError("no kernel")

    assert away.projection(1).bias.is_meta
    with pytest.raises(RuntimeError, match="no kernel"):
        fail()
    assert away.projection(1).bias.is_meta
    assert away.projection(1).weight.is_meta


@pytest.mark.parametrize("way", KEPT)
def test_it_cannot_be_saved_whole(way, tmp_path):
    _, away = pair("llama", "int8", way, tmp_path)
    editor = Editor(away, None, settings(), random_moments(away), PREFIXES)
    editor.apply(FACTS)
    name = r"model.layers.0.self_attn.q_proj \(Int8Linear of int8\) is offloaded"
    with pytest.raises(ModelError, match=name):
        editor.save_pretrained(tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_hashing_does_not_copy_what_hooks_keep(tmp_path):
    _, away = pair("llama", "int8", "memory", tmp_path)
    kept = find_offloaded(away.model, away.weight_name(1))
    assert kept is not None

    class Refusing(type(kept.weights)):  # type: ignore[misc]
        def __deepcopy__(self, memo):
            raise AssertionError("a copy of the weights of the whole model")

    for module in away.model.modules():
        hook = getattr(module, "_hf_hook", None)
        for own in getattr(hook, "hooks", (hook,)):
            if getattr(own, "weights_map", None) is not None:
                own.weights_map.__class__ = Refusing
    assert weights_hash(away.model)
    require_savable(away.model)
