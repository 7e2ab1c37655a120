"""Reachability and statistics of layers, on tiny models."""

from __future__ import annotations

import math

import pytest
import torch
from edits import FACTS, PREFIXES, random_moments, settings
from tiny import tiny_editable

from langedit.calibration.layer_facts import (
    NULL_SHARES,
    STRIDES,
    Reach,
    layer_statistics,
    learning_rate,
    reach,
)
from langedit.editing import compute_keys, lookup_hidden, optimise_targets, prepare_request
from langedit.errors import NumericalError


@pytest.fixture(scope="module")
def model():
    return tiny_editable()


def requests_of(model, config):
    return [prepare_request(model, f, PREFIXES.of(f.language)[:1], config) for f in FACTS]


def test_reached_is_what_the_targets_say(model, monkeypatch):
    config = settings(value_steps=5, prefix_count=1)
    requests = requests_of(model, config)
    bare = [request.prompts[0] for request in requests]
    lengths = [float(lookup_hidden(model, bare, i).norm(dim=1).mean()) for i in range(3)]
    nll = torch.stack(
        [
            torch.stack(
                [
                    optimise_targets(
                        model,
                        requests,
                        config.replace(layers=(i,), value_lr=learning_rate(stride, lengths[i], 32)),
                    ).last.nll
                    for i in range(3)
                ]
            )
            for stride in STRIDES
        ]
    )
    limit = float(nll.median())  # a random model reaches nothing: half of it shall count
    monkeypatch.setattr("langedit.calibration.layer_facts._REACHED", limit)
    found = reach(model, requests, config)
    assert found.lengths == pytest.approx(lengths)
    assert torch.equal(found.reached, nll < limit)
    assert 0 < float(found.shares().mean()) < 1
    assert found.languages == tuple(fact.language for fact in FACTS)


def test_layers_behind_the_loss_layer_reach_nothing(model, monkeypatch):
    monkeypatch.setattr("langedit.calibration.layer_facts._REACHED", math.inf)
    config = settings(value_steps=1, loss_layer=1, layers=(0,))
    found = reach(model, requests_of(model, config), config)
    assert found.best() == [1.0, 1.0, 0.0]


def test_a_fact_that_overflows_is_not_reached_and_leaves_the_others_alone(model, monkeypatch):
    monkeypatch.setattr("langedit.calibration.layer_facts._REACHED", math.inf)
    config = settings(value_steps=2, prefix_count=1)
    requests = requests_of(model, config)
    bad = requests[1]

    def optimise(own_model, own, own_config):
        takes_it = any(request is bad for request in own) and own_config.value_steps > 1
        if own_config.layers == (1,) and takes_it:
            raise NumericalError(f"expected a finite target loss, got inf of {bad.name}")
        return optimise_targets(own_model, own, own_config)

    monkeypatch.setattr("langedit.calibration.layer_facts.optimise_targets", optimise)
    found = reach(model, requests, config)
    expected = torch.zeros(len(STRIDES), 3, len(requests), dtype=torch.bool)
    expected[:, 1, 1] = True
    assert torch.equal(found.failed, expected)
    assert torch.equal(found.reached, ~expected)
    assert found.overflowing == (bad.name,)


@pytest.mark.parametrize("part", ["head", "layer 2", "layer 0"])
def test_a_model_without_numbers_reaches_nothing_and_says_where(part):
    model = tiny_editable()
    config = settings(value_steps=3, prefix_count=1)
    requests = requests_of(model, config)
    module = model.model.lm_head if part == "head" else model.projection(int(part[-1]))
    module.weight.data[1, 1] = math.nan
    what = "hidden state" if part == "layer 0" else "target loss, got nan at evaluation 1 of"
    with pytest.raises(NumericalError, match=rf"^layer 0\b.*expected a finite {what}.*France"):
        reach(model, requests, config)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_of_keys_that_are_not_finite_are_refused_by_fact(value):
    model = tiny_editable()
    moments, requests = random_moments(model), requests_of(model, settings())
    others = {i for own in (0, 1, 3) for p in requests[own].prompts for i in p.ids}
    (token, *_) = [i for i in requests[2].prompts[0].ids if i not in others]
    model.model.get_input_embeddings().weight.data[token] = value
    with pytest.raises(
        NumericalError, match=r"layer 0: expected a finite key.* for zh: 法国的首都是"
    ):
        layer_statistics(model, requests, moments, max_tokens=100)


def test_the_best_stride_and_languages():
    reached = torch.zeros(3, 2, 2, dtype=torch.bool)
    reached[1, 0, 0] = reached[2, 0] = reached[0, 1, 1] = True
    failed = torch.zeros_like(reached)
    failed[0, :, 1] = failed[2, 0, 1] = True
    found = Reach(
        reached=reached,
        failed=failed,
        names=("a", "b"),
        languages=("en", "zh"),
        lengths=(1.0, 3.0),
    )
    assert found.best() == [1.0, 0.5]
    assert found.best("en") == [1.0, 0.0]
    assert found.stride(0) == STRIDES[2]
    assert found.stride(1) == STRIDES[0]
    both = found.joined(
        Reach(
            reached=reached[:, :, :1],
            failed=failed[:, :, 1:],
            names=("c",),
            languages=("nl",),
            lengths=(4.0, 0.0),
        )
    )
    assert (found.overflowing, both.overflowing) == (("b",), ("b", "c"))
    assert both.languages == ("en", "zh", "nl")
    assert both.lengths == (2.0, 2.0)


def test_a_step_of_adam_is_as_long_as_the_stride_says():
    rate = learning_rate(0.3, 10.0, 64)
    assert math.sqrt(64) * rate == pytest.approx(3.0, rel=1e-3)


def test_statistics_of_keys_and_spectra(model):
    moments = random_moments(model)
    config = settings()
    requests = requests_of(model, config)
    found = layer_statistics(model, requests, moments, max_tokens=100)
    assert list(found) == [0, 1]
    keys = compute_keys(model, [request.prompts for request in requests], [0, 1])
    for layer, own in found.items():
        mean = moments.layers[layer].moment.mean
        values, vectors = torch.linalg.eigh(mean)
        rows = keys[layer].double()
        assert own.key_length == pytest.approx(float(rows.norm(dim=1).mean()))
        assert own.corpus_length == pytest.approx(math.sqrt(float(mean.trace())))
        assert sum(own.spectrum) == pytest.approx(1.0)
        assert list(own.spectrum) == sorted(own.spectrum, reverse=True)
        assert 1 <= own.rank <= 48
        unit = rows / rows.norm(dim=1, keepdim=True)
        pairs = [float(a @ b) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
        assert own.cosine == pytest.approx(sum(pairs) / len(pairs))
        for share in NULL_SHARES:
            null = vectors[:, values < own.thresholds[share]]
            assert null.shape[1] == round(48 * share)
            left = ((rows @ null) ** 2).sum(dim=1) / (rows**2).sum(dim=1)
            assert own.left[share] == pytest.approx(float(left.mean()))
            outside = float(torch.trace(null.T @ mean @ null) / mean.trace())
            assert own.corpus_left[share] == pytest.approx(outside, rel=1e-6)
