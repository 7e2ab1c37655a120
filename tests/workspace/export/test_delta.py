"""A delta makes the same checkpoint of a fresh base, and of no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exports import LAYOUTS, edited, logits, plain, save_base
from tiny import tiny_editable

from langedit.editing.record_files import read_record
from langedit.errors import OutputError, RecordError
from langedit.evaluation import score_facts
from langedit.linalg import DenseUpdate
from langedit.workspace.export import (
    apply_delta,
    export_adapter,
    export_delta,
    export_merged,
    open_record,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", LAYOUTS)
def test_a_fresh_copy_of_the_base_becomes_the_live_model(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    made = edited(tmp_path, family, dtype)
    export_delta(made.record, tmp_path / "delta")
    made.base.rename(tmp_path / "gone")  # where it was is never asked for
    fresh = save_base(tmp_path / "fresh", family, dtype, shard="40KB")
    outcome = apply_delta(fresh, tmp_path / "delta", tmp_path / "out")
    assert not outcome.rewritten
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)


def test_a_delta_is_the_same_for_folder_and_file(tmp_path: Path) -> None:
    made = edited(tmp_path)
    outcome = export_delta(made.record, tmp_path / "delta")
    assert sorted(path.name for path in (tmp_path / "delta").iterdir()) == [
        "README.md",
        "delta.safetensors",
        "facts.jsonl",
    ]
    one = open_record(tmp_path / "delta")
    other = open_record(tmp_path / "delta" / "delta.safetensors")
    assert one.facts == other.facts == outcome.record.facts == made.record.facts
    assert one.scores == outcome.record.scores
    assert one.settings == made.editor.config.model_dump(mode="json")
    export_adapter(one, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_updates_without_factors_go_round(tmp_path: Path) -> None:
    made = edited(tmp_path, "gpt2")
    batches = tuple(
        replace(batch, updates={n: DenseUpdate(matrix=u.dense()) for n, u in batch.updates.items()})
        for batch in made.record.batches
    )
    outcome = export_delta(replace(made.record, batches=batches), tmp_path / "delta")
    assert isinstance(open_record(tmp_path / "delta").batches[0].updates[0], DenseUpdate)
    apply_delta(made.base, tmp_path / "delta", tmp_path / "out")
    assert torch.equal(logits(plain(tmp_path / "out")), made.logits)
    assert outcome.record.scores is not None
    assert "not kept as factors" in (tmp_path / "delta" / "README.md").read_text(encoding="utf-8")


def test_scores_are_measured_where_there_are_none(tmp_path: Path) -> None:
    made = edited(tmp_path)
    now = score_facts(made.editor.model, made.record.facts)
    assert list(export_delta(made.record, tmp_path / "a").scores) == now
    claimed = made.record.with_scores([replace(score, efficacy=0.25).shares() for score in now])
    outcome = export_delta(claimed, tmp_path / "b")  # of the whole: taken as recorded
    assert {score.efficacy for score in outcome.scores} == {0.25}
    part = export_delta(claimed, tmp_path / "c", languages=["zh"])  # of a part: measured
    merged = export_merged(made.record, tmp_path / "d", languages=["zh"])
    assert part.scores == merged.scores
    assert {score.efficacy for score in part.scores} != {0.25}


def test_another_base_is_refused_with_both_hashes(tmp_path: Path) -> None:
    made = edited(tmp_path)
    export_delta(made.record, tmp_path / "delta")
    other = tiny_editable("llama", seed=1)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(RecordError, match="expected the base model that was edited") as caught:
        apply_delta(tmp_path / "other", tmp_path / "delta", tmp_path / "out")
    assert made.record.base.weights_hash in str(caught.value)
    assert other.identity().weights_hash in str(caught.value)
    assert not (tmp_path / "out").exists()
    # An edited model is not the base either: no delta is added twice.
    apply_delta(made.base, tmp_path / "delta", tmp_path / "once")
    with pytest.raises(RecordError, match="expected the base model"):
        apply_delta(tmp_path / "once", tmp_path / "delta", tmp_path / "twice")


def test_a_truncated_delta_writes_nothing(tmp_path: Path) -> None:
    made = edited(tmp_path)
    export_delta(made.record, tmp_path / "delta")
    path = tmp_path / "delta" / "delta.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordError, match="complete safetensors file"):
        apply_delta(made.base, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_there_is_kept(tmp_path: Path) -> None:
    made = edited(tmp_path)
    export_delta(made.record, tmp_path / "delta")
    for export in (export_delta, export_adapter):
        with pytest.raises(OutputError, match="new or empty"):
            export(made.record, tmp_path / "delta")
    with pytest.raises(OutputError, match="new or empty"):
        apply_delta(made.base, tmp_path / "delta", tmp_path / "delta")


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    for name, message in (
        ("empty", "got neither"),
        ("text", "complete safetensors file"),
        ("missing", "no such file"),
    ):
        with pytest.raises(RecordError, match=message):
            open_record(tmp_path / name)


def test_what_the_editor_saves_can_be_exported(tmp_path: Path) -> None:
    made = edited(tmp_path)
    scores = [score.shares() for score in score_facts(made.editor.model, made.record.facts)]
    made.editor.save_pretrained(tmp_path / "edited", scores=scores)
    record = open_record(tmp_path / "edited")
    assert list(record.scores or ()) == scores
    assert record.layers == made.record.layers
    assert record.base == made.record.base
    for batch, other in zip(record.batches, made.record.batches, strict=True):
        assert batch.keys is not None
        assert other.keys is not None
        for layer in (0, 1):
            assert torch.equal(batch.updates[layer].left, other.updates[layer].left)
            assert torch.equal(batch.keys[layer], other.keys[layer])
    export_merged(record, tmp_path / "merged")
    saved, merged = plain(tmp_path / "edited"), plain(tmp_path / "merged")
    assert torch.equal(logits(saved), logits(merged))
    with pytest.raises(RecordError, match="one for each of 6 facts, got 1"):
        made.editor.save_pretrained(tmp_path / "wrong", scores=scores[:1])
    assert read_record(tmp_path / "edited" / "langedit" / "edits.safetensors").method == "langedit"
