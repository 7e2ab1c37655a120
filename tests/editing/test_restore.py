"""An editor restored from reports is, bit for bit, the one that made them."""

from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable

from langedit.editing import Editor
from langedit.errors import LangEditError


def editor(**changes) -> Editor:
    model = tiny_editable("llama")
    return Editor(model, None, settings(**changes), random_moments(model), PREFIXES)


@pytest.mark.parametrize(
    "changes",
    [{}, {"projection": "released"}, {"method": "alphaedit"}, {"method": "memit-seq"}],
    ids=str,
)
def test_the_next_batch_is_that_of_the_uninterrupted_run(changes):
    first, second = editor(**changes), editor(**changes)
    reports = [first.apply(FACTS[:2]), first.apply(LATER)]
    second.restore(reports)
    assert (second.weights_hash, second.state_hash) == (first.weights_hash, first.state_hash)
    assert second.reports == tuple(reports)
    first.apply(FACTS[3:])
    second.apply(FACTS[3:])
    assert (second.weights_hash, second.state_hash) == (first.weights_hash, first.state_hash)
    for layer in (0, 1):
        assert torch.equal(second.model.read_weight(layer), first.model.read_weight(layer))


def test_the_hashes_see_batches_their_order_and_their_facts():
    own = editor()
    seen = {(own.weights_hash, own.state_hash)}
    a = own.apply(FACTS[:2])
    b = own.apply(LATER)
    for reports in ([a], [b], [a, b], [b, a]):
        own.restore(reports)
        seen.add((own.weights_hash, own.state_hash))
    assert len({state for _, state in seen}) == 5
    assert len(seen) == 5


def test_any_batch_may_go_and_with_none_left_the_original_bits_are_there():
    own = editor()
    base = own.weights_hash, own.state_hash
    reports = [own.apply(FACTS[:2]), own.apply(LATER)]
    own.restore(reports[1:])
    total = tiny_editable("llama").read_weight(0) + reports[1].updates[0].dense()
    assert torch.equal(own.model.read_weight(0), total)
    own.restore([])
    assert (own.weights_hash, own.state_hash) == base
    assert own.model.identity() == tiny_editable("llama").identity()


def test_undo_after_restore_has_nothing_to_take_back():
    own = editor()
    report = own.apply(FACTS[:2])
    assert own.earlier_layer_states[0].batches == 0
    own.restore([report])
    with pytest.raises(LangEditError, match="expected a batch to take back"):
        own.undo()
    with pytest.raises(LangEditError, match="just applied"):
        own.earlier_layer_states  # noqa: B018


def test_reports_that_go_on_are_put_on_top(monkeypatch):
    own = editor()
    reports = [own.apply(FACTS[:2]), own.apply(LATER)]
    wanted = own.weights_hash, own.state_hash
    own.restore(reports[:1])
    summed = []

    def counted(base, updates):
        from langedit.editing.batch import sum_updates

        summed.append(len(updates))
        return sum_updates(base, updates)

    monkeypatch.setattr("langedit.editing.editor.sum_updates", counted)
    own.restore(reports)
    assert summed == [1, 1], "one update a layer"
    assert (own.weights_hash, own.state_hash) == wanted
