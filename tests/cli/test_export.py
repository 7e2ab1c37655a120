"""`langedit export` and `langedit apply-delta` from end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import save_tiny
from exports import logits, plain

COMMANDS = (
    ("merged", "model.safetensors"),
    ("adapter", "adapter_model.safetensors"),
    ("delta", "delta.safetensors"),
)


@pytest.fixture
def edited(langedit, edit_arguments: Callable[..., list[str]], tmp_path: Path) -> Path:
    """A folder that `langedit edit` wrote: one batch in en, one in zh."""
    langedit.ok(*edit_arguments())
    return tmp_path / "edited"


@pytest.mark.parametrize(("form", "file"), COMMANDS)
def test_every_form_is_written_with_card_and_facts(langedit, edited, tmp_path, form, file):
    out, err = langedit.ok("export", edited, tmp_path / "out", "--as", form)
    assert f"3 facts in en, zh as {form}" in out
    assert "with a model card" in out
    assert err == ""
    for name in (file, "README.md", "facts.jsonl"):
        assert (tmp_path / "out" / name).is_file()
    report = json.loads((edited / "report.json").read_text(encoding="utf-8"))
    efficacy = report["scores"]["after"]["all"]["efficacy"]
    assert f"efficacy {100 * efficacy:.1f}" in out  # as measured by langedit edit


def test_merged_equals_the_folder_it_came_from(langedit, edited, tmp_path):
    langedit.ok("export", edited, tmp_path / "out", "--as", "merged")
    assert torch.equal(logits(plain(tmp_path / "out")), logits(plain(edited)))


def test_a_delta_goes_round(langedit, edited, checkpoint, tmp_path):
    langedit.ok("export", edited, tmp_path / "delta", "--as", "delta")
    out, _ = langedit.ok("apply-delta", checkpoint, tmp_path / "delta", tmp_path / "out")
    assert "3 facts in en, zh as merged" in out
    assert torch.equal(logits(plain(tmp_path / "out")), logits(plain(edited)))
    other = save_tiny(tmp_path / "other", seed=1)
    code, _, err = langedit("apply-delta", other, tmp_path / "delta", tmp_path / "wrong")
    assert code == 2
    assert "expected the base model that was edited" in err
    assert not (tmp_path / "wrong").exists()


def test_a_selection_is_told(langedit, edited, tmp_path):
    out, _ = langedit.ok("export", edited, tmp_path / "zh", "--as", "adapter", "--language", "zh")
    assert "1 fact in zh as adapter of rank 1" in out
    assert "no solve was made for: 1 of 3 facts, languages zh" in out
    out, _ = langedit.ok("export", edited, tmp_path / "en", "--as", "delta", "--batches", "0")
    assert "2 facts in en as delta" in out


def test_a_smaller_rank_says_what_it_lost(langedit, edited, moments, tmp_path):
    arguments = ("export", edited, tmp_path / "out", "--as", "adapter", "--max-rank", "1")
    code, _, err = langedit(*arguments)
    assert (code, "second moments" in err) == (2, True)
    out, _ = langedit.ok(*arguments, "--moments", moments)
    assert "as adapter of rank 1" in out
    assert "The exact adapter has rank 3 and efficacy" in out
    assert "largest error at keys" in out


def test_a_base_that_moved_is_named(langedit, edit_arguments, checkpoint, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for path in checkpoint.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    langedit.ok(*edit_arguments(model=base))
    base.rename(tmp_path / "moved")
    arguments = ("export", tmp_path / "edited", tmp_path / "out", "--as", "merged")
    code, _, err = langedit(*arguments)
    assert (code, "no folder" in err) == (2, True)
    langedit.ok(*arguments, "--base", tmp_path / "moved")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--as", "gguf"), "--as: expected one of merged, adapter, delta, got 'gguf'"),
        (("--as", "merged", "--max-rank", "4"), "--max-rank: is for adapters"),
        (("--as", "delta", "--moments", "x"), "--moments: is for adapters"),
        (("--as", "delta", "--batches", "3-1"), "--batches: expected numbers"),
        (("--as", "delta", "--batches", "9"), "batches: expected some of 0, 1, got 9"),
        (("--as", "delta", "--language", "fr"), "languages: expected some of en, zh, got fr"),
    ],
)
def test_options_that_cannot_be_used(langedit, edited, tmp_path, options, message):
    code, _, err = langedit("export", edited, tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_sources_and_outputs_that_cannot_be_used(langedit, edited, checkpoint, tmp_path):
    code, _, err = langedit("export", checkpoint, tmp_path / "out", "--as", "delta")
    assert (code, "output folder of langedit edit" in err) == (2, True)
    code, _, err = langedit("export", edited, edited, "--as", "delta")
    assert (code, "new or empty folder" in err) == (2, True)
    code, _, err = langedit("apply-delta", checkpoint, edited / "config.json", tmp_path / "out")
    assert (code, "complete safetensors file" in err) == (2, True)
    assert not (tmp_path / "out").exists()
