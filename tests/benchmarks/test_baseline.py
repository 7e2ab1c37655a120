"""The straightforward implementation gives the editor's results."""

from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable

from benchmarks import methods
from benchmarks.baseline import (
    BaselineEditor,
    DenseLayer,
    baseline_answers,
    baseline_keys,
    baseline_moments,
    baseline_target,
)
from benchmarks.held import held_bytes
from benchmarks.page import SECTIONS
from benchmarks.streams import Stream, exponent, make_method, run_stream
from benchmarks.world import SimulatedKeys
from langedit.editing import (
    Editor,
    collect_moments,
    compute_keys,
    optimise_targets,
    prepare_request,
)
from langedit.editing.methods import LayerState
from langedit.errors import ConfigError, NumericalError
from langedit.evaluation import forced_answers
from langedit.linalg import SecondMoment, Spectrum
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


def test_scores_and_moments_one_text_at_a_time_are_those_of_the_package() -> None:
    model = tiny_editable("llama")
    items = [((30, 31, 32), (40,)), ((50,), (41, 42))]
    for ours, theirs in zip(
        forced_answers(model, items), baseline_answers(model, items), strict=True
    ):
        assert ours.predicted == theirs.predicted
        assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-5)
    texts = ["Paris is in France", "The water is in Peru", "Anna"]
    found = collect_moments(model, [("en", text) for text in texts], [0, 1])
    for layer, mean in baseline_moments(model, texts, [0, 1]).items():
        own = found.layers[layer].moment.mean.to(mean)
        assert (own - mean).norm() <= 1e-5 * own.norm()


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
    found = run_stream(tmp_path, d_in=256, d_out=8, facts=5, batches=3)
    assert found["largest_difference"] < 1e-3
    for name in ("langedit_seconds", "corpus_weight_seconds", "baseline_seconds"):
        assert len(found[name]) == 3
    last = found["held_bytes"][-1]
    assert last["dense"] == 3 * 256 * 256 * 4
    vectors = round(0.6 * 256) * 256 * 8  # of the null space, in float64
    assert vectors <= last["corpus_weight"] - last["langedit"] <= 1.2 * vectors


def test_bytes_held_are_those_of_the_storages() -> None:
    base = torch.zeros(10, 4)
    assert held_bytes(base, base[:2], {"a": [base.T]}) == 160
    assert held_bytes((base, torch.zeros(3))) == 172
    keys = SimulatedKeys(512)
    moment = keys.moment(1)
    moment = moment.with_spectrum(Spectrum.of(moment.mean))
    stream = Stream.begin(moment, 128, make_method())
    rank = stream.state.projector.rank
    for _ in range(3):
        stream.edit(keys.draw(4), torch.randn(4, 128))
    weights = 2 * 128 * 512 * 4
    least = (rank + 12) * 512 * 8 + 12 * 512 * 4 + weights
    assert least <= stream.held_bytes()


def test_a_layer_of_few_forbidden_directions_holds_less_than_three_stacks() -> None:
    d = 512
    projector = SimulatedKeys(d).projector(d // 8)
    state = LayerState(history=torch.zeros(0, d), projector=projector, ridge=0.1)
    base = torch.zeros(64, d)
    stream = Stream(method=make_method(), state=state, base=base, weight=base, opening=0.0)
    for _ in range(3):
        stream.edit(SimulatedKeys(d).draw(4), torch.randn(4, 64))
    assert stream.held_bytes() < 3 * d * d * 4
    full = LayerState(history=torch.zeros(0, d), projector=SimulatedKeys(d).projector(d - 8))
    assert held_bytes(full, full.projector.dense()) > 3 * d * d * 4  # the test can fail


def test_exponents() -> None:
    assert exponent((1, 10, 100), (5, 500, 50000)) == pytest.approx(2)
    assert exponent((1, 2, 4), (3, 3, 3)) == pytest.approx(0)


def test_streams_of_all_closed_forms(tmp_path, capsys) -> None:
    whole = methods.run(tmp_path, d_in=256, d_out=8, facts=5, batches=4)
    found = whole["methods"]
    assert list(found) == ["langedit", "alphaedit", "memit", "memit-seq"]
    assert all(len(own["seconds"]) == 4 for own in found.values())
    assert all(own["difference"] < 2e-7 for name, own in found.items() if name != "langedit")
    assert [name for name, own in found.items() if "whole_history_seconds" in own] == [
        "alphaedit",
        "memit-seq",
    ]
    edits = len(whole["long"]["methods"]["memit-seq"]["seconds"]) * 5
    assert 1.5 * 128 <= edits < 1.5 * 128 + 5
    page = "\n".join(SECTIONS["methods"](whole, tmp_path))
    rows = [line for line in page.splitlines() if line.startswith("| `memit-seq`")]
    assert len(rows) == 2  # its times, and its goal
    assert f"| {edits:,} | " in page
    assert "are 1 MiB" in page  # 3 * 256² * 4 bytes, rounded


def test_a_stream_that_differs_from_the_dense_solve_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(methods, "MOMENT_WEIGHT", 11.0)  # of the dense solve alone
    with pytest.raises(NumericalError, match="memit: expected updates equal to 1e-06"):
        methods.run(tmp_path, d_in=128, d_out=8, facts=5, batches=3)
