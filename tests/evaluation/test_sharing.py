"""Shared beginnings: what is left out, and that nothing but work changes."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_editable

from langedit.evaluation import forced_answers
from langedit.evaluation.sharing import Beginnings, maximal_rows
from langedit.models import pad_batch

ids = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


@given(st.lists(ids, min_size=1, max_size=12))
def test_rows_begin_no_other_row_and_every_sequence_begins_its_own(sequences):
    rows, owners = maximal_rows(sequences)
    assert rows == sorted(set(rows))
    for i, row in enumerate(rows):
        assert not any(other[: len(row)] == row for j, other in enumerate(rows) if j != i)
    for sequence, owner in zip(sequences, owners, strict=True):
        assert rows[owner][: len(sequence)] == sequence


@given(st.lists(ids, min_size=1, max_size=12))
def test_beginnings_are_the_distinct_prefixes(sequences):
    rows, _ = maximal_rows(sequences)
    found = Beginnings.of(pad_batch(rows, 0))
    prefixes = {row[:end] for row in rows for end in range(1, len(row) + 1)}
    assert len(found.rows) == len(prefixes)
    for i, row in enumerate(rows):
        for column in range(len(row)):
            number = found.index[i, column]
            first = rows[int(found.rows[number])]
            assert int(found.columns[number]) == column
            assert first[: column + 1] == row[: column + 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_one_sequence_at_a_time(family):
    """Twelve answers to three prompts that begin alike, in one pass and in many."""
    model = tiny_editable(family)
    rng = random.Random(family)
    start = [rng.randrange(300) for _ in range(4)]
    prompts = [start, [*start, 7], [*start, 7, 9, 11]]
    items = [
        (rng.choice(prompts), [rng.randrange(300) for _ in range(n % 4 + 1)]) for n in range(12)
    ]
    expected = []
    for prompt, answer in items:
        with torch.no_grad():
            logits = model.model(torch.tensor([[*prompt, *answer]])).logits[0].float()
        rows = logits[len(prompt) - 1 : -1]
        picked = rows.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
        expected.append((tuple(rows.argmax(-1).tolist()), picked))
    for batch_tokens in (1, 4096):
        found = forced_answers(model, items, batch_tokens=batch_tokens)
        for own, (predicted, log_probabilities) in zip(found, expected, strict=True):
            assert own.predicted == predicted
            assert torch.allclose(
                torch.tensor(own.log_probabilities), log_probabilities, atol=2e-4, rtol=1e-4
            )


def test_mlps_see_each_beginning_once_and_the_last_one_only_what_is_asked():
    """Control: the work is really left out."""
    model = tiny_editable("llama")
    prompt = list(range(40, 50))
    items = [([*prompt, last], [3, 4]) for last in range(6)]
    seen = []
    handles = [
        layer.mlp.up_proj.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape))
        for layer in model.model.model.layers
    ]
    forced_answers(model, items)
    for handle in handles:
        handle.remove()
    distinct, asked = 10 + 6 * 2, 6 * 2
    assert [shape[1] for shape in seen] == [distinct, distinct, asked]
