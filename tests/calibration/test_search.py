"""What is tried, where a search begins, and what the evidence suggests."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edits import settings
from tiny import tiny_editable

from langedit.calibration.bench import Trial
from langedit.calibration.layer_facts import NULL_SHARES, STRIDES, LayerStatistics, Reach
from langedit.calibration.search import (
    best_trial,
    layer_windows,
    make_space,
    require_searchable,
    search,
    suggest,
)
from langedit.calibration.start import KNOWN, Shape, nearest_start, scaled_layers
from langedit.editing.shipped import shipped_names
from langedit.errors import ConfigError

LAYERS = (0, 1, 2, 3)


def reach_of(shares: list[float], facts: int = 10) -> Reach:
    reached = torch.zeros(len(STRIDES), len(shares), facts, dtype=torch.bool)
    for layer, share in enumerate(shares):
        reached[1, layer, : round(share * facts)] = True
    return Reach(
        reached=reached,
        failed=torch.zeros_like(reached),
        names=("a fact",) * facts,
        languages=("en",) * facts,
        lengths=(8.0,) * len(shares),
    )


FOUND = reach_of([1.0, 1.0, 0.9, 0.3])


def trial_of(config, value: float | None) -> Trial:
    record = (
        None if value is None else {"facts": [{"batch": 0, "language": "en", "efficacy": value}]}
    )
    return Trial(config=config, record=record, error=None if record else "failed", seconds=1.0)


def test_windows_end_where_targets_are_reached_and_have_no_holes():
    assert layer_windows(LAYERS, FOUND.best()) == (
        (0,), (1,), (0, 1), (2,), (1, 2), (0, 1, 2),
    )  # fmt: skip
    assert layer_windows((0, 2, 3), FOUND.best()) == ((0,), (2,))
    assert layer_windows((3,), FOUND.best()) == ((3,),)
    assert max(map(len, layer_windows(range(20), [1.0] * 20))) == 6


def test_a_search_is_the_start_the_suggestion_and_then_what_follows_from_the_seed():
    space = make_space("langedit", LAYERS, FOUND, 16)
    start = settings(layers=(1,), value_lr=0.5, relative_ridge=0.1)
    suggested = {**space.point(start), "layers": (0, 1), "null_share": 0.9}

    def run(config):
        return trial_of(config, config.null_share)

    def searched(seed):
        return search(space, start, suggested, run, lambda so_far: len(so_far) < 12, seed=seed)

    trials = searched(1)
    assert len(trials) == 12
    assert trials[0].config == start
    assert (trials[1].config.layers, trials[1].config.null_share) == ((0, 1), 0.9)
    assert [t.config for t in searched(1)] == [t.config for t in trials]
    assert [t.config for t in searched(2)][2:] != [t.config for t in trials][2:]
    for trial in trials[1:]:
        for name, value in space.point(trial.config).items():
            own = space.ranges[name]
            if name == "layers":
                assert value in own.values
            elif space.point(start)[name] != value:
                assert own.low * 0.999 <= value <= own.high * 1.001
    near = [n for n in range(2, 12) if n % 3]
    for number in near:  # at most three values from the best before
        best = space.point(best_trial(trials[:number]).config)
        moved = space.point(trials[number].config)
        assert sum(best[name] != pytest.approx(moved[name], rel=2e-3) for name in best) <= 3


def test_settings_that_only_have_absolute_values_can_be_searched_from():
    space = make_space("alphaedit", LAYERS, FOUND, 16)
    start = settings(null_share=None, null_threshold=0.02, method="alphaedit")
    assert space.settings(space.point(start), start).null_threshold == 0.02
    trials = search(
        space, start, space.point(start), lambda c: trial_of(c, 0.5), lambda t: len(t) < 20
    )
    moved = [t.config for t in trials if t.config.null_share is not None]
    assert moved
    assert all(config.null_threshold is None for config in moved)


def test_the_rate_follows_the_last_layer():
    space = make_space("memit", LAYERS, FOUND, 16)
    assert "moment_weight" in space.ranges
    assert "null_share" not in space.ranges
    point = {"layers": (0, 1), "stride": 0.1, "norm_clamp": 1.0, "moment_weight": 10.0}
    config = space.settings(point, settings(method="memit"))
    assert config.value_lr == pytest.approx(0.1 * 8 / 4)
    assert {n: pytest.approx(v) for n, v in space.point(config).items()} == point


@pytest.mark.parametrize("method", ["rome", "ft", "nothing"])
def test_methods_without_anything_to_search_are_refused(method):
    with pytest.raises(ConfigError, match=f"got {method}: nothing is known to try"):
        require_searchable(method)


def test_a_failed_run_is_never_the_best():
    config = settings()
    assert best_trial([trial_of(config, None), trial_of(config, 0.0)]).record is not None


def test_the_evidence_decides_what_is_suggested():
    def statistics(left):
        return LayerStatistics(
            key_length=1.0, corpus_length=1.0, cosine=0.0, rank=3.0, spectrum=(1.0,),
            thresholds=dict.fromkeys(NULL_SHARES, 1.0),
            left=dict(zip(NULL_SHARES, left, strict=True)),
            corpus_left=dict(zip(NULL_SHARES, (0.0, 0.1, 0.5), strict=True)),
        )  # fmt: skip

    space = make_space("langedit", LAYERS, FOUND, 16)
    own = {layer: statistics((0.2, 0.8, 0.9)) for layer in LAYERS}
    point = suggest(space, settings(layers=(1,)), FOUND, own, 0)
    assert point["layers"] == (0, 1, 2)
    assert point["null_share"] == 0.7
    assert point["stride"] == STRIDES[1]
    assert suggest(space, settings(layers=(1,)), FOUND, own, None)["layers"] == (1, 2)
    wide = {layer: statistics((0.1, 0.2, 0.9)) for layer in LAYERS}
    assert suggest(space, settings(layers=(1,)), FOUND, wide, 3)["null_share"] == 0.9


def test_every_shipped_file_has_a_shape():
    assert set(KNOWN) == set(shipped_names())


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_model_starts_with_its_own_settings(name):
    start = nearest_start(KNOWN[name], "langedit")
    assert start.rate_known
    assert start.origin == f"shipped settings {name}, published for a model of this shape"
    assert start.config.null_threshold == 0.02


def test_another_model_starts_with_the_nearest_at_its_own_depth():
    qwen = Shape(model_type="qwen2", n_layers=14, d_model=2048, d_in=11008, vocab_size=151936)
    start = nearest_start(qwen, "alphaedit")
    assert "qwen2.5-7b" in start.origin
    assert not start.rate_known
    assert start.config.method == "alphaedit"
    assert start.config.layers == (2, 3, 4)
    assert start.config.null_threshold is None
    assert start.config.loss_layer is None
    other = Shape(model_type="other", n_layers=48, d_model=1600, d_in=6400, vocab_size=50257)
    assert "gpt2-xl" in nearest_start(other, "langedit").origin
    model = tiny_editable("gpt2")
    own = Shape.of(model)
    assert (own.model_type, own.n_layers, own.d_model) == ("gpt2", 3, 32)
    assert own.d_in == model.projection(0).weight.shape[0]  # of a Conv1D, which is transposed
    assert own.vocab_size == model.model.get_output_embeddings().weight.shape[0]


@pytest.mark.parametrize("changed", [{"d_in": 11008}, {"vocab_size": 32000}])
def test_depth_and_width_alone_do_not_make_a_model_the_known_one(changed):
    """Llama-2-7B has those of Llama-3-8B, but another MLP and another vocabulary."""
    start = nearest_start(replace(KNOWN["llama3-8b"], **changed), "langedit")
    assert not start.rate_known
    assert "this shape" not in start.origin
    assert "llama3-8b, the nearest" in start.origin
    assert (start.config.null_threshold, start.config.null_share) == (None, 0.5)
    assert start.config.relative_ridge == 0.02
    assert start.config.layers == (4, 5, 6, 7, 8)


def test_layers_keep_their_depth():
    assert scaled_layers((4, 5, 6, 7, 8), 32, 32) == (4, 5, 6, 7, 8)
    assert scaled_layers((4, 5, 6, 7, 8), 32, 64) == tuple(range(8, 17))
    assert scaled_layers((4, 5, 6, 7, 8), 32, 1) == (0,)
