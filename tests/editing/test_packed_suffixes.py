"""Suffixes in one row give what padded rows give."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import accelerate
import pytest
import torch
from edits import FACTS, PREFIXES, settings
from hypothesis import given
from hypothesis import strategies as st
from pretend import SPREAD_LLAMA, pretend_devices
from tiny import FAMILIES, tiny_editable, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, MiniCPM3Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from langedit.editing import optimise_targets, prepare_request
from langedit.editing.packed_suffixes import _CALL, _SHARE, PackedSuffixes, _alike
from langedit.editing.padded_suffixes import PaddedSuffixes
from langedit.editing.suffix import Suffixes, build_suffixes
from langedit.editing.suffix_batch import SuffixRow
from langedit.models import Attention, EditableModel, find_structure, replace_attention

# Their attention is their own, or no mask keeps sequences in one row apart.
OTHERS = {"gemma2", "gptj", "bloom", "falcon", "falcon_new"}
PACKING = [family for family in FAMILIES if family not in OTHERS]


def rows_of(model: EditableModel) -> list[SuffixRow]:
    """Contexts of all facts, some without a prefix, of many lengths."""
    rows = []
    for fact in FACTS:
        request = prepare_request(model, fact, PREFIXES.of(fact.language), settings())
        for prompt in request.prompts:
            ids = (*prompt.ids, *request.target_ids)
            rows.append(SuffixRow(ids=ids, lookup=prompt.lookup, wanted=(len(ids) - 2,)))
    first = rows[0].ids
    rows.append(SuffixRow(ids=first, lookup=0, wanted=(0, len(first) - 1)))
    rows.append(SuffixRow(ids=first[:3], lookup=2, wanted=(2,)))
    return rows


def built(model: EditableModel, rows: list[SuffixRow], loss_layer: int = 2) -> Suffixes:
    return build_suffixes(model, rows, 0, loss_layer, site="layer", max_tokens=200)


def padded(model: EditableModel, rows: list[SuffixRow], loss_layer: int = 2) -> Suffixes:
    known = model.behaviour
    model.__dict__["behaviour"] = replace(known, attention=None)
    try:
        return built(model, rows, loss_layer)
    finally:
        model.__dict__["behaviour"] = known


def logits_and_slope(own: Suffixes, delta: Tensor) -> tuple[Tensor, Tensor]:
    moved = delta.clone().requires_grad_(True)
    logits = own.logits(moved)
    (slope,) = torch.autograd.grad(logits.square().sum(), moved)
    return logits.detach(), slope


@pytest.mark.parametrize("loss_layer", [2, 1])
@pytest.mark.parametrize("family", PACKING)
def test_logits_and_slopes_are_those_of_padded_rows(family: str, loss_layer: int) -> None:
    model = tiny_editable(family)
    model.model.requires_grad_(False)
    rows = rows_of(model)
    ours, theirs = built(model, rows, loss_layer), padded(model, rows, loss_layer)
    assert isinstance(ours, PackedSuffixes)
    assert isinstance(theirs, PaddedSuffixes)
    delta = torch.randn(len(rows), model.structure.d_model, generator=torch.Generator())
    kept = torch.tensor([1, 2, 5, len(rows) - 2, len(rows) - 1])
    for mine, other, own in (
        (ours, theirs, delta),
        (ours.select(kept), theirs.select(kept), delta[kept]),
        (ours.select(kept).select(torch.tensor([4])), theirs.select(kept[4:]), delta[kept[4:]]),
    ):
        assert torch.equal(mine.at_lookup, other.at_lookup)
        for found, expected in zip(
            logits_and_slope(mine, own), logits_and_slope(other, own), strict=True
        ):
            assert (found - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_models_with_attention_of_their_own_get_padded_rows(family: str) -> None:
    model = tiny_editable(family)
    assert model.behaviour.attention is None
    assert isinstance(built(model, rows_of(model)), PaddedSuffixes)


def test_so_do_models_that_were_loaded_with_eager_attention() -> None:
    model = tiny_editable("llama", attn_implementation="eager")
    assert model.behaviour.attention is None


def test_so_do_those_whose_attention_is_not_alike_in_all_layers() -> None:
    model = tiny_editable("llama")
    block = model.model.model.layers[1]
    own = block.self_attn

    class Twice(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            own(*args, **kwargs)
            return own(*args, **kwargs)

    block.self_attn = Twice()
    assert model.behaviour.packs
    assert model.behaviour.attention is None


def test_layers_on_several_devices() -> None:
    config = settings(layers=(0,))

    def targets(model: EditableModel) -> Tensor:
        requests = [
            prepare_request(model, fact, PREFIXES.of(fact.language), config) for fact in FACTS
        ]
        assert model.behaviour.attention == "self_attn"
        return optimise_targets(model, requests, config).target_hidden.cpu()

    alone = targets(tiny_editable("llama"))
    with pretend_devices():
        spread = tiny_editable("llama")
        accelerate.dispatch_model(spread.model, SPREAD_LLAMA)
        found = targets(spread)
    assert (found - alone).norm() <= 1e-5 * alone.norm()


def test_so_do_those_whose_cache_keeps_what_keys_are_made_of() -> None:
    config = MiniCPM3Config(
        vocab_size=400, hidden_size=48, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    inner = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model = EditableModel(inner, tiny_tokenizer(), find_structure(inner))
    assert model.behaviour.packs
    assert model.behaviour.attention is None
    rows = rows_of(model)
    own = built(model, rows)
    assert isinstance(own, PaddedSuffixes)
    delta = torch.zeros(len(rows), model.structure.d_model)
    assert bool(torch.isfinite(own.logits(delta)).all())


def test_so_do_those_that_scale_attention_by_the_place_in_the_row() -> None:
    model = tiny_editable("llama")
    model.model.config.attn_temperature_tuning = True
    assert model.behaviour.attention is None


def test_what_is_registered_later_counts() -> None:
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with replace_attention(lambda attention: attention):
        pass

    def later(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError

    AttentionInterface.register("sdpa", later)
    try:
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is later
    finally:
        AttentionInterface.register("sdpa", own)


def test_one_thread_at_a_time_replaces_attention() -> None:
    before, seen = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def other() -> None:
        with replace_attention(lambda attention: attention):
            seen.append(ALL_ATTENTION_FUNCTIONS["sdpa"])

    def make(_attention: Attention) -> Attention:
        return lambda *args, **kwargs: before(*args, **kwargs)

    thread = threading.Thread(target=other)
    with replace_attention(make):
        thread.start()
        thread.join(timeout=0.2)
        assert not seen
    thread.join()
    assert seen == [before]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


def test_every_token_is_there_once() -> None:
    model = tiny_editable("llama")
    rows = rows_of(model)
    own = built(model, rows)
    assert isinstance(own, PackedSuffixes)
    assert len(own.hidden) == sum(len(row.ids) - row.lookup for row in rows)
    tokens = torch.cat([group.tokens[group.filled] for group in own.groups])
    assert tokens.sort().values.tolist() == list(range(len(own.hidden)))
    members = torch.cat([group.rows for group in own.groups])
    assert members.sort().values.tolist() == list(range(len(rows)))


def test_other_models_keep_their_attention_and_it_comes_back() -> None:
    model, other = tiny_editable("llama"), tiny_editable("qwen2")
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ids = torch.tensor([[5, 6, 7]])
    expected = other.model(input_ids=ids).logits
    seen: list[Tensor] = []
    inner = model.layer(1).forward

    def run_other(*args: Any, **kwargs: Any) -> Any:
        seen.append(other.model(input_ids=ids).logits)
        return inner(*args, **kwargs)

    model.layer(1).forward = run_other  # type: ignore[method-assign]
    request = prepare_request(model, FACTS[0], PREFIXES.of("en"), settings())
    optimise_targets(model, [request], settings(layers=(0,), value_steps=2))
    assert len(seen) > 2
    assert all(torch.equal(own, expected) for own in seen)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before

    def make(_attention: Attention) -> Attention:
        return before

    with pytest.raises(KeyError), replace_attention(make):
        raise KeyError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


lengths = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=60)


@given(lengths)
def test_rows_share_calls_while_padding_is_cheap(rows: list[tuple[int, int]]) -> None:
    before, after = [past for past, _ in rows], [own for _, own in rows]
    groups = _alike(before, after)
    assert sorted(row for group in groups for row in group) == list(range(len(rows)))
    needed = [own * (past + own) for past, own in rows]
    limit = max(_CALL, _SHARE * sum(needed))
    for group in groups:
        width = max(after[i] for i in group)
        slots = len(group) * width * (max(before[i] for i in group) + width)
        assert slots - sum(needed[i] for i in group) <= limit


def test_few_short_rows_are_one_call() -> None:
    assert len(_alike([3, 0, 9], [2, 4, 1])) == 1
    assert len(_alike([10] * 100 + [500] * 100, [5] * 100 + [2] * 100)) == 2
