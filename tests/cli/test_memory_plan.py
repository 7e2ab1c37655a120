"""The command `langedit plan`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from langedit.cli.memory_plan import parse_bytes
from langedit.cli.settings import read_settings, shipped_names
from langedit.cli.show_plan import gigabytes
from langedit.editing import EditConfig, planning
from langedit.editing.planning import Choice, Planner, Rates, Workload, dtype_of, read_shape
from langedit.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
TABLE = {
    name: cells.split(" | ")
    for name, cells in re.findall(
        r"^\| `([\w.-]+)` \| (.+) \|$",
        PAGE.read_text(encoding="utf-8").partition("## Shipped shapes")[2],
        re.MULTILINE,
    )
}
"""Shape -> parameters, weights, peak, stage, and what fits into 80 GB, as the page has them."""


@pytest.fixture
def shape(tmp_path):
    tiny_model("llama").config.save_pretrained(tmp_path / "shape")
    return tmp_path / "shape"


def test_a_plan_names_stages_peak_and_what_makes_it_fit(langedit, shape):
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "40", "--batch-size", "20", "--layers", "0-1",
        "--device-memory", "1000", "--tflops", "1",
    )  # fmt: skip
    text = " ".join(out.split())
    for stage in ("stats", "open", "targets", "solve", "advance"):
        assert f"│ {stage} " in text
    assert "40 edits in 2 batches" in text
    assert "It does not fit into 0 MB: stats, open, targets, solve, advance." in text
    assert "No option makes it fit" in text
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "40", "--batch-size", "20", "--layers", "0-1",
        "--device-memory", "9MB", "--tflops", "1",
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
    ("text", "size"),
    [
        ("24GB", 24e9),
        ("640 mb", 640e6),
        ("1.5T", 1.5e12),
        ("2000", 2000),
        ("24GiB", 24 * 2**30),
        ("1.5 kib", 1536),
    ],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1GB", "0GB", "3 parsecs", "3iB"])
def test_amounts_that_are_none(text):
    with pytest.raises(ConfigError, match="such as 24GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (("--dtype", "bfloat16"), torch.bfloat16),
        (("--dtype", "float32"), torch.float32),
        ((), torch.bfloat16),
    ],
)
def test_times_follow_from_rates_in_the_precision_of_the_model(
    langedit, tmp_path, monkeypatch, options, dtype
):
    config = tiny_model("llama").config
    config.dtype = torch.bfloat16
    config.save_pretrained(tmp_path)
    asked = []

    def rates(device, precision):
        asked.append((device, precision))
        return Rates(matmul=1e9, double=1e9, eigen=1.0)

    monkeypatch.setattr(planning, "measure_rates", rates)
    out, _ = langedit.ok(
        "plan", "--model", tmp_path, "--edits", "5", "--layers", "1", "--device", "cpu", *options
    )
    assert asked == [(torch.device("cpu"), dtype)]
    assert f"matrix products in {str(dtype).removeprefix('torch.')}" in " ".join(out.split())
    assert f"{9 * 48**3 / 3600:.1f} h" in out  # one decomposition at an operation a second


def test_a_plan_of_a_quantised_model_says_how_it_is_kept(langedit, tmp_path, monkeypatch):
    config = tiny_model("llama").config
    config.dtype = torch.bfloat16
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.save_pretrained(tmp_path)
    asked = []

    def rates(device, precision):
        asked.append(precision)
        return Rates(matmul=1e9, double=1e9, eigen=1e9)

    monkeypatch.setattr(planning, "measure_rates", rates)
    out, _ = langedit.ok("plan", "--model", tmp_path, "--edits", "5", "--layers", "1")
    text = " ".join(out.split())
    assert "as 4 bits of bitsandbytes (fp4), the rest as bfloat16; 5 edits" in text
    assert "matrix products in float32" in text  # the library's own, where settings say nothing
    assert asked == [torch.float32]
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    code, _, err = langedit("plan", "--model", tmp_path, "--edits", "5", "--layers", "1")
    assert (code, "quantised by gptq" in " ".join(err.split())) == (2, True)


def test_the_page_has_all_shipped_shapes():
    assert set(TABLE) == set(planning.shape_names())


def settings_of(shape):
    """Option and settings that the page plans a shape with."""
    plain = shape.removesuffix("-nf4")
    if plain in shipped_names():
        return ("--config", plain), read_settings(plain, None, None, None)
    return ("--layers", "4-8"), EditConfig(layers=(4, 5, 6, 7, 8), null_share=0.5)


@pytest.mark.parametrize("shape", TABLE)
def test_the_page_says_of_shipped_shapes_what_is_planned(shape):
    _, settings = settings_of(shape)
    config = read_shape(shape)
    asked = Choice(
        dtype=dtype_of("auto", config), config=settings, work=Workload(edits=2400, batch_size=100)
    )
    planner = Planner(config, cpu=False)
    plan = planner.plan(asked)
    parameters, weights, peak, stage, fits = TABLE[shape]
    assert parameters == f"{plan.parameters / 1e9:.3g} B"
    assert [weights, peak, stage] == [
        gigabytes(plan.stored),
        gigabytes(plan.peak),
        plan.peak_stage.name,
    ]
    if fits == "fits":
        assert plan.peak <= 80e9
        return
    said, _, peak = fits.rpartition(": ")
    fitting = asked
    for change in planner._options(asked):
        if change(asked).changes[0] in said.split(", "):
            fitting = change(fitting)
    assert ", ".join(fitting.changes) == said
    assert gigabytes(planner.plan(fitting).peak) == peak
    assert plan.peak > 80e9 >= planner.plan(fitting).peak


@pytest.mark.slow
@pytest.mark.parametrize("shape", TABLE)
def test_the_command_of_the_page_gives_its_advice(langedit, shape):
    options, _ = settings_of(shape)
    out, _ = langedit.ok(
        "plan", "--model", shape, "--edits", "2400", *options, "--device-memory", "80GB",
        "--tflops", "400",
    )  # fmt: skip
    said, _, peak = TABLE[shape][-1].rpartition(": ")
    expected = f"It fits with {said}: peak {peak}" if said else "It fits into 80.0 GB."
    assert expected in " ".join(out.split())


@pytest.mark.slow
def test_the_commands_for_a_small_card_end_as_the_page_says(langedit):
    section = PAGE.read_text(encoding="utf-8").partition("## Shipped shapes")[2]
    (commands,), (ends,) = (
        re.findall(rf"^```{kind}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        for kind in ("sh", "text")
    )
    said = []
    for command in commands.splitlines():
        out, _ = langedit.ok(*command.split()[1:])
        said += out.splitlines()[-2:]
    assert said == ends.splitlines()
