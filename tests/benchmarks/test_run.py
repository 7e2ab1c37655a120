"""The command: parts, resuming, and the page; and the GPU script's code on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import end_to_end, gpu, run
from benchmarks.page import SECTIONS
from langedit.editing import EditConfig, prepare_request
from langedit.errors import NumericalError

FOUND = {
    "edits": {
        "d_in": 8,
        "edits": [0, 10],
        "seconds": [1.0, 2.0],
        "exponent": 0.5,
    },
    "widths": {
        "d_in": [8, 16],
        "seconds": [1.0, 4.0],
        "exponent": 2.0,
        "decomposition_seconds": {"8": 1.0, "16": 8.0},
        "decomposition_exponent": 3.0,
        "baseline_seconds": {"8": 2.0, "16": 16.0},
        "baseline_exponent": 3.0,
    },
    "linalg": {
        "d_in": 8,
        "facts": 2,
        "batches": 2,
        "langedit_seconds": [0.5, 0.5],
        "baseline_seconds": [30.0, 40.0],
        "decomposition_seconds": 2.0,
        "ratio": 70.0,
        "ratio_with_decomposition": 23.3,
        "last_to_second": 2.5,
        "largest_difference": 1e-6,
        "tolerance": 1e-2,
        "baseline_decomposition_seconds": 3.0,
        "corpus_weight_seconds": [0.5, 0.5],
        "corpus_weight_opening_seconds": 0.5,
        "held_bytes": [{"edits": 2, "langedit": 2**20, "corpus_weight": 2**21, "dense": 3 * 2**20}],
    },
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with parts that measure nothing; the names of those that ran."""
    ran: list[str] = []

    def part(name: str) -> object:
        def measure(_folder: object) -> dict[str, object]:
            ran.append(name)
            return dict(FOUND[name])

        return run.Part(minutes=1, run=measure)

    monkeypatch.setattr(run, "PARTS", {name: part(name) for name in FOUND})
    return ran


def test_parts_are_run_once_and_the_page_says_what_is_missing(parts, tmp_path, capsys) -> None:
    arguments = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    run.main([*arguments, "--only", "linalg", "--threads", str(torch.get_num_threads())])
    page = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "**70 ×**" in page
    assert "| stream, times faster | ≥ 50 | 70 | met |" in page
    assert "| batch 2 against batch 2, times as long | ≤ 2 | 2.50 | missed |" in page
    assert (
        "Not measured yet: end-to-end, one-thread, methods, edits, widths, sizes, targets." in page
    )
    run.main(arguments)
    assert parts == ["linalg", "edits", "widths"]
    run.main([*arguments, "--again", "--only", "edits"])
    assert parts == ["linalg", "edits", "widths", "edits"]
    page = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "baseline 3.00" in page
    for name in ("stream", "memory", "edits", "widths"):
        assert (tmp_path / "docs" / f"performance-{name}.png").stat().st_size > 1000
    assert "threads" in json.loads((tmp_path / "results" / "linalg.json").read_text())["machine"]
    with pytest.raises(SystemExit, match="expected some of edits"):
        run.main([*arguments, "--only", "other"])


def test_quick_results_and_their_page_are_kept_apart(parts, tmp_path, capsys) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    run.main(["--results", str(results), "--docs", str(docs), "--quick", "--only", "edits"])
    assert (results / "quick" / "edits.json").is_file()
    assert (results / "quick" / "performance.md").is_file()
    assert not docs.exists()
    assert not (results / "edits.json").exists()


def test_a_part_that_fails_does_not_stop_the_others(parts, tmp_path, capsys, monkeypatch) -> None:
    def fail(_folder: object) -> dict[str, object]:
        raise NumericalError("results differ")

    monkeypatch.setitem(run.PARTS, "linalg", run.Part(minutes=1, run=fail))
    with pytest.raises(SystemExit, match="linalg: results differ"):
        run.main(["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")])
    assert sorted(parts) == ["edits", "widths"]
    assert "Not measured yet: end-to-end, one-thread, linalg" in (
        (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    )


def test_the_same_with_one_thread_is_told_as_that(tmp_path, capsys, monkeypatch) -> None:
    seen: list[int] = []

    def measure(_folder: object) -> dict[str, object]:
        seen.append(torch.get_num_threads())
        stage = {"langedit": 2.0, "baseline": 50.0, "ratio": 25.0}
        return {"threads": torch.get_num_threads(), "stages": {"whole batches": stage}}

    part = run.Part(minutes=1, run=run._on_one_thread(measure))
    monkeypatch.setattr(run, "PARTS", {"one-thread": part})
    before = torch.get_num_threads()
    run.main(["--results", str(tmp_path), "--docs", str(tmp_path), "--threads", str(before)])
    assert seen == [1]
    assert torch.get_num_threads() == before
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "| whole batches, times faster | ≥ 20 | 25.0 | met |" in page
    assert ", 1 threads" in page


def test_the_page_tells_what_the_ratio_of_the_targets_is_bounded_by(tmp_path) -> None:
    stage = {"langedit": 2.0, "baseline": 20.0, "ratio": 10.0}
    found = {
        "facts": 100,
        "batches": 4,
        "texts": 10,
        "stages": dict.fromkeys(("targets", "whole batches", "second moments"), stage),
        "open_seconds": {"with_kept_spectra": 0.5},
        "scores": {name: {"efficacy": 0.5} for name in ("langedit", "baseline")},
        "target_gflop": {"langedit": 0.4, "baseline": 5.0},
        "profile": {"targets": {"seconds": 1.0, "flops": 2e9}},
        "tolerances": {"second moments": 1e-5},
        "differences": {"second moments": 1e-6},
        "chaos": {"largest": 1e-6, "baseline_on_changed_weights": 1e-3},
    }
    page = "\n".join(SECTIONS["end-to-end"](found, tmp_path))
    assert "| whole batches, times faster | ≥ 20 | 10.0 | missed |" in page
    assert "12.5 times\nfewer" in page
    assert "the baseline's rate they are done: 80 %." in page
    assert "| targets | 1.00 | 2.0 |" in page


def test_a_busy_machine_is_warned_about(monkeypatch, capsys) -> None:
    monkeypatch.setattr(run.os, "getloadavg", lambda: (7.0, 1.0, 1.0))
    monkeypatch.setattr(run.os, "cpu_count", lambda: 8)
    run.warn_if_busy(1)
    assert capsys.readouterr().err == ""
    run.warn_if_busy(2)
    assert "load average 7.0, 8 cores" in capsys.readouterr().err


def test_results_that_differ_are_refused() -> None:
    equal = dict.fromkeys(end_to_end.TOLERANCES, 0.0)
    end_to_end.require_equal(equal)
    for wrong in (1.0, float("nan")):
        with pytest.raises(NumericalError, match="second moments"):
            end_to_end.require_equal({**equal, "second moments": wrong})


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert "There is no GPU" in capsys.readouterr().out


def test_the_gpu_script_on_a_tiny_model(tmp_path, capsys) -> None:
    gpu.main(["--tiny", "--output", str(tmp_path / "found.json")])
    out = capsys.readouterr().out
    assert "s a batch" in out
    found = json.loads((tmp_path / "found.json").read_text())["tiny"]
    assert {"prepare", "targets", "keys", "solve", "advance", "report"} <= set(found["stages"])
    assert found["seconds"] > sum(found["stages"].values())  # of the whole `Editor.apply`
    assert found["targets_flops"] > 0
    assert found["targets_share_of_peak"] is None
    assert found["decomposition_seconds_a_layer"] > 0
    assert found["planned_peak_bytes"] > 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nMore"), KeyError("any")]
)
def test_a_shape_that_fails_leaves_what_is_measured(error, tmp_path, capsys, monkeypatch) -> None:
    real, broken = gpu.measure, (None, {}, ())

    def scarce(shape, *rest):
        if shape is broken:
            raise error
        return real(shape, *rest)

    monkeypatch.setattr(gpu, "measure", scarce)
    shapes = {"before": gpu.TINY, "broken": broken, "after": gpu.TINY}
    monkeypatch.setattr(gpu, "TINY_SHAPES", shapes)
    with pytest.raises(SystemExit, match="failed: broken") as ended:
        gpu.main(["--tiny", "--output", str(tmp_path / "found.json")])
    assert ended.value.code not in (None, 0)
    said = capsys.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines()}
    first = str(error).splitlines()[0]
    assert rows["broken"] == f"broken  failed, {type(error).__name__}: {first}"
    assert "cpu" in rows["before"]
    assert "cpu" in rows["after"]
    assert "Traceback" in said.err
    assert list(json.loads((tmp_path / "found.json").read_text())) == ["before", "after"]


def test_facts_of_random_words_have_the_sizes_asked_for() -> None:
    sizes = gpu.Sizes(facts=3, prefixes=4, tokens=8, prefix=5, target=2)
    kind, fields, layers = gpu.TINY
    model = gpu.random_model(kind(**fields), torch.device("cpu"))
    prefixes, facts = gpu.random_facts(model, sizes)
    assert len(facts) == 3 + 2
    config = EditConfig(layers=layers, null_share=0.5, kl_template="{}")
    for fact in facts:
        request = prepare_request(model, fact, prefixes.of("en"), config)
        assert [len(prompt.ids) for prompt in request.prompts] == [8, 13, 13, 13]
        assert [prompt.lookup for prompt in request.prompts] == [4, 9, 9, 9]
        assert len(request.target_ids) == 2
        assert len(request.kl_prompt.ids) == 5
        assert 0 not in request.prompts[0].ids + request.target_ids  # no unknown word


def test_the_gpu_script_names_shapes_and_keeps_to_its_time(capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "--only", "typo"])
    assert "expected some of tiny, got typo" in capsys.readouterr().err
    with pytest.raises(TimeoutError, match="making the model"):
        gpu.measure(gpu.TINY, gpu.Sizes(facts=1, steps=1), torch.device("cpu"), 0.0)
    gpu.main(["--tiny", "--budget", "0"])
    assert "tiny: not run" in capsys.readouterr().out
