"""Exports of edits of a quantised base: its edited projections are made plain, as for editing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from quantised import QUANTISERS, quantise
from safetensors.torch import load_file
from tiny import tiny_editable

from langedit.editing import Editor
from langedit.errors import RecordError
from langedit.evaluation import score_facts
from langedit.models.quantised import quantised_modules
from langedit.workspace.export import export_adapter, export_merged, load_base


@pytest.fixture(params=tuple(QUANTISERS))
def editor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Editor:
    """An edited quantised model, whose base is loaded as from a checkpoint of its library."""
    monkeypatch.setattr(
        "langedit.workspace.export.base.load_model",
        lambda *_, **__: quantise(tiny_editable(), request.param),
    )
    model = quantise(tiny_editable(), request.param)
    editor = Editor(model, None, settings(), random_moments(model), PREFIXES)
    editor.apply(FACTS)
    editor.apply(LATER)
    return editor


def test_the_base_has_plain_projections_where_it_was_edited(editor: Editor) -> None:
    base = load_base(editor.record())
    assert sorted(quantised_modules(base.model)) == sorted(quantised_modules(editor.model.model))
    for layer in (0, 1):
        total = base.read_weight(layer)
        for report in editor.reports:
            total = total + report.updates[layer].dense()
        assert torch.equal(total, editor.model.read_weight(layer))


def test_merged_has_the_edited_weights_and_all_that_is_quantised(
    editor: Editor, tmp_path: Path
) -> None:
    outcome = export_merged(editor.record(), tmp_path / "out")
    assert outcome.rewritten
    written = load_file(tmp_path / "out" / "model.safetensors")
    live = editor.model.model.state_dict()
    assert set(written) == set(live)
    assert all(torch.equal(values, live[name]) for name, values in written.items())


def test_a_smaller_adapter_is_scored_on_the_base(editor: Editor, tmp_path: Path) -> None:
    record = editor.record()
    moments = replace(random_moments(tiny_editable()), identity=record.base)
    outcome = export_adapter(record, tmp_path / "out", max_rank=2, moments=moments)
    assert outcome.rank == 2
    assert outcome.loss is not None
    assert outcome.loss.exact == tuple(score_facts(editor.model, record.facts))
    assert len(outcome.scores) == len(FACTS) + len(LATER)


def test_a_model_that_was_quantised_while_it_was_loaded_must_be_saved_first(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "langedit.workspace.export.base.load_model", lambda *_, **__: tiny_editable()
    )
    with pytest.raises(RecordError, match="must be saved quantised before it is edited"):
        load_base(editor.record())
