"""RECT and PRUNE: what becomes of MEMIT's update."""

from __future__ import annotations

import math

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, same_states, settings
from tiny import tiny_editable

from langedit.editing import Editor, compute_keys, prepare_request
from langedit.editing.methods import find_method
from langedit.editing.methods.prune import PruneState
from langedit.errors import MomentsError
from langedit.linalg import DenseUpdate, LowRankUpdate

LAYERS = (0, 1)


def editor(method: str, family: str = "llama", **changes: object) -> Editor:
    model = tiny_editable(family)
    strong = {"moment_weight": 0.01, "value_lr": 0.5, "value_steps": 12, "norm_clamp": 4.0}
    config = settings(method=method, **{**strong, **changes})
    return Editor(model, None, config, random_moments(model), PREFIXES)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rect_is_memit_with_few_entries(family: str) -> None:
    rect, memit = editor("rect", family), editor("memit", family)
    masked, whole = rect.apply(FACTS), memit.apply(FACTS)
    for layer in LAYERS:
        update = masked.updates[layer]
        assert isinstance(update, DenseUpdate)
        kept = update.matrix != 0
        assert float(kept.float().mean()) == pytest.approx(0.4, abs=2e-3)
        assert torch.equal(update.matrix[kept], whole.updates[layer].dense()[kept])
        assert int(torch.linalg.matrix_rank(update.matrix)) > len(FACTS)  # no factors would do
        figures = masked.to_dict()["layers"][str(layer)]
        assert figures["update_rank"] is None
        assert figures["norms"]["update"] < whole.to_dict()["layers"][str(layer)]["norms"]["update"]


@pytest.mark.parametrize("method", ["rect", "prune"])
def test_remembered_keys_are_those_of_the_edited_model(method: str) -> None:
    edited = editor(method)
    edited.apply(LATER)
    edited.apply(FACTS)
    requests = [
        prepare_request(edited.model, fact, PREFIXES.of(fact.language), edited.config)
        for fact in FACTS
    ]
    now = compute_keys(edited.model, [request.prompts for request in requests], LAYERS)
    for layer in LAYERS:
        history = edited.layer_states[layer].history
        assert len(history) == len(LATER) + len(FACTS)
        assert torch.allclose(history[-len(FACTS) :], now[layer], atol=1e-5)


def test_the_share_that_rect_keeps_is_a_setting() -> None:
    report = editor("rect", rect_share=0.1).apply(FACTS)
    assert float((report.updates[0].dense() != 0).float().mean()) == pytest.approx(0.1, abs=2e-3)


def test_prune_without_large_singular_values_is_memit_bit_for_bit() -> None:
    mild = {"moment_weight": 5.0, "value_lr": 0.05, "norm_clamp": 0.5}
    prune, memit = editor("prune", **mild), editor("memit", **mild)
    for facts in (FACTS, LATER):
        one, other = prune.apply(facts), memit.apply(facts)
        for layer in LAYERS:
            assert torch.equal(one.updates[layer].dense(), other.updates[layer].dense())
            assert torch.equal(prune.model.read_weight(layer), memit.model.read_weight(layer))


def test_prune_after_every_batch_restrains_the_whole_change_of_memit() -> None:
    prune, memit = editor("prune"), editor("memit")
    base = {layer: memit.model.read_weight(layer) for layer in LAYERS}
    for facts in (FACTS, LATER, FACTS[:2]):
        report = prune.apply(facts)
        memit.apply(facts)
        for layer in LAYERS:
            limit = float(torch.linalg.svdvals(base[layer])[0])
            total = (memit.model.read_weight(layer) - base[layer]).double()
            u, sigma, vt = torch.linalg.svd(total, full_matrices=False)
            assert float(sigma[0]) > limit  # control: there is something to restrain
            smaller = [s if s <= limit else math.log(s / limit) + limit for s in sigma.tolist()]
            expected = u @ torch.diag(torch.tensor(smaller, dtype=torch.float64)) @ vt
            found = (prune.model.read_weight(layer) - base[layer]).double()
            assert float((found - expected).norm() / expected.norm()) < 1e-4
            assert float(torch.linalg.svdvals(found)[0]) < float(sigma[0])
            assert isinstance(report.updates[layer], LowRankUpdate)


def test_prune_comes_back_after_undo() -> None:
    edited, straight = editor("prune"), editor("prune")
    edited.apply(FACTS)
    states, state = edited.layer_states, edited.state_hash
    edited.apply(FACTS[:1])
    assert not same_states(edited.layer_states, states)
    edited.undo()
    assert edited.state_hash == state
    assert same_states(edited.layer_states, states)
    edited.apply(LATER)
    straight.apply(FACTS)
    straight.apply(LATER)
    for layer in LAYERS:
        assert torch.equal(edited.model.read_weight(layer), straight.model.read_weight(layer))


def test_prune_refuses_states_of_others() -> None:
    edited = editor("prune")
    state = edited.layer_states[0]
    assert isinstance(state, PruneState)
    assert state.free is None
    other = find_method("memit").from_config(edited.config)
    moment = random_moments(edited.model).layers[0].moment
    edited._state.layers[0] = other.start(0, moment)
    with pytest.raises(MomentsError, match="state of prune"):
        edited.apply(FACTS)
