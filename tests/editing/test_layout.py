"""Tokens of many sequences in one rectangle: every token once, and nobody sees a neighbour."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_editable

from langedit.editing.batching import micro_batches
from langedit.editing.layout import PACKED_WIDTH, TokenLayout, lay_out
from langedit.editing.passes import TokenStates
from langedit.models import EditableModel, Recorder

SEQUENCES = [
    (5, 6, 7, 8),
    (5, 6, 9),
    (11,),
    (5, 6, 7, 8, 20, 21),
    (30, 31, 32, 33, 34),
    (5, 6, 9),
    (31, 32),
]
DISTINCT = 4 + 1 + 1 + 2 + 5 + 2


def alone(model: EditableModel, ids: tuple[int, ...], layer: int) -> torch.Tensor:
    name = model.layer_name(layer)
    with torch.no_grad(), Recorder(model.model, outputs=[name]) as record:
        model.model(input_ids=torch.tensor([ids]), use_cache=False)
    return record.outputs[name][0]


def tokens_of(layout: TokenLayout) -> dict[int, list[int]]:
    places = zip(layout.members, layout.rows, layout.columns, strict=True)
    return {member: layout.ids[row, list(columns)].tolist() for member, row, columns in places}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("limit", [1, 8, 100])
def test_every_sequence_is_there_and_shared_tokens_once(share: bool, limit: int) -> None:
    layouts = lay_out(tiny_editable("llama"), SEQUENCES, limit, share=share)
    found = {member: ids for layout in layouts for member, ids in tokens_of(layout).items()}
    assert found == {i: list(ids) for i, ids in enumerate(SEQUENCES)}
    count = sum(int(layout.mask.sum()) for layout in layouts)
    total = sum(map(len, SEQUENCES))
    assert count == total if not share else count <= total
    if share and limit == 100:
        assert count == DISTINCT
    for layout in layouts:
        assert layout.ids.shape[1] <= max(limit, 6)
        assert layout.ids.numel() <= max(limit, 6)


def test_rows_are_filled_without_padding() -> None:
    sequences = [tuple(range(1, n + 1)) for n in (8, 7, 6, 5, 4, 3, 2, 1, 4)]
    (layout,) = lay_out(tiny_editable("llama"), sequences, 10, share=False)[:1]
    layouts = lay_out(tiny_editable("llama"), sequences, 10, share=False)
    assert sum(part.ids.numel() for part in layouts) == sum(map(len, sequences)) == 40
    assert layout.mask.all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [True, False])
def test_states_are_those_of_sequences_alone(family: str, share: bool) -> None:
    model = tiny_editable(family)
    for layout in lay_out(model, SEQUENCES, 100, share=share):
        name = model.layer_name(2)
        with torch.no_grad(), Recorder(model.model, outputs=[name]) as record:
            model.model(**layout.inputs(model))
        states = record.outputs[name]
        for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
            expected = alone(model, SEQUENCES[member], 2)
            torch.testing.assert_close(states[row, list(columns)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_which_families_share_rows(family: str) -> None:
    model = tiny_editable(family)
    assert model.can_pack(10) == (family != "bloom")  # which works positions out from the mask
    layouts = lay_out(model, SEQUENCES, 100)
    assert (layouts[0].attends is not None) == model.can_pack(6)


def test_a_window_shorter_than_a_sequence_forbids_it() -> None:
    model = tiny_editable("mistral")
    model.model.config.sliding_window = 5
    assert model.can_pack(5)
    assert not model.can_pack(6)
    for layout in lay_out(model, SEQUENCES, 100):
        longer = {len(SEQUENCES[i]) > 5 for i in layout.members}
        assert longer == {layout.attends is None}  # those that are longer have their own rows


def test_a_model_that_ignores_the_mask_is_found_out() -> None:
    model = tiny_editable("llama")
    inner = model.model.model
    forward = inner.forward

    def over_tokens(*, input_ids: torch.Tensor, **others: object) -> object:
        return forward(
            input_ids=input_ids, **others | {"attention_mask": torch.ones_like(input_ids)}
        )

    inner.forward = over_tokens
    assert not model.can_pack(4)


def test_states_by_token() -> None:
    model = tiny_editable("llama")
    states = TokenStates.compute(model, SEQUENCES, 1, 100)
    assert len(states.values) < sum(map(len, SEQUENCES))
    rectangle = states.rectangle(states.index)
    for i, ids in enumerate(SEQUENCES):
        expected = alone(model, ids, 1)
        torch.testing.assert_close(rectangle[i, : len(ids)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom"])  # packed, and padded
def test_some_rows_hold_their_sequences(family: str) -> None:
    texts = [tuple(range(i, i + 60)) for i in range(20)]
    (whole,) = lay_out(tiny_editable(family), texts, 2048, share=False)
    rows = list(range(len(whole.ids)))
    assert len(rows) > 2
    parts = [whole.of_rows(rows[1:]), whole.of_rows(rows[:1])]
    found = {member: ids for part in parts for member, ids in tokens_of(part).items()}
    assert found == tokens_of(whole)
    for part, own in zip(parts, (rows[1:], rows[:1]), strict=True):
        assert torch.equal(part.mask, whole.mask[own])
        if whole.attends is not None:
            assert torch.equal(part.attends, whole.attends[own])


@pytest.mark.parametrize("share", [True, False])
def test_a_long_sequence_widens_no_rows_but_its_own(share: bool) -> None:
    texts = [tuple(range(3 + i, 13 + i)) for i in range(30)]
    sequences = [*texts[:15], tuple(range(80)), *texts[15:]]
    layouts = lay_out(tiny_editable("llama"), sequences, 40, share=share)
    wide = [layout for layout in layouts if layout.ids.numel() > 40]
    assert [layout.members for layout in wide] == [(15,)]
    found = {member: ids for layout in layouts for member, ids in tokens_of(layout).items()}
    assert found == {i: list(ids) for i, ids in enumerate(sequences)}


def sequences_of(lengths: list[int], *, alike: bool = False) -> list[tuple[int, ...]]:
    """Sequences of any tokens, or of few, so that many begin alike."""
    drawn = random.Random(0)
    tokens = (1, 1, 1, 2) if alike else range(300)
    return [tuple(drawn.choices(tokens, k=length)) for length in lengths]


def padding(layouts: list[TokenLayout]) -> tuple[int, int]:
    """Padded and real tokens."""
    real = sum(int(layout.mask.sum()) for layout in layouts)
    return sum(layout.ids.numel() for layout in layouts) - real, real


MODELS = {family: tiny_editable(family) for family in ("llama", "bloom")}  # packed, and padded
LENGTHS = st.one_of(st.integers(1, 40), st.integers(1, 600), st.integers(400, 3000))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=40),
    limit=st.integers(1, 20_000),
    family=st.sampled_from(sorted(MODELS)),
    share=st.booleans(),
    alike=st.booleans(),
)
@example(lengths=[1000, 1, 1, 1], limit=4096, family="bloom", share=False, alike=False)
@example(lengths=[4000, *[513] * 4], limit=20_000, family="llama", share=False, alike=False)
def test_padding_is_a_bounded_share_of_any_mix_of_lengths(
    lengths: list[int], limit: int, family: str, share: bool, alike: bool
) -> None:
    model, sequences = MODELS[family], sequences_of(lengths, alike=alike)
    layouts = lay_out(model, sequences, limit, share=share)
    padded, real = padding(layouts)
    assert padded < real * (2 if share else 1)
    found = [(member, ids) for layout in layouts for member, ids in tokens_of(layout).items()]
    assert sorted(found) == list(enumerate(map(list, sequences)))  # each once, tokens in order
    assert share or real == sum(lengths)
    for layout in layouts:
        assert layout.ids.numel() <= limit or len(layout.members) == 1


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_one_text_of_100000_tokens_among_short_ones(family: str) -> None:
    lengths = [*range(5, 405), 100_000, 513, 700, 1100, 2000, 3900]
    sequences = sequences_of(lengths)
    layouts = lay_out(MODELS[family], sequences, 4096, share=False)
    padded, real = padding(layouts)
    assert real == sum(lengths)
    assert padded < 0.25 * real
    (longest,) = [layout for layout in layouts if layout.ids.shape[1] > 4096]
    assert longest.members == (400,)
    assert longest.attends is None  # 10 GB, if there were one
    one_width = sum(n for n in lengths if n > PACKED_WIDTH) + 5 * 100_000
    assert padded + real < one_width  # what rows as wide as the longest would take


def test_groups_hold_what_is_alike() -> None:
    lengths = [100, 90, 49, 48, 10, 1]
    assert micro_batches(lengths, 10**6, alike=0.5) == [[0, 1], [2, 3], [4], [5]]
    assert micro_batches(lengths, 10**6) == [[0, 1, 2, 3, 4, 5]]
    assert micro_batches(lengths, 100, alike=0.5) == [[0], [1], [2, 3], [4], [5]]
