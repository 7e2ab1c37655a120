"""Every method goes on from what is recorded of its batches, bit for bit."""

from __future__ import annotations

import pytest
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable

from langedit.editing import Editor
from langedit.errors import NumericalError
from langedit.workspace.record import batch_bytes, read_report, report_figures

METHODS = ("langedit", "alphaedit", "memit", "memit-seq", "rome", "rect", "prune", "ft", "ft-l")


def editor(method: str, **changes: object) -> Editor:
    model = tiny_editable("gpt2")
    config = settings(method=method, layers=(1,), moment_weight=0.01, ft_lr=0.01, **changes)
    return Editor(model, None, config, random_moments(model, (1,)), PREFIXES)


def applied(edited: Editor, facts):
    """The report of a batch, written down and read back."""
    report = edited.apply(facts)
    content = batch_bytes(report, edited.earlier_layer_states, edited.layer_states, "base")
    return read_report(content, report_figures(report), facts, "base")


@pytest.mark.parametrize("merge_shared", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_restored_editor_edits_the_next_batch_alike(method: str, merge_shared: bool) -> None:
    first, other = (editor(method, merge_shared=merge_shared) for _ in range(2))
    records = [applied(first, FACTS[:2]), applied(first, FACTS[2:])]
    other.restore(records)
    assert (other.weights_hash, other.state_hash) == (first.weights_hash, first.state_hash)
    first.apply(LATER)
    other.apply(LATER)
    assert (other.weights_hash, other.state_hash) == (first.weights_hash, first.state_hash)


@pytest.mark.parametrize("method", ["alphaedit", "memit-seq"])
def test_an_undone_batch_leaves_no_trace_after_more_edits_than_the_layer_is_wide(
    method: str,
) -> None:
    """What solves know of past keys was made smaller by then."""
    straight, straying = editor(method, value_steps=1), editor(method, value_steps=1)
    for number in range(12):
        straight.apply((*FACTS, *LATER))
        if number > 8:
            straying.apply(FACTS[:3])
            straying.undo()
        straying.apply((*FACTS, *LATER))
        assert straying.weights_hash == straight.weights_hash
    memory = straight.layer_states[1].memory
    assert memory is not None
    assert memory.count == 72
    assert len(memory.soft) <= 60


@pytest.mark.parametrize("method", METHODS)
def test_an_earlier_batch_is_removed_or_refused(method: str) -> None:
    edited = editor(method)
    records = [applied(edited, batch) for batch in (FACTS[:2], FACTS[2:], LATER)]
    before = edited.weights_hash, edited.state_hash
    restrained = method == "prune" and records[-1].updates[1].rank > len(LATER)
    if method == "prune":
        assert restrained, "the control: these edits are large enough to be restrained"
        with pytest.raises(NumericalError, match="prune: expected the batches"):
            edited.restore(records[1:])
        assert (edited.weights_hash, edited.state_hash) == before
    else:
        edited.restore(records[1:])
        assert edited.weights_hash != before[0]
        assert len(edited.layer_states[1].history) == len(FACTS[2:]) + len(LATER)
    edited.restore([])
    fresh = editor(method)
    assert (edited.weights_hash, edited.state_hash) == (fresh.weights_hash, fresh.state_hash)


@pytest.mark.parametrize("method", ["langedit", "alphaedit", "memit-seq"])
def test_nothing_worked_out_of_a_batch_stays_with_the_state_before_it(method: str) -> None:
    edited = editor(method, corpus_weight=0.5)
    edited.apply(FACTS)
    report = edited.apply(LATER)
    before = edited.earlier_layer_states[1]
    for own in (before.projector, before.solver, before.memory):
        assert own is None or own._last.entry is None
    assert report.keys[1].shape == (len(LATER), 48)  # lives, and would keep it alive
