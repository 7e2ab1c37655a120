"""A whole calibration of a tiny model: what is written, what is kept, and that nothing leaks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from edits import random_moments, settings
from tiny import tiny_editable

from langedit.calibration import evidence, run
from langedit.calibration.bench import Bench, Trial
from langedit.calibration.budget import Budget
from langedit.calibration.evidence import _chunks, _most
from langedit.calibration.parts import split_facts
from langedit.calibration.plan import Plan
from langedit.calibration.report import NUMBERS, REPORT, SETTINGS, write_calibration
from langedit.calibration.run import calibrate
from langedit.calibration.start import Start
from langedit.cli.calibration_job import CalibrateOptions
from langedit.compare.reading import edit_config, read_comparison
from langedit.editing import EditConfig
from langedit.errors import ConfigError, FactError, NumericalError
from langedit.facts import Fact, Probe, make_batches

SUBJECTS = ("France", "Peru", "Vienna", "Rome", "Lily", "Anna", "Berlin", "Madrid")
SAMPLE = tuple(
    Fact(
        language,
        prompt,
        subject,
        target,
        paraphrases=("The water of {} is",) if language == "en" else (),
        neighbourhood=(Probe("The capital of Spain is", "Madrid"),),
        id=f"{language}-{subject}",
    )
    for language, prompt, target in (
        ("en", "The capital of {} is", "Wien"),
        ("zh", "{}的首都是", "北京"),
    )
    for subject in SUBJECTS
)
LAYERS = (0, 1)
"""That have second moments; the model has one more."""


@pytest.fixture(scope="module")
def model():
    return tiny_editable()


@pytest.fixture(scope="module")
def moments(model):
    return random_moments(model, LAYERS)


def plan(*, trials: int | None = 4, minutes: float | None = None, **changes) -> Plan:
    start = settings(
        value_steps=3, prefix_count=1, prefix_length=2, relative_ridge=0.1, layers=(0,)
    )
    return Plan(
        start=Start(config=start, origin="a test", rate_known=False),
        budget=Budget(minutes=minutes),
        trials=trials,
        batch_size=2,
        against=changes.get("against", {}),
    )


@pytest.fixture(scope="module")
def found(model, moments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langedit.calibration.effects.CONFIDENCE", 0.0)
        against = {"broken": settings(layers=(2,))}
        return calibrate(model, SAMPLE, moments, plan(against=against))


@pytest.fixture(scope="module")
def unsure(model, moments):
    """The random model answers nothing with confidence."""
    return calibrate(model, SAMPLE, moments, plan(trials=1))


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    write_calibration(found, folder, "langedit calibrate --model x")
    return folder


def test_the_model_is_as_before(model, found, moments):
    assert model.identity().weights_hash == moments.identity.weights_hash


def test_as_many_settings_are_tried_as_were_asked_for(found):
    assert len(found.trials) == 5
    assert found.trials[0].config == found.plan.start.config
    tried = [trial.config for trial in found.trials]
    assert len({config.to_toml() for config in tried}) == 5
    assert all(set(config.layers) <= set(LAYERS) for config in tried)


def test_parts_share_no_subject(found):
    parts = (found.parts.probe, found.parts.search, found.parts.confirm)
    subjects = [{fact.subject for fact in part} for part in parts]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == len(SUBJECTS)
    assert sum(map(len, parts)) == len(SAMPLE)


HAND_MADE = settings(layers=(1,), null_share=0.6)
CONFIRMING = split_facts(SAMPLE).confirm


def stub_scores(monkeypatch, start, score, clock=None, second=0.0):
    """Runs without edits: start, hand-made settings and others have chosen scores."""

    def scored(_bench, config, batches):
        facts = [fact for batch in batches for fact in batch]
        stage = "confirm" if facts[0] in CONFIRMING else "search"
        who = {start.to_toml(): "start", HAND_MADE.to_toml(): "hand"}.get(config.to_toml(), "found")
        value = score[stage, who]
        rows = [{"batch": 0, "language": f.language, "efficacy": value} for f in facts]
        if clock is not None:
            clock[0] += second * len(facts)
        return Trial(config=config, record={"facts": rows}, error=None, seconds=second * len(facts))

    monkeypatch.setattr("langedit.calibration.bench.Bench.run", scored)
    monkeypatch.setattr("langedit.calibration.figures.curve_figure", lambda *_, **__: None)


@pytest.mark.parametrize("better", [True, False])
def test_the_best_of_the_search_is_kept_only_if_it_is_confirmed(
    model, moments, tmp_path, monkeypatch, better
):
    own = plan(trials=2, against={"hand": HAND_MADE})
    own = replace(own, start=replace(own.start, rate_known=True))
    score = {
        ("search", "start"): 0.2, ("search", "found"): 0.6,
        ("confirm", "start"): 0.5, ("confirm", "found"): 0.7 if better else 0.5,
        ("confirm", "hand"): 0.6,
    }  # fmt: skip
    stub_scores(monkeypatch, own.start.config, score)
    result = calibrate(model, SAMPLE, moments, own)
    write_calibration(result, tmp_path, "langedit calibrate")
    told = (tmp_path / SETTINGS).read_text(encoding="utf-8")
    report = (tmp_path / REPORT).read_text(encoding="utf-8")
    written = EditConfig.from_toml(tmp_path / SETTINGS)
    lead = result.confirmed["hand"].leads["mean"]
    assert result.kept is not better
    if better:
        assert written == result.trials[1].config != own.start.config
        assert "**the start is kept**" not in report
        assert "that is +20.0 (+20.0 to +20.0) points from the start." in told
        assert (lead.mean, lead.low) == (pytest.approx(0.1), pytest.approx(0.1))
        verdict = "The chosen settings are better than hand: chosen minus hand is +10.0"
    else:
        assert written == own.start.config
        assert "**the start is kept**" in report
        assert "the start is kept." in told
        assert lead.mean == pytest.approx(-0.1)
        verdict = "hand is better than the chosen settings: chosen minus hand is -10.0"
    assert verdict in report
    assert verdict in told
    assert "# From a test, not searched.\nvalue_steps = 3" in told


def test_a_run_ends_inside_its_budget(model, moments, monkeypatch):
    """A minute for the runs, by a clock that only they move, and no time for one run more."""
    clock, second = [0.0], 0.5
    own = replace(plan(trials=None), budget=Budget(minutes=1.0, clock=lambda: clock[0]))
    score = {(stage, "found"): 0.5 for stage in ("search", "confirm")}
    score |= {(stage, "start"): 0.2 for stage in ("search", "confirm")}
    own = replace(own, start=replace(own.start, rate_known=True))
    stub_scores(monkeypatch, own.start.config, score, clock, second)
    result = calibrate(model, SAMPLE, moments, own)
    assert len(result.trials) > 3
    one, last = (second * len(part) for part in (result.parts.search, result.parts.confirm))
    assert clock[0] <= 60
    assert clock[0] + one > 60 - 0.2 * 2 * last  # the margin of two confirmations


def test_layers_without_moments_are_told(model, moments):
    start = Start(config=settings(layers=(1, 2)), origin="a test", rate_known=True)
    cut = run._usable(start, moments, model)
    assert cut.config.layers == (1,)
    assert cut.origin.startswith("a test, but with layers [1] instead of [1, 2], because the")
    moved = run._usable(replace(start, config=settings(layers=(2,))), moments, model)
    assert moved.config.layers == (1,)
    fits = replace(start, config=settings(layers=(0, 1)))
    assert run._usable(fits, moments, model) is fits


def test_settings_that_fail_are_reported(found):
    broken = found.confirmed["broken"]
    assert broken.trial.record is None
    assert broken.trial.error
    assert broken.intervals == broken.leads == {}


def test_nothing_is_claimed_of_settings_that_fail(written):
    text = (written / REPORT).read_text(encoding="utf-8")
    assert "Nothing can be said against broken: one of the two runs failed." in text


def test_two_runs_are_equal(model, moments, unsure):
    first, second = unsure, calibrate(model, SAMPLE, moments, plan(trials=1))
    assert [t.config for t in first.trials] == [t.config for t in second.trials]
    assert [t.scores for t in first.trials] == [t.scores for t in second.trials]
    assert torch.equal(first.evidence.reach.reached, second.evidence.reach.reached)


def test_a_spent_budget_still_gives_two_runs(model, moments):
    short = calibrate(model, SAMPLE, moments, plan(trials=None, minutes=1e-9))
    assert len(short.trials) == 2
    assert len(short.evidence.reach.languages) <= evidence._CHUNK


def test_languages_of_which_nothing_is_known_are_named(unsure, tmp_path, monkeypatch):
    monkeypatch.setattr("langedit.calibration.figures.curve_figure", lambda *_, **__: None)
    assert unsure.evidence.effects == {}
    assert set(unsure.evidence.asked) == {"en", "zh"}
    write_calibration(unsure, tmp_path, "langedit calibrate")
    assert "Not traced: en, zh." in (tmp_path / REPORT).read_text(encoding="utf-8")
    assert not (tmp_path / "tracing-mlp.png").exists()


def test_why_runs_of_the_search_failed_is_told(unsure, tmp_path, monkeypatch):
    monkeypatch.setattr("langedit.calibration.figures.curve_figure", lambda *_, **__: None)
    start, second, *others = unsure.trials
    error = "expected a finite target loss, got nan at evaluation 3 of Peru"
    failed = replace(second, record=None, error=error)
    told = replace(unsure, trials=(start, failed, *others))
    write_calibration(told, tmp_path, "langedit calibrate")
    report = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert "of which 1 failed; best first" in report
    assert f"\n\nRun 1 failed: {error}" in report


@pytest.mark.parametrize("facts", [0, 1, 2])
def test_facts_whose_targets_overflow_are_told(unsure, tmp_path, monkeypatch, facts):
    """Each once, however many layers and steps it failed at."""
    monkeypatch.setattr("langedit.calibration.figures.curve_figure", lambda *_, **__: None)
    failed = torch.zeros_like(unsure.evidence.reach.failed)
    failed[:, :2, :facts] = True
    reach = replace(unsure.evidence.reach, failed=failed)
    told = replace(unsure, evidence=replace(unsure.evidence, reach=reach))
    write_calibration(told, tmp_path, "langedit calibrate")
    report = (tmp_path / REPORT).read_text(encoding="utf-8")
    tried = f"Share of {len(reach.languages)} facts, in percent, whose target becomes more probable"
    assert tried in report
    sentence = (
        f"with the step that is best. Of these facts, {facts} had a loss or target that was not "
        "finite at some layer and step, where they count as not reached: "
        f"{'; '.join(reach.names[:facts])}.\n"
    )
    assert (sentence in report) is (facts > 0)
    assert ("not finite" in report) is (facts > 0)
    numbers = json.loads((tmp_path / NUMBERS).read_text(encoding="utf-8"))
    assert numbers["not_finite"] == list(reach.names[:facts])


def test_the_files_hold_what_was_found(found, written):
    assert EditConfig.from_toml(written / SETTINGS) == found.chosen
    text = (written / SETTINGS).read_text(encoding="utf-8")
    length = f"streams of about {len(found.parts.search)} edits"
    assert length in text
    assert length in (written / REPORT).read_text(encoding="utf-8")
    assert "# Targets reached at layers 0 to 2:" in text
    report = (written / REPORT).read_text(encoding="utf-8")
    figures = [part.split(")")[0] for part in report.split("](")[1:]]
    assert {"tracing-mlp.png", "tracing-hidden.png", "reachability.png", "spectra.png"} <= set(
        figures
    )
    assert all((written / name).stat().st_size > 1000 for name in figures if name.endswith("png"))
    kept = json.loads((written / NUMBERS).read_text(encoding="utf-8"))
    assert len(kept["trials"]) == 5
    assert len(kept["effects"]["all"]["mlp"]) == 3


def test_a_comparison_reads_the_settings(found, written, tmp_path):
    (tmp_path / "own.toml").write_text(
        'languages = ["en"]\nbatches = 1\nedits_per_batch = 1\nseeds = [0]\n'
        f'[models.m]\nsource = "bundled"\nsettings_file = "{written / SETTINGS}"\n'
        "[methods.langedit]\n[datasets.atlas]\n",
        encoding="utf-8",
    )
    config = read_comparison(tmp_path / "own.toml")
    assert edit_config(config, "langedit", "m") == found.chosen


def test_too_few_facts_are_refused(model, moments):
    with pytest.raises(FactError, match="at least 5 subjects in each language"):
        calibrate(model, SAMPLE[:2], moments, plan())


def test_settings_that_cannot_edit_at_all_are_an_error(model, moments, monkeypatch):
    monkeypatch.setattr(
        "langedit.calibration.run.search",
        lambda space, start, suggested, run, goes_on, seed: [run(start.replace(layers=(2,)))],
    )
    with pytest.raises(ConfigError, match="expected settings with which the model can be edited"):
        calibrate(model, SAMPLE, moments, plan())


def test_a_trial_scores_as_an_edit_does(model, moments, monkeypatch):
    """A control: better settings score better, and a failed batch leaves the weights alone."""
    bench = Bench(model, moments)
    batches = make_batches(SAMPLE, 4)
    weak = settings(layers=(1,), value_steps=1, prefix_count=1, prefix_length=2)
    strong = weak.replace(value_steps=25, value_lr=0.5, norm_clamp=3.0, ridge=1e-4)
    assert (
        bench.run(strong, batches).scores["efficacy"] > bench.run(weak, batches).scores["efficacy"]
    )

    def fail(*_args):
        raise NumericalError("no score")

    monkeypatch.setattr("langedit.calibration.bench.score_facts", fail)
    failed = bench.run(strong, batches)
    assert failed.error == "no score"
    assert failed.objective < 0
    assert model.identity().weights_hash == moments.identity.weights_hash


def test_the_first_lot_has_a_fact_of_every_language():
    codes = [
        "en",
        "de",
        "nl",
        "es",
        "fr",
        "zh",
        "it",
        "pt",
        "ru",
        "ja",
        "ko",
        "ar",
        "hi",
        "tr",
        "vi",
        "pl",
        "cs",
        "sv",
        "fi",
        "el",
    ]
    facts = [Fact(code, "{} is", f"s{i}", "t") for i in range(3) for code in codes]
    spent = plan(trials=None, minutes=1e-9)
    (lot,) = _chunks(facts, spent, 0.1)
    assert [fact.language for fact in lot] == codes
    assert [len(own) for own in _chunks(facts, plan(trials=1), 0.1)] == [20, 12, 12, 12, 4]
    assert len(_most(facts, 5)) == 20


def test_the_command_says_what_the_result_depends_on(tmp_path):
    options = CalibrateOptions(
        model="m", facts=tmp_path / "f.jsonl", output=tmp_path, dtype="float32", strict=True,
        device_map="auto", revision="r", against=("a.toml",), batch_size=10,
    )  # fmt: skip
    for words in ("--dtype float32", "--device-map auto", "--revision r", "--strict"):
        assert words in options.command
    plain = CalibrateOptions(model="m", facts=tmp_path / "f.jsonl", output=tmp_path).command
    assert plain == f"langedit calibrate --model m --facts {tmp_path / 'f.jsonl'} --budget 20"
