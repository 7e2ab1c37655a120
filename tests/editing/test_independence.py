from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable
from torch import Tensor

from langedit.editing import BatchReport, Editor
from langedit.editing.independence import (
    KnownKeys,
    change_by_language,
    output_change,
    output_size,
    summarise,
)
from langedit.linalg import LowRankUpdate
from langedit.models import EditableModel


def test_change_of_outputs_by_hand() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    update = LowRankUpdate(left=torch.tensor([[0.0], [1.0]]), right=torch.tensor([[0.0, 2.0, 5.0]]))
    keys = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    ratios = output_change(update, KnownKeys.of(weight, keys)).tolist()
    assert ratios == pytest.approx([0.0, 0.5, 0.4, float("inf")])


def test_a_key_that_neither_sees_counts_as_unchanged() -> None:
    weight = torch.zeros(2, 3)
    update = LowRankUpdate(left=torch.zeros(2, 1), right=torch.zeros(1, 3))
    keys = torch.ones(1, 3)
    assert output_change(update, KnownKeys.of(weight, keys)).tolist() == [0.0]


def test_summaries_by_language_in_order_of_appearance() -> None:
    ratios = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    found = change_by_language(ratios, ["zh", "en", "zh", "zh"])
    assert list(found) == ["zh", "en"]
    assert (found["zh"].keys, found["zh"].largest, found["zh"].median) == (3, 0.3, 0.2)
    assert (found["en"].keys, found["en"].largest) == (1, 0.4)
    assert summarise(ratios[:0]) is None


def in_three(model: EditableModel) -> tuple[Editor, list[BatchReport]]:
    config = settings(method="memit", moment_weight=0.01, value_lr=0.5)
    editor = Editor(model, None, config, random_moments(model), PREFIXES)
    return editor, [editor.apply(facts) for facts in (FACTS[:1], FACTS[1:], LATER)]


def test_a_batch_is_compared_with_what_the_batches_of_the_keys_left() -> None:
    editor, reports = in_three(tiny_editable())
    last = reports[2]
    for layer in editor.config.layers:
        weight, ratios = tiny_editable().read_weight(layer), []
        for own in reports[:2]:
            weight = weight + own.updates[layer].dense()
            moved = own.keys[layer] @ last.updates[layer].dense().T
            ratios += (moved.norm(dim=1) / (own.keys[layer] @ weight.T).norm(dim=1)).tolist()
        found = [change.largest for change in last.independence[layer].values()]
        assert max(found) == pytest.approx(max(ratios), rel=1e-4)
        assert max(ratios) > 1e-3


def test_after_a_restoration_the_next_batch_measures_the_same_bits() -> None:
    editor, reports = in_three(tiny_editable())
    editor.restore([])
    editor.restore(reports[:1])
    editor.restore(reports[:2])
    assert editor.apply(LATER).independence == reports[2].independence


def test_a_batch_multiplies_the_weights_with_its_own_keys_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []

    def count(weight: Tensor, keys: Tensor) -> Tensor:
        rows.append(len(keys))
        return output_size(weight, keys)

    monkeypatch.setattr("langedit.editing.independence.output_size", count)
    monkeypatch.setattr("langedit.editing.state.output_size", count)
    model = tiny_editable()
    in_three(model)
    sample = len(random_moments(model).layers[0].sample)
    assert rows == [sample, sample, 1, 1, *[len(FACTS) - 1] * 2, *[len(LATER)] * 2]
