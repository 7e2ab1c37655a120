"""`langedit compare` and `langedit tune` on a tiny checkpoint; the shipped quick comparison."""

from __future__ import annotations

import csv
import json
import tomllib

import pytest
from compare_helpers import write_ground

from langedit.cli.comparison import CompareOptions, compare
from langedit.compare import reading

CONFIG = """
languages = ["en", "de"]
batches = 2
edits_per_batch = 2
perplexity_texts = 2
resamples = 50
tuning_share = 0.5
[common]
layers = [0, 1]
null_share = 0.7
value_steps = 3
prefix_count = 1
prefix_length = 2
[models.tiny]
source = "tiny"
dtype = "float32"
text = ["text"]
[methods.langedit]
[methods.memit-seq]
moment_weight = 1.0
[datasets.own]
files = ["facts.jsonl"]
[tune]
budget = 2
batches = 2
edits_per_batch = 1
[tune.ranges.common]
norm_clamp = [1.0, 2.0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_ground(folder)
    (folder / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    return folder


def test_compare_prints_a_table_and_writes_csv_and_report(langedit, folder, tmp_path):
    config, output, report = folder / "tiny.toml", tmp_path / "out", tmp_path / "results.md"
    out, err = langedit.ok("compare", config, "--output", output, "--report", report)
    assert "3 of 3 runs are done, 0 failed." in out
    assert "What the scores mean" in out
    assert "mean of efficacy, generalization" in out
    assert "own on tiny" in out
    assert "batch 2/2" in err
    rows = csv.DictReader((output / "results.csv").read_text(encoding="utf-8").splitlines())
    assert {row["method"] for row in rows} == {"unedited", "langedit", "memit-seq"}
    assert f"langedit compare {config}" in report.read_text(encoding="utf-8")
    again, err = langedit.ok("compare", config, "--output", output, "--only", "langedit")
    assert "2 of 2 runs are done" in again
    assert "begins" not in err


STAGES = {"open", "hash", "prepare", "targets", "keys", "solve", "advance", "report"}


def records(output):
    found = [json.loads(path.read_text()) for path in (output / "cells").glob("*.json")]
    return {record["settings"]["method"]: record for record in found if record["settings"]}


def test_profiles_are_in_the_files_of_cells_and_never_run_one_again(langedit, folder, tmp_path):
    config, output = folder / "tiny.toml", tmp_path / "out"
    langedit.ok("compare", config, "--output", output, "--only", "langedit")
    plain = records(output)
    out, err = langedit.ok("compare", config, "--output", output, "--profile")
    assert err.count("begins") == 1  # what is there without a profile stays
    assert "Cost by stage" in out
    assert "2 of 3 runs were done without a profile, and stay." in out
    profiled = records(output)
    assert profiled["langedit"] == plain["langedit"]
    assert "profile" not in plain["langedit"]
    profile = profiled["memit-seq"]["profile"]
    asked = {"prefixes", "probe", "scores", "aligned facts", "perplexity"}
    assert set(profile) == STAGES | asked
    assert profile["targets"]["calls"] == 2
    assert all(profile[name]["flops"] > 0 for name in ("targets", "solve", "scores"))
    out, err = langedit.ok("compare", config, "--output", output)  # nor is it lost
    assert "begins" not in err
    assert "Cost by stage" not in out
    assert records(output) == profiled


def test_the_figures_are_the_same_with_a_profile(langedit, folder, tmp_path):
    config, one, other = folder / "tiny.toml", tmp_path / "one", tmp_path / "other"
    langedit.ok("compare", config, "--output", one, "--only", "langedit")
    langedit.ok("compare", config, "--output", other, "--only", "langedit", "--profile")
    plain, profiled = (records(output)["langedit"] for output in (one, other))
    assert set(profiled) == {*plain, "profile"}
    assert plain["key"] == profiled["key"]
    for name in ("facts", "retention", "interference", "transfer", "perplexity"):
        assert plain[name] == profiled[name]


def test_tune_prints_what_all_trials_cost(langedit, folder, tmp_path):
    config, output = folder / "tiny.toml", tmp_path / "out"
    out, _ = langedit.ok("tune", config, "--output", output, "--only", "langedit", "--profile")
    assert "Cost by stage" in out
    found = [json.loads(path.read_text()) for path in (output / "cells").glob("*.json")]
    assert len(found) == 2
    assert all(set(record["profile"]) >= STAGES for record in found)


def test_a_failing_run_ends_with_1_and_its_error(langedit, folder, tmp_path):
    config = folder / "failing.toml"
    config.write_text(f"{CONFIG}\n[methods.memit]\nlayers = [0, 9]\n", encoding="utf-8")
    code, out, err = langedit("compare", config, "--output", tmp_path / "out")
    assert code == 1
    assert "FAILED tiny / memit / own / seed 0: layers: expected indices from 0 to 2" in out
    assert "3 of 4 runs are done, 1 failed." in out
    assert "FAILED" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[methods.langedit]", "[methods.langedot]"), "did you mean 'langedit'"),
        (("[datasets.own]\nfiles", "[datasets.atlass]\ntext"), "did you mean 'atlas'"),
        (("batches = 2", 'schedule = "paralel"\nbatches = 2'), "did you mean 'parallel'"),
        (("facts.jsonl", "fact.jsonl"), "cannot read"),
        (("batches = 2", "batches = 3"), "share evenly"),
        (("null_share = 0.7", "null_shore = 0.7"), "null_share"),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(langedit, folder, tmp_path, change, message):
    config = folder / "bad.toml"
    config.write_text(CONFIG.replace(*change, 1), encoding="utf-8")
    code, _, err = langedit("compare", config, "--output", tmp_path / "out")
    assert code == 2, err
    assert message in err
    assert not (tmp_path / "out" / "cells").exists()


def test_unknown_names_and_places_end_with_2(langedit, folder, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (("quik",), "did you mean 'quick'"),
        ((folder / "tiny.toml", "--only", "langedt"), "did you mean 'langedit'"),
        ((folder / "tiny.toml", "--output", tmp_path / "file"), "expected a folder, got a file"),
    ):
        code, _, err = langedit("compare", *arguments)
        assert code == 2
        assert message in err


def test_tune_writes_what_compare_reads(langedit, folder, tmp_path):
    written = tmp_path / "chosen.toml"
    config, output = folder / "tiny.toml", tmp_path / "out"
    out, _ = langedit.ok("tune", config, "--output", output, "--write", written)
    assert "Objective in percent" in out
    found = tomllib.loads(written.read_text(encoding="utf-8"))
    assert len(found["trials"]) == 4
    assert set(found["methods"]) == {"langedit", "memit-seq"}
    _, err = langedit.ok("tune", config, "--output", output, "--write", written)
    assert "begins" not in err
    langedit.ok("tune", config, "--output", output, "--write", written, "--only", "langedit")
    merged = tomllib.loads(written.read_text(encoding="utf-8"))
    assert merged["methods"]["memit-seq"] == found["methods"]["memit-seq"]
    assert set(merged["methods"]) == set(found["methods"])
    with_chosen = folder / "with-chosen.toml"
    with_chosen.write_text(f'chosen = "{written}"\n{CONFIG}', encoding="utf-8")
    report = tmp_path / "r.md"
    langedit.ok("compare", with_chosen, "--output", output, "--report", report)
    text = report.read_text(encoding="utf-8")
    assert "How settings were tuned" in text
    assert "best of 2 by langedit tune" in text


def test_quick_runs_on_a_small_slice(tmp_path, monkeypatch):
    real = reading.read_comparison

    def small(source, **changes):
        return real(
            source,
            **changes,
            batches=6,
            edits_per_batch=1,
            transfer_sample=1,
            perplexity_texts=2,
            resamples=50,
        )

    monkeypatch.setattr("langedit.cli.comparison.read_comparison", small)
    found = compare(CompareOptions(config="quick", output=tmp_path, only=("langedit",)))
    control, edited = found.outcomes
    assert control.error is None
    before, after = (
        sum(fact["efficacy"] for fact in own.record["facts"]) / 6 for own in (control, edited)
    )
    assert after > before + 0.2
