"""The straightforward implementation gives the editor's results."""

from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable

from benchmarks.baseline import BaselineEditor, DenseLayer, baseline_keys, baseline_target
from benchmarks.streams import exponent, run_stream
from langedit.editing import Editor, compute_keys, optimise_targets, prepare_request
from langedit.errors import ConfigError
from langedit.linalg import SecondMoment
from langedit.models import EditableModel
from langedit.profiler import Profiler


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_targets_and_keys_are_those_of_the_editor(family: str) -> None:
    model, config = tiny_editable(family), settings()
    requests = [prepare_request(model, f, PREFIXES.of(f.language), config) for f in FACTS]
    found = optimise_targets(model, requests, config)
    for i, request in enumerate(requests):
        own = baseline_target(model, request, config)
        assert own.steps == int(found.steps[i])
        assert (own.hidden - found.target_hidden[i]).norm() <= 2e-5 * own.hidden.norm()
    contexts = [request.prompts for request in requests]
    keys = baseline_keys(model, contexts, 1)
    torch.testing.assert_close(keys, compute_keys(model, contexts, [1])[1], rtol=1e-4, atol=1e-5)


def edited(corpus_weight: float) -> tuple[EditableModel, EditableModel, EditableModel]:
    """A model unedited, edited by the editor, and edited by the baseline, two batches each."""
    config = settings(corpus_weight=corpus_weight)
    moments = random_moments(tiny_editable())
    editor = Editor(tiny_editable(), None, config, moments, PREFIXES)
    layers = {}
    for layer, state in editor.layer_states.items():
        assert state.projector is not None
        layers[layer] = DenseLayer(
            moment=moments.layers[layer].moment,
            threshold=float(state.projector.threshold or 0),
            ridge=float(state.ridge or 0),
            corpus_weight=corpus_weight,
            dtype=torch.float64,
        )
    baseline = BaselineEditor(tiny_editable(), config, layers)
    for facts in (FACTS, LATER):
        editor.apply(facts)
        baseline.apply(
            [prepare_request(baseline.model, f, PREFIXES.of(f.language), config) for f in facts]
        )
    return tiny_editable(), editor.model, baseline.model


@pytest.mark.parametrize("corpus_weight", [0.0, 3.0])
def test_weights_after_two_batches_are_those_of_the_editor(corpus_weight: float) -> None:
    before, ours, theirs = edited(corpus_weight)
    for layer in (0, 1):
        change = ours.read_weight(layer) - before.read_weight(layer)
        other = theirs.read_weight(layer) - before.read_weight(layer)
        assert change.norm() > 0
        assert (change - other).norm() <= 2e-3 * other.norm()


@pytest.mark.parametrize("changes", [{"stop_margin": 0.1}, {"merge_shared": True}])
def test_settings_that_the_baseline_does_not_read_are_refused(changes: dict) -> None:
    (name,) = changes
    with pytest.raises(ConfigError, match=f"defaults .* got others of {name}"):
        BaselineEditor(tiny_editable(), settings(**changes), {})


def test_what_is_timed_is_one_decomposition_and_one_product_of_square_matrices() -> None:
    d = 64
    rows = torch.randn(200, d, dtype=torch.float64)
    moment = SecondMoment(count=200, mean=rows.T @ rows / 200)
    layer = DenseLayer(moment=moment, threshold=0.5, ridge=0.1)
    keys, wanted = torch.randn(2, d), torch.randn(2, 3)
    layer.remember(keys)
    layer.forbid(keys)
    profiler = Profiler()
    with profiler.stage("refresh"):
        layer.refresh()
    layer.make_exact()
    with profiler.stage("solve"):
        layer.solve(keys, wanted)
    cube = d**3
    assert profiler.costs["refresh"].flops <= (26 + 2) * cube  # textbook count of an SVD; U Uᵀ
    few = 2 * d * d * (2 + 3 + 3 + 3)
    assert profiler.costs["solve"].flops <= (2 + 2 / 3) * cube + few


def test_a_stream_of_simulated_keys(tmp_path, capsys) -> None:
    found = run_stream(tmp_path, d_in=96, d_out=8, facts=5, batches=3)
    assert found["largest_difference"] < 1e-3
    assert len(found["langedit_seconds"]) == len(found["baseline_seconds"]) == 3
    assert found["held_bytes"][-1]["dense"] == 3 * 96 * 96 * 4
    assert found["held_bytes"][-1]["langedit"] < found["held_bytes"][-1]["dense"] * 3


def test_exponents() -> None:
    assert exponent((1, 10, 100), (5, 500, 50000)) == pytest.approx(2)
    assert exponent((1, 2, 4), (3, 3, 3)) == pytest.approx(0)
