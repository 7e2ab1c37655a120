"""Tokens of many sequences in one rectangle: every token once, and nobody sees a neighbour."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, tiny_editable

from langedit.editing.layout import TokenLayout, lay_out
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
    assert all(layout.attends is None for layout in lay_out(model, SEQUENCES, 100))


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
