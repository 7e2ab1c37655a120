"""Tuning: the same budget for all, on facts that are never evaluated, and a file that is read."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace

import pytest
from compare_helpers import comparison

from langedit.compare.cells import make_cells
from langedit.compare.chosen import best_of, write_chosen
from langedit.compare.draws import draw_trials
from langedit.compare.entries import TuneEntry
from langedit.compare.figures_of import means_of
from langedit.compare.grid import Outcome, run_grid
from langedit.compare.ranges import Range, read_range
from langedit.compare.reading import edit_config, read_comparison
from langedit.compare.tuning import TrialResult, make_finals, make_trials, results_of
from langedit.errors import ConfigError

TUNE = {
    "budget": 3,
    "batches": 2,
    "edits_per_batch": 1,
    "ranges": {
        "common": {"norm_clamp": [2.0, 4.0]},
        "langedit": {"null_share": {"low": 0.4, "high": 0.9}},
        "memit-seq": {"moment_weight": {"low": 0.1, "high": 10.0, "log": True}},
    },
}


@pytest.fixture(scope="module")
def tuned(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    config = comparison(ground, tuning_share=0.5, tune=TUNE)
    trials = make_trials(config, folder)
    cells = [cell for trial in trials for cell in trial.cells]
    return config, folder, trials, results_of(trials, run_grid(cells, folder))


def test_every_method_has_the_same_budget_and_begins_as_declared(tuned):
    config, _, trials, _ = tuned
    numbers = [(trial.method, trial.number) for trial in trials]
    assert numbers == [(name, n) for name in ("langedit", "memit-seq") for n in range(3)]
    for trial in trials:
        own = trial.cells[0].settings
        declared = edit_config(config, trial.method, "tiny")
        assert own == declared.replace(**trial.settings)
        assert (trial.settings == {}) == (trial.number == 0)


def test_no_tuning_fact_is_evaluated(tuned):
    config, folder, trials, _ = tuned

    def subjects(cells):
        return {fact.id for cell in cells for fact in cell.stream.facts}

    tuning = subjects(cell for trial in trials for cell in trial.cells)
    evaluation = subjects(make_cells(config, folder))
    assert tuning
    assert evaluation
    assert tuning.isdisjoint(evaluation)


def test_the_best_trial_is_the_one_with_the_largest_objective(tuned):
    *_, results = tuned
    best = best_of(results)
    assert set(best) == {"langedit", "memit-seq"}
    for name, chosen in best.items():
        own = [result.objective for result in results if result.trial.method == name]
        assert None not in own
        assert chosen.objective == max(own)


def test_the_objective_is_the_mean_of_the_four_scores(tuned):
    _, folder, trials, results = tuned
    (outcome,) = run_grid(trials[1].cells, folder)
    means = means_of(outcome.record, ("efficacy", "generalization", "specificity"))
    four = [means[name] for name in ("efficacy", "generalization", "specificity", "first_batch")]
    assert results[1].objective == pytest.approx(sum(four) / 4)


def test_the_file_holds_all_trials_and_is_read_by_a_comparison(tuned, tmp_path):
    *_, results = tuned
    write_chosen(results, tmp_path / "chosen.toml", "langedit tune 'x'")
    found = tomllib.loads((tmp_path / "chosen.toml").read_text(encoding="utf-8"))
    assert found["command"] == "langedit tune 'x'"
    assert len(found["trials"]) == 6
    assert [row["trial"] for row in found["trials"]] == [0, 1, 2] * 2
    assert all("objective" in row and "efficacy" in row for row in found["trials"])
    (tmp_path / "c.toml").write_text(
        """
languages = ["en"]
batches = 1
edits_per_batch = 1
chosen = "chosen.toml"
[common]
layers = [0]
null_share = 0.5
[models.tiny]
source = "tiny"
[methods.langedit]
[methods.memit-seq]
[datasets.atlas]
"""
    )
    chosen = read_comparison(tmp_path / "c.toml")
    for name, best in best_of(results).items():
        own = edit_config(chosen, name, "tiny")
        assert all(getattr(own, key) == value for key, value in best.trial.settings.items())
        assert "best of 3" in chosen.entry(name).chosen


def test_methods_that_are_not_tuned_again_stay_in_the_file(tuned, tmp_path):
    *_, results = tuned
    path = tmp_path / "chosen.toml"
    write_chosen(results, path, "langedit tune x")
    whole = tomllib.loads(path.read_text(encoding="utf-8"))
    again = [replace(result, scores={"mean": 0.1 * result.trial.number}) for result in results
             if result.trial.method == "langedit"]  # fmt: skip
    write_chosen(again, path, "langedit tune x --only langedit", whole)
    merged = tomllib.loads(path.read_text(encoding="utf-8"))
    assert merged["methods"]["memit-seq"] == whole["methods"]["memit-seq"]
    assert "--only langedit: objective 20.0" in merged["methods"]["langedit"]["chosen"]
    assert merged["trials"][:3] == [r for r in whole["trials"] if r["method"] == "memit-seq"]
    assert [row["objective"] for row in merged["trials"][3:]] == [0.0, 0.1, 0.2]
    assert merged["command"] == "langedit tune x; langedit tune x --only langedit"
    write_chosen(results, path, "langedit tune x", merged)  # nothing of it is left to keep
    assert tomllib.loads(path.read_text(encoding="utf-8")) == whole


def test_a_failed_trial_has_no_objective_and_is_not_chosen(tuned):
    _, _, trials, results = tuned
    outcomes = [Outcome(cell=trial.cells[0], error="broken") for trial in trials]
    failed = results_of(trials, outcomes)
    assert [result.objective for result in failed] == [None] * 6
    assert best_of(failed) == {}
    assert best_of([failed[0], *results[1:]])["langedit"].trial.number in (1, 2)


def test_a_final_runs_the_best_on_longer_streams_and_decides(tuned, ground, tmp_path):
    _, folder, _, results = tuned
    tune = {**TUNE, "final": {"trials": 2, "batches": 4, "edits_per_batch": 1}}
    config = comparison(ground, tuning_share=0.5, tune=tune)
    finals = make_finals(config, folder, results)
    assert [trial.method for trial in finals] == ["langedit"] * 2 + ["memit-seq"] * 2
    for trial in finals:
        first = next(r for r in results if (r.trial.method, r.trial.number) ==
                     (trial.method, trial.number))  # fmt: skip
        assert trial.settings == first.trial.settings
        assert trial.cells[0].settings == first.trial.cells[0].settings
        assert len(trial.cells[0].stream.batches) == 4
        better = [r for r in results if r.trial.method == trial.method
                  and r.objective > first.objective]  # fmt: skip
        assert len(better) < 2
    # The best of the first round is the worst of the second: the second decides.
    ended = [replace(result, scores={"mean": 1.0}) for result in results]
    ended += [TrialResult(trial=trial, scores={"mean": 0.1 * place}, error=None)
              for place, trial in enumerate(finals)]  # fmt: skip
    best = best_of(ended)
    assert best["langedit"].trial is finals[1]
    assert best["memit-seq"].trial is finals[3]
    write_chosen(ended, tmp_path / "chosen.toml", "langedit tune x")
    found = tomllib.loads((tmp_path / "chosen.toml").read_text(encoding="utf-8"))
    assert [row["final"] for row in found["trials"]] == [False] * 6 + [True] * 4
    assert "best of 2 in the final" in found["methods"]["langedit"]["chosen"]
    # Without one, or where all of the first round failed, there is nothing to run.
    assert make_finals(comparison(ground, tuning_share=0.5, tune=TUNE), folder, results) == ()
    failed = [replace(result, scores={}, error="broken") for result in results]
    assert make_finals(config, folder, failed) == ()


def test_draws_follow_from_the_seed_and_stay_in_range():
    tune = TuneEntry(**{**TUNE, "budget": 30})
    first, again = draw_trials(tune, "memit-seq"), draw_trials(tune, "memit-seq")
    assert first == again
    assert len(first) == 30
    weights = [settings["moment_weight"] for settings in first[1:]]
    assert all(0.1 <= weight <= 10 for weight in weights)
    assert 5 < sum(weight < 1 for weight in weights) < 25  # evenly in the logarithm
    assert draw_trials(TuneEntry(**{**TUNE, "seed": 1}), "memit-seq") != first[:3]


def test_common_ranges_of_what_a_method_does_not_read_are_left_out():
    tune = TuneEntry(**TUNE)
    assert draw_trials(tune, "memit-seq", {"moment_weight", "norm_clamp"}) == draw_trials(
        tune, "memit-seq"
    )
    assert set(draw_trials(tune, "memit-seq", {"moment_weight"})[1]) == {"moment_weight"}
    assert draw_trials(tune, "ft", {"ft_lr"}) == [{}]


def test_a_grid_takes_all_combinations_within_the_budget():
    ranges = {"common": {"ridge": [1, 2]}, "langedit": {"norm_clamp": [3.0, 4.0]}}
    tune = TuneEntry(**{**TUNE, "budget": 5, "search": "grid", "ranges": ranges})
    assert draw_trials(tune, "langedit")[0] == {}
    assert {tuple(t.values()) for t in draw_trials(tune, "langedit")[1:]} == {
        (1, 3.0), (1, 4.0), (2, 3.0), (2, 4.0),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="at most 3 combinations"):
        draw_trials(tune.model_copy(update={"budget": 4}), "langedit")
    with pytest.raises(ConfigError, match="needs listed values"):
        draw_trials(TuneEntry(**{**TUNE, "search": "grid"}), "langedit")


def test_ranges():
    assert Range(low=2, high=9, whole=True).draw(random.Random(0)) in range(2, 10)
    for wrong in ({"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1}, [], 3,
                  {"low": 0, "high": 1, "lug": True}):  # fmt: skip
        with pytest.raises(ValueError, match="expected a list of values"):
            read_range("ridge", wrong)


def test_without_a_table_or_facts_for_tuning_it_is_said(ground, tmp_path):
    with pytest.raises(ConfigError, match=r"a table \[tune\]"):
        make_trials(comparison(ground), tmp_path)
    with pytest.raises(ConfigError, match="tuning_share"):
        make_trials(comparison(ground, tune=TUNE), tmp_path)
