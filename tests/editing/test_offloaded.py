"""A model whose weights are offloaded is edited as if they were not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dispatched import WAYS
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import SENTENCES, tiny_editable

from langedit.editing import Editor, collect_moments, generate_prefixes
from langedit.evaluation import perplexity, score_facts
from langedit.models import load_model

CORPUS = [("en", text) for text in SENTENCES[:4]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "method"), [("llama", "langedit"), ("gpt2", "memit")])
def test_edit_undo_and_save(family: str, way: str, method: str, tmp_path: Path) -> None:
    resident = tiny_editable(family)
    away = WAYS[way](tiny_editable(family), tmp_path)
    moments = random_moments(resident)
    first, second = (
        Editor(model, None, settings(method=method), moments, PREFIXES)
        for model in (resident, away)
    )
    hashes = []
    for editor in (first, second):
        own = []
        for batch in (FACTS, LATER):
            editor.apply(batch)
            own.append(editor.model.identity().weights_hash)
        editor.undo()
        assert editor.model.identity().weights_hash == own[0]
        hashes.append(own)
    assert hashes[0] == hashes[1]
    assert away.projection(1).weight.is_meta
    second.save_pretrained(tmp_path / "edited")
    assert load_model(tmp_path / "edited").identity().weights_hash == hashes[0][0]


@pytest.mark.parametrize("way", WAYS)
def test_moments_prefixes_and_scores(way: str, tmp_path: Path) -> None:
    resident = tiny_editable()
    away = WAYS[way](tiny_editable(), tmp_path)
    mine, theirs = (collect_moments(model, CORPUS, [0, 1]) for model in (resident, away))
    assert mine.identity.weights_hash == theirs.identity.weights_hash
    for layer in (0, 1):
        assert torch.equal(mine.layers[layer].moment.mean, theirs.layers[layer].moment.mean)
        assert torch.equal(mine.layers[layer].sample, theirs.layers[layer].sample)
    assert score_facts(away, FACTS) == score_facts(resident, FACTS)
    assert perplexity(away, SENTENCES[:3]) == perplexity(resident, SENTENCES[:3])
    written = [generate_prefixes(model, ["en"], count=2, length=4) for model in (away, resident)]
    assert dict(written[0]) == dict(written[1])
