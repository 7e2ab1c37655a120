"""`langedit stats` on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch
from cli_helpers import LAYERS

from langedit.cli.options import layers_text, parse_degrees, parse_numbers, parse_structure
from langedit.editing import Moments, collect_moments
from langedit.editing.corpus import read_corpus
from langedit.errors import ConfigError
from langedit.models import load_model


def test_the_command_writes_what_the_function_collects(langedit, checkpoint, texts, tmp_path):
    arguments = ["stats", "--model", checkpoint, "--text", texts, "--layers", "1-2"]
    code, out, err = langedit(*arguments, "--output", tmp_path / "moments")
    assert (code, err) == (0, "")
    model = load_model(checkpoint)
    expected = collect_moments(model, read_corpus([str(texts)]), LAYERS)
    written = Moments.load(tmp_path / "moments", model.identity())
    assert written.corpus == expected.corpus
    for layer in LAYERS:
        own, other = written.layers[layer], expected.layers[layer]
        assert own.counts == other.counts
        torch.testing.assert_close(own.moment.mean, other.moment.mean, rtol=0, atol=0)
    counts = expected.layers[1].counts
    assert f"over {sum(counts.values())} tokens (en {counts['en']}, zh {counts['zh']})" in out


def test_an_edit_for_which_float32_lost_too_much_is_refused(langedit, checkpoint, texts, tmp_path):
    arguments = ["stats", "--model", checkpoint, "--text", texts, "--layers", "1"]
    moments = tmp_path / "moments"
    code, _, _ = langedit(*arguments, "--precision", "float32", "--output", moments)
    assert code == 0
    rounding = Moments.load(moments).layers[1].moment.rounding
    assert rounding > 0
    facts = tmp_path / "facts.jsonl"
    row = {"language": "en", "prompt": "{} lives in", "subject": "Ann", "target": "Rome"}
    facts.write_text(json.dumps(row) + "\n", encoding="utf-8")
    config = tmp_path / "config.toml"
    edit = ["edit", "--model", checkpoint, "--facts", facts, "--moments", moments]
    cuts = (("null_share = 0.5", False), (f"null_threshold = {5 * rounding}", True))
    for cut, refused in cuts:
        settings = f"layers = [1]\n{cut}\nvalue_steps = 1\nprefix_count = 0\n"
        config.write_text(settings, encoding="utf-8")
        output = tmp_path / f"edited-{refused}"
        code, _, err = langedit(*edit, "--config", config, "--output", output)
        assert code == (2 if refused else 0), err
        assert ("layer 1: second moment: expected one that is known" in err) == refused
        assert output.exists() != refused


def test_tokens_are_counted_exactly_and_sources_add_up(langedit, checkpoint, texts, tmp_path):
    sources = ("--text", f"de={texts / 'en.txt'}", "--text", texts / "zh.txt")
    code, out, _ = langedit(
        "stats", "--model", checkpoint, *sources, "--layers", "0", "--max-tokens", "30",
        "--output", tmp_path / "new" / "moments",
    )  # fmt: skip
    assert code == 0
    assert "over 30 tokens (de " in out
    assert Moments.load(tmp_path / "new" / "moments").layers.keys() == {0}


@pytest.mark.parametrize(
    ("text", "layers"),
    [("4-8", (4, 5, 6, 7, 8)), ("3", (3,)), ("7,0-2, 1", (0, 1, 2, 7)), ("5-5", (5,))],
)
def test_layers_are_read(text, layers):
    assert parse_numbers(text) == layers
    assert parse_numbers(layers_text(layers)) == layers


@pytest.mark.parametrize("text", ["", "4-", "-4", "8-4", "1,,2", "one", "1-2-3"])
def test_other_texts_are_no_layers(text):
    with pytest.raises(ConfigError, match="expected numbers counted from 0"):
        parse_numbers(text)


def test_layers_are_written_short():
    assert layers_text((1, 2, 3, 7, 9, 10)) == "1-3,7,9-10"


def test_parts_can_be_named(langedit, checkpoint, texts, tmp_path):
    arguments = ["stats", "--model", checkpoint, "--text", texts, "--layers", "1"]
    named = ["--structure", "layers=model.layers", "--structure", "projection=self_attn.o_proj"]
    code, _, _ = langedit(*arguments, *named, "--output", tmp_path / "moments")
    assert code == 0
    assert Moments.load(tmp_path / "moments").layers[1].weight_name.endswith("o_proj.weight")
    code, _, err = langedit(*arguments, "--structure", "head=nothing", "--output", tmp_path / "no")
    assert code == 2
    assert "[structure] head" in err or "nothing" in err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("pair", ["mlp", "=mlp", "projection="])
def test_other_texts_name_no_part(pair):
    with pytest.raises(ConfigError, match="expected PART=MODULE"):
        parse_structure([pair])


def test_until_the_angle_is_small_enough(langedit, checkpoint, texts, tmp_path):
    arguments = ["stats", "--model", checkpoint, "--text", texts, "--layers", "1", "--profile"]
    output = tmp_path / "moments"
    options = ["--until-angle", "80deg", "--null-share", "0.5", "--output", output]
    out, err = langedit.ok(*arguments, *options)
    angle = Moments.load(output).layers[1].angle
    assert f"mean angle {angle.degrees:.1f} degrees, 80" in out
    assert f"null spaces of two halves are {angle.degrees:.1f} degrees apart" in err
    stages = json.loads((output / "profile.json").read_text())
    assert all(stages[name]["flops"] > 0 for name in ("forward", "moments", "angle"))
    assert "Cost by stage" in out
    code, _, err = langedit(*arguments, "--until-angle", "5deg", "--output", tmp_path / "no")
    assert code == 2
    assert "one of null_share and null_threshold" in err
    code, _, err = langedit(*arguments, "--null-share", "0.5", "--output", tmp_path / "no")
    assert code == 2
    assert "give it too" in err
    with pytest.raises(ConfigError, match="angle in degrees"):
        parse_degrees("small")
