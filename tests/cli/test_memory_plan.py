"""The command `langedit plan`."""

from __future__ import annotations

import pytest
from tiny import tiny_model

from langedit.cli.memory_plan import parse_bytes
from langedit.errors import ConfigError


@pytest.fixture
def shape(tmp_path):
    tiny_model("llama").config.save_pretrained(tmp_path / "shape")
    return tmp_path / "shape"


def test_a_plan_names_stages_peak_and_what_makes_it_fit(langedit, shape):
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "200", "--layers", "0-1", "--device-memory", "1000",
        "--tflops", "1",
    )  # fmt: skip
    text = " ".join(out.split())
    for stage in ("stats", "open", "targets", "solve", "advance"):
        assert f"│ {stage} " in text
    assert "200 edits in 2 batches" in text
    assert "It does not fit into 0 MB: stats, open, targets, solve, advance." in text
    assert "No option makes it fit" in text
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "200", "--layers", "0-1", "--device-memory", "9MB",
        "--tflops", "1",
    )  # fmt: skip
    assert "It fits with micro_batch_tokens = " in " ".join(out.split())


def test_a_plan_that_fits_says_so_and_measures_rates(langedit, shape):
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "5", "--layers", "1", "--device", "cpu",
        "--device-memory", "24GB",
    )  # fmt: skip
    assert "It fits into 24.0 GB." in out
    assert "the rates measured on this cpu" in " ".join(out.split())


def test_what_is_missing_or_wrong_is_said(langedit, shape):
    code, _, err = langedit("plan", "--model", shape, "--edits", "5")
    assert (code, "expected --config or --layers" in err) == (2, True)
    code, _, err = langedit(
        "plan", "--model", shape, "--edits", "5", "--layers", "0", "--device", "tpu"
    )
    assert (code, "expected cuda or cpu" in err) == (2, True)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("640 mb", 640e6), ("1.5T", 1.5e12), ("2000", 2000)]
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1GB", "0GB", "3 parsecs"])
def test_amounts_that_are_none(text):
    with pytest.raises(ConfigError, match="such as 24GB"):
        parse_bytes(text)
