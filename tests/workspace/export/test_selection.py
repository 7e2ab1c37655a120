"""Parts of a record: whole batches, and the rows of facts of some languages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edits import FACTS, LATER
from exports import edited

from langedit.editing import EditedModelRecord
from langedit.errors import FactError, RecordError
from langedit.linalg import DenseUpdate, LowRankUpdate
from langedit.workspace.export import select_edits, split_languages


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> EditedModelRecord:
    made = edited(tmp_path_factory.mktemp("selection"))
    scores = [{"efficacy": 0.5, "generalization": None, "specificity": None}] * 6
    return made.editor.record(scores)


def test_nothing_left_out_is_the_record_itself(record: EditedModelRecord) -> None:
    assert select_edits(record) is record
    assert select_edits(record, [0, 1], ["en", "de", "zh"]) is record


def test_batches_are_taken_whole(record: EditedModelRecord) -> None:
    (batch,) = select_edits(record, batches=[1]).batches
    assert batch.facts == LATER
    assert batch.updates is record.batches[1].updates


def test_rows_of_a_language_are_taken_from_mixed_batches(record: EditedModelRecord) -> None:
    part = select_edits(record, languages=["ZH"])
    assert part.facts == (FACTS[2], LATER[1])
    for layer in (0, 1):
        for batch, whole, row in zip(part.batches, record.batches, (2, 1), strict=True):
            update = whole.updates[layer]
            single = torch.outer(update.left[:, row], update.right[row])
            assert torch.allclose(batch.updates[layer].dense(), single)
            assert whole.keys is not None
            assert batch.keys is not None
            assert torch.equal(batch.keys[layer][0], whole.keys[layer][row])


def test_a_selection_is_said_to_be_one_and_has_no_scores(record: EditedModelRecord) -> None:
    part = select_edits(record, batches=[1], languages=["de"])
    assert part.scores is None
    assert part.selection == "1 of 6 facts, languages de, batches 1"
    again = select_edits(select_edits(record, languages=["zh"]), batches=[0])
    assert again.selection == "1 of 2 facts, batches 0; chosen from 2 of 6 facts, languages zh"
    assert record.scores is not None
    assert record.selection is None


def test_languages_add_up_to_the_whole(record: EditedModelRecord) -> None:
    parts = split_languages(record)
    for layer in (0, 1):
        total = sum(part.total(layer).dense() for part in parts.values())
        assert torch.allclose(total, record.total(layer).dense(), atol=1e-6)


def test_facts_that_share_a_row_take_it_with_them(record: EditedModelRecord) -> None:
    first = record.batches[0]
    assert first.keys is not None
    shared = replace(
        first,
        rows=(0, 1, 2, 1),
        updates={
            layer: LowRankUpdate(left=update.left[:, :3], right=update.right[:3])
            for layer, update in first.updates.items()
            if isinstance(update, LowRankUpdate)
        },
        keys={layer: keys[:3] for layer, keys in first.keys.items()},
    )
    part = select_edits(replace(record, batches=(shared,)), languages=["en"])
    (batch,) = part.batches
    assert batch.rows == (0, 1, 1)
    for layer, update in batch.updates.items():
        expected = shared.updates[layer]
        assert isinstance(expected, LowRankUpdate)
        assert torch.equal(update.dense(), expected.left[:, :2] @ expected.right[:2])


def test_what_is_not_there(record: EditedModelRecord) -> None:
    for batches, languages, message in (
        ([2], None, "batches: expected some of 0, 1, got 2"),
        (None, ["fr"], "languages: expected some of de, en, zh, got fr"),
        ([], None, "got none"),
        ([1], ["en"], "got none"),
    ):
        with pytest.raises(RecordError, match=message):
            select_edits(record, batches, languages)
    with pytest.raises(FactError):
        select_edits(record, languages=["not a language"])


def test_an_update_without_rows_of_facts_is_not_cut(record: EditedModelRecord) -> None:
    dense = {
        layer: DenseUpdate(matrix=update.dense())
        for layer, update in record.batches[0].updates.items()
    }
    whole = replace(record, batches=(replace(record.batches[0], updates=dense), record.batches[1]))
    with pytest.raises(RecordError, match="batch 0 has facts in en, zh"):
        select_edits(whole, languages=["zh"])
    assert select_edits(whole, languages=["en", "zh"]).facts == (*FACTS, LATER[1])
