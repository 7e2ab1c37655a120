"""The grid on a tiny model: what is kept, what is resumed, what a failure leaves behind."""

from __future__ import annotations

import csv
import json
import math

import pytest
from compare_helpers import SETTINGS, comparison

from langedit.compare import grid as grid_module
from langedit.compare.cells import make_cells, retention_points
from langedit.compare.figures_of import (
    interference_of,
    means_of,
    retention_curve,
    transfer_of,
)
from langedit.compare.files import read_json, write_json
from langedit.compare.grid import finished, run_grid
from langedit.compare.ground import Ground
from langedit.compare.locks import try_lock
from langedit.compare.measure import measure
from langedit.compare.tidy import write_csv
from langedit.editing import Editor
from langedit.editing.methods.memit_seq import MemitSeq
from langedit.errors import ConfigError, OutputError
from langedit.evaluation import METRICS, Questions, Scores, ask, cell_values, score_facts


@pytest.fixture(scope="module")
def done(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    config = comparison(ground, seeds=(0, 1))
    cells = make_cells(config, folder)
    return config, folder, cells, run_grid(cells, folder)


def test_every_cell_has_one_whole_file(done):
    _, folder, cells, outcomes = done
    assert [cell.method for cell in cells[:3]] == ["unedited", "langedit", "memit-seq"]
    assert len(cells) == 6
    assert {path.stem for path in (folder / "cells").iterdir()} == {cell.key for cell in cells}
    for cell, outcome in zip(cells, outcomes, strict=True):
        assert outcome.error is None
        assert outcome.record == read_json(folder / "cells" / f"{cell.key}.json")


def test_a_record_says_what_ran_on_what(done):
    _, _, cells, outcomes = done
    record = outcomes[1].record
    assert record["settings"]["method"] == "langedit"
    assert record["data"]["fingerprint"] == cells[1].stream.fingerprint
    assert record["model"]["weights_hash"] == cells[1].ground.identity.weights_hash
    assert {"langedit", "torch", "transformers", "python"} <= set(record["versions"])
    assert record["hardware"]["cores"] >= 1
    assert {"load", "edit", "probe", "scores"} <= set(record["seconds"])
    assert all(peak["process"] > 10**6 for peak in record["peak_bytes"].values())
    assert [batch["after"] for batch in record["batches"]] == [1, 2]
    assert len(record["facts"]) == 4
    assert set(record["perplexity"]) == {"en", "de"}


def test_scores_that_compare_with_the_unedited_model_and_ones_that_are_no_share(done, tmp_path):
    config, *_ = done
    metrics = ("efficacy", "specificity", "agreement", "fluency")
    cells = make_cells(config.replace(metrics=metrics, seeds=(0,)), tmp_path, only=("langedit",))
    control, edited = (outcome.record for outcome in run_grid(cells, tmp_path))
    assert {fact["agreement"] for fact in control["facts"]} == {1.0}
    model = cells[0].ground.load()
    questions = Questions.of(model, cells[0].stream.facts, metrics)
    before = ask(model, questions)
    settings = cells[1].settings
    prefixes = cells[1].ground.prefixes(settings, ("en", "de"))
    editor = Editor(model, None, settings, cells[1].ground.moments, prefixes)
    for batch in cells[1].stream.batches:
        editor.apply(batch)
    for own, expected in zip(edited["facts"], ask(model, questions).values(before), strict=True):
        assert {name: own[name] for name in metrics} == expected
    assert edited["definitions"]["agreement"] == METRICS["agreement"].definition
    assert {"first_batch", "mean", "perplexity"} <= set(edited["definitions"])


def test_the_control_has_the_base_rate(done):
    _, _, cells, outcomes = done
    model = cells[0].ground.load()
    base = Scores.of(score_facts(model, cells[0].stream.facts))
    found = means_of(outcomes[0].record, ("efficacy", "specificity"))
    assert found["efficacy"] == pytest.approx(base.efficacy)
    assert found["specificity"] == pytest.approx(base.specificity)
    assert outcomes[0].record["batches"] == []


def test_the_identity_update_scores_like_the_control(done, tmp_path, monkeypatch):
    config, _, _, outcomes = done
    solve = MemitSeq.solve
    monkeypatch.setattr(
        MemitSeq,
        "solve",
        lambda self, state, keys, residuals: solve(self, state, keys, 0 * residuals),
    )
    cells = make_cells(config, tmp_path, only=("memit-seq",))
    same = run_grid(cells, tmp_path)[1].record
    control, edited = outcomes[0].record, outcomes[2].record
    for part in ("facts", "transfer", "perplexity"):
        assert same[part] == control[part]
    assert edited["perplexity"] != control["perplexity"]  # the real method does change the model
    assert {score.value for score in interference_of(same)} == {0.0}


def test_earlier_facts_are_asked_again(done):
    record = done[3][1].record
    assert [point["after"] for point in record["retention"]] == [1, 2]
    assert [list(map(len, point["efficacy"])) for point in record["retention"]] == [[2], [2, 2]]
    at_the_end = [value for batch in record["retention"][-1]["efficacy"] for value in batch]
    assert at_the_end == [fact["efficacy"] for fact in record["facts"]]
    assert retention_curve(record)[0][0] == 1
    assert set(cell_values(interference_of(record))) == {("en", "de")}
    found = cell_values(transfer_of(record))
    assert set(found) == {(a, b) for a in ("en", "de") for b in ("en", "de")}
    assert [len(values[0]) for values in found.values()] == [2] * 4


def test_started_again_it_runs_only_what_is_missing(done, monkeypatch):
    _, folder, cells, outcomes = done
    lost = cells[4]
    (folder / "cells" / f"{lost.key}.json").unlink()
    ran = []

    def counted(cell, say):
        ran.append(cell.name)
        return measure(cell, say)

    again = run_grid(cells, folder, measure_cell=counted)
    assert ran == [lost.name]
    for old, new in zip(outcomes, again, strict=True):
        assert new.record["facts"] == old.record["facts"]
        assert new.record["retention"] == old.record["retention"]


def test_a_killed_run_leaves_the_finished_cells(ground, done, tmp_path):
    config, *_ = done
    cells = make_cells(config, tmp_path)

    def killed(cell, say):
        if cell.method == "memit-seq":
            raise KeyboardInterrupt
        return measure(cell, say)

    with pytest.raises(KeyboardInterrupt):
        run_grid(cells, tmp_path, measure_cell=killed)
    assert sorted(path.suffix for path in (tmp_path / "cells").iterdir()) == [".json", ".json"]
    assert [outcome.record is not None for outcome in finished(cells, tmp_path)][:3] == [
        True,
        True,
        False,
    ]


def test_what_decides_figures_is_in_the_key_and_names_are_not(ground, done):
    config, folder, cells, _ = done

    def key(**changes):
        return make_cells(config.replace(**changes), folder, only=("langedit",))[1].key

    own = cells[1].key
    assert key() == key(retention=1) == own  # two batches: the first and the last in any case
    assert key(models={"other": config.models["tiny"]}, reference=None) == own
    entry = config.models["tiny"]
    text = entry.model_copy(update={"moment_tokens": 20})
    keys = [
        key(common={**SETTINGS, "ridge": 0.02}),
        key(metrics=("efficacy",)),
        key(interference_sample=2),
        key(transfer_sample=0),
        key(seeds=(1,)),
        key(batches=4),
        key(models={"tiny": text}),
        key(methods={"langedit": {"prefix_language": "en"}}),
    ]
    assert len({own, *keys}) == len(keys) + 1


def test_english_prefixes_are_used_for_every_language(ground, done, tmp_path):
    config, *_ = done
    cells = make_cells(
        config.replace(methods={"langedit": {"prefix_language": "en"}}, seeds=(0,)), tmp_path
    )
    record = run_grid(cells, tmp_path)[1].record
    (file,) = (tmp_path / "prefixes").iterdir()
    assert list(json.loads(file.read_text(encoding="utf-8"))) == ["en"]
    assert record["prefixes_in"] == "en"
    assert record["facts"] != done[3][1].record["facts"] or (
        record["batches"][1]["facts"] != done[3][1].record["batches"][1]["facts"]
    )


def test_a_failing_cell_is_reported_and_the_others_go_on(done, tmp_path):
    config, *_ = done
    said: list[str] = []
    methods = {"deep": {"method": "memit", "layers": [0, 9]}, "memit-seq": {}}
    config = config.replace(methods=methods, seeds=(0,))
    cells = make_cells(config, tmp_path)
    control, deep, good = run_grid(cells, tmp_path, say=said.append)
    assert control.error is None
    assert good.record is not None
    assert "layers: expected indices from 0 to 2" in deep.error
    (file,) = (tmp_path / "failed").iterdir()
    kept = read_json(file)
    assert (kept["cell"], kept["key"]) == (deep.cell.name, deep.cell.key)
    assert "Traceback" in kept["traceback"]
    assert kept["error"] == deep.error
    assert any("FAILED" in line for line in said)
    assert [outcome.error for outcome in finished(cells, tmp_path)] == [None, deep.error, None]


def test_a_program_error_fails_its_cell_alone_and_is_tried_again(done, tmp_path):
    config, *_ = done
    cells = make_cells(config.replace(seeds=(0,)), tmp_path)

    def broken(cell, say):
        if cell.method == "langedit":
            raise RuntimeError("out of memory")
        return measure(cell, say)

    outcomes = run_grid(cells, tmp_path, measure_cell=broken)
    assert [outcome.error for outcome in outcomes] == [None, "RuntimeError: out of memory", None]
    again = run_grid(cells, tmp_path)
    assert [outcome.error for outcome in again] == [None, None, None]
    assert list((tmp_path / "failed").iterdir()) == []


def test_a_model_that_cannot_be_loaded_fails_its_cells_alone(ground, done, tmp_path, monkeypatch):
    config, *_ = done
    load = Ground._loaded
    broken = config.models["tiny"].model_copy(update={"source": str(ground / "no-such-folder")})
    config = config.replace(models={"broken": broken, **config.models}, seeds=(0,))
    cells = make_cells(config, tmp_path, only=("memit-seq",))
    loads = []
    monkeypatch.setattr(Ground, "_loaded", lambda self: loads.append(self.name) or load(self))
    outcomes = run_grid(cells, tmp_path)
    assert loads.count("broken") == 1
    kept = [read_json(file) for file in (tmp_path / "failed").iterdir()]
    assert sorted(own["cell"] for own in kept) == sorted(cell.name for cell in cells[:2])
    assert all("no-such-folder" in own["error"] and "Traceback" in own["traceback"] for own in kept)
    assert [outcome.error for outcome in finished(cells, tmp_path)] == [o.error for o in outcomes]
    assert ["no-such-folder" in (outcome.error or "") for outcome in outcomes] == [
        True,
        True,
        False,
        False,
    ]
    assert outcomes[-1].record is not None


def test_a_cell_of_another_process_is_waited_for_or_left(done, tmp_path, monkeypatch):
    config, _folder, _cells, outcomes = done
    cell = make_cells(config.replace(seeds=(0,)), tmp_path, only=("memit-seq",))[0]
    with try_lock(tmp_path / "cells" / f"{cell.key}.lock"):
        (left,) = run_grid([cell], tmp_path, wait=False)
        assert (left.record, left.error) == (None, None)

        def other_process_ends(_seconds):
            write_json(tmp_path / "cells" / f"{cell.key}.json", outcomes[0].record)

        monkeypatch.setattr(grid_module.time, "sleep", other_process_ends)
        (waited,) = run_grid([cell], tmp_path)
    assert waited.record == outcomes[0].record


def test_a_damaged_file_fails_its_cell_alone(done, tmp_path):
    config, _, _, outcomes = done
    cell, other = make_cells(config, tmp_path)[:2]
    path = tmp_path / "cells" / f"{cell.key}.json"
    path.parent.mkdir()
    path.write_text("{")
    write_json(path.with_name(f"{other.key}.json"), outcomes[1].record)
    failed, good = run_grid([cell, other], tmp_path)
    assert "remove the file" in failed.error
    assert good.record == outcomes[1].record
    assert [own.error for own in finished([cell, other], tmp_path)] == [failed.error, None]
    path.write_text('{"key": "another", "format": 1}')
    assert "expected the result of cell" in run_grid([cell], tmp_path)[0].error
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):  # nothing can be written there
        run_grid([cell], tmp_path / "file")


def test_a_failure_of_other_settings_under_the_same_name_is_not_told(done, tmp_path):
    config, *_ = done
    old, new = (
        make_cells(config.replace(common={**SETTINGS, "ridge": ridge}), tmp_path)[1]
        for ridge in (1.0, 2.0)
    )
    run_grid([old], tmp_path, measure_cell=lambda cell, say: 1 / 0)
    assert [own.error is None for own in finished([old, new], tmp_path)] == [False, True]


def test_only_takes_methods_by_name(done, tmp_path):
    config, *_ = done
    cells = make_cells(config, tmp_path, only=("memit-seq",))
    assert {cell.method for cell in cells} == {"unedited", "memit-seq"}
    with pytest.raises(ConfigError, match="did you mean 'memit-seq'"):
        make_cells(config, tmp_path, only=("memit-sek",))


def test_ablations_may_have_fewer_seeds(done, tmp_path):
    config, *_ = done
    config = config.replace(ablations={"pooled": {"base": "langedit"}}, ablation_seeds=(1,))
    found = [(cell.method, cell.seed) for cell in make_cells(config, tmp_path)]
    assert ("pooled", 1) in found
    assert ("pooled", 0) not in found
    assert ("langedit", 0) in found


def test_moments_and_prefixes_are_made_once(done, ground):
    config, folder, cells, _ = done
    first = cells[1].ground
    before = sorted(folder.rglob("*"))
    fresh = make_cells(config, folder)[1].ground
    said: list[str] = []
    object.__setattr__(fresh, "say", said.append)
    assert fresh.moments.corpus == first.moments.corpus
    assert fresh.identity == first.identity
    assert said == []
    settings = cells[1].settings
    assert fresh.prefixes(settings, ("en", "de")) == first.prefixes(settings, ("en", "de"))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("wanted", "batches", "points"),
    [
        (4, 24, (1, 6, 12, 18, 24)),
        (1, 24, (1, 24)),
        (99, 3, (1, 2, 3)),
        ((2, 50), 4, (1, 2, 4)),
        (6, 1, (1,)),
    ],
)
def test_retention_points(wanted, batches, points):
    assert retention_points(wanted, batches) == points


def test_the_table_has_one_row_a_figure(done, tmp_path):
    _, _, _, outcomes = done
    write_csv(outcomes, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [
        tuple(row[f] for f in ("model", "method", "dataset", "seed", "language", "metric"))
        for row in rows
    ]
    assert len(set(names)) == len(names)
    by_name = dict(zip(names, rows, strict=True))
    own = by_name["tiny", "langedit", "own", "0", "all", "efficacy"]
    expected = means_of(outcomes[1].record, ("efficacy",))["efficacy"]
    assert float(own["value"]) == pytest.approx(expected)
    assert own["count"] == "4"
    for metric, count in (("retention_after_1", "2"), ("retention_after_2", "4"),
                          ("first_batch_after_1", "2"), ("first_batch_after_2", "2")):  # fmt: skip
        assert by_name["tiny", "langedit", "own", "0", "all", metric]["count"] == count
    for key in (
        ("en", "specificity"),
        ("all", "mean"),
        ("all", "perplexity_ratio"),
        ("en>de", "transfer"),
        ("en>de", "interference"),
        ("all", "seconds_edit"),
    ):
        assert ("tiny", "langedit", "own", "0", *key) in by_name
    control = by_name["tiny", "unedited", "own", "1", "all", "perplexity_ratio"]
    assert float(control["value"]) == pytest.approx(1.0)


def test_numbers_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": [math.nan, 1.0], "b": {"c": math.inf}})
    assert read_json(tmp_path / "x.json") == {"a": [None, 1.0], "b": {"c": None}}
    assert read_json(tmp_path / "none.json") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
