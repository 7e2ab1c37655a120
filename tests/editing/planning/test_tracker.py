"""Bytes, operations and known values of code on the meta device."""

from __future__ import annotations

import pytest
import torch

from langedit.editing.planning.tracker import MetaTracker
from langedit.errors import ModelError


def meta(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="meta")


def test_the_peak_is_what_is_alive_at_once():
    with MetaTracker() as tracker:
        first = meta(10, 10)  # 400 bytes
        second = first * 2  # 400
        third = second[:5]  # a view
        del first
        assert (tracker.live, tracker.peak) == (400, 800)
        fourth = third + 1  # 200
        assert (tracker.live, tracker.peak) == (600, 800)
        del second
        assert tracker.live == 600  # the view keeps it
        del third
        assert tracker.live == 200
        tracker.reset_peak()
        assert tracker.peak == 200
        del fourth
    assert tracker.live == 0


def test_what_autograd_keeps_counts():
    weight = meta(8, 8)
    with MetaTracker() as tracker:
        tracker.ignore([weight])
        x = meta(4, 8).requires_grad_()
        hidden = (x @ weight).sigmoid()
        total = hidden.sin().sum()
        del hidden
        assert tracker.live == 128 + 128 + 4  # x, the sigmoid for both gradients, and the sum
        torch.autograd.grad(total, x)
    assert tracker.flops == 2 * (2 * 4 * 8 * 8)  # forward, and the gradient of x alone


def test_values_of_indices_and_masks_are_known():
    with MetaTracker() as tracker:
        token = torch.tensor([3, -1, 5], device="meta")
        chosen = token >= 0
        rows = meta(3, 7)[chosen]
        assert rows.shape == (2, 7)
        assert meta(3, 7)[~chosen].shape == (1, 7)
        assert chosen.nonzero().shape == (2, 1)
        assert not bool(chosen.all())
        moved = torch.arange(4).to("meta")
        assert int((moved + 1).max()) == 4
        assert tracker.peak > 0


def test_a_decision_by_unknown_values_is_an_error():
    with MetaTracker(), pytest.raises(ModelError, match="only a real pass knows"):
        bool((meta(3) > 0).any())


def test_attention_holds_no_score_for_each_pair_of_tokens():
    with MetaTracker() as tracker:
        query = meta(2, 4, 100, 8).requires_grad_()
        key = meta(2, 4, 100, 8)
        before = tracker.live
        output = torch.nn.functional.scaled_dot_product_attention(query, key, key)
        assert output.shape == query.shape
        assert tracker.peak - before == 4 * 2 * 4 * 100 * (8 + 1)  # output and normalisers
        (gradient,) = torch.autograd.grad(output.sum(), query)
        assert gradient.shape == query.shape
    assert tracker.flops == 2 * 2 * (2 * 4 * 100 * 100) * 8
