"""`langedit stats push` and `pull`, and that `langedit stats` is what it was."""

from __future__ import annotations

from cli_helpers import save_tiny

from langedit.editing import Moments


def test_push_and_pull(langedit, checkpoint, moments, tmp_path):
    store = tmp_path / "store"
    out, _ = langedit.ok(
        "stats", "push", "--moments", moments, "--to", store, "--model", checkpoint
    )
    assert "Second moments of 2 layers of" in out
    out, _ = langedit.ok(
        "stats", "pull", "--from", store, "--output", tmp_path / "here", "--model", checkpoint,
        "--layers", "2",
    )  # fmt: skip
    assert "1 layers, checked against the model" in out
    assert list(Moments.load(tmp_path / "here").layers) == [2]


def test_another_model_is_refused_and_nothing_is_left(langedit, moments, tmp_path):
    langedit.ok("stats", "push", "--moments", moments, "--to", tmp_path / "store")
    other = save_tiny(tmp_path / "other", seed=3)
    code, _, err = langedit(
        "stats",
        "pull",
        "--from",
        tmp_path / "store",
        "--output",
        tmp_path / "here",
        "--model",
        other,
    )
    assert code == 2
    assert "expected second moments of" in err
    assert not (tmp_path / "here").exists()


def test_stats_alone_still_collects(langedit, checkpoint, texts, tmp_path):
    langedit.ok(
        "stats", "--model", checkpoint, "--text", texts, "--layers", "1", "--output", tmp_path / "m"
    )
    assert list(Moments.load(tmp_path / "m").layers) == [1]
    out, _ = langedit.ok("stats", "--help")
    assert "langedit stats push" in " ".join(out.split())
