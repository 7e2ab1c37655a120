"""A model spread over devices is edited on them; nothing meets what is elsewhere.

The devices are those of tests/pretend.py: they refuse to mix, but compute as the CPU does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import accelerate
import pytest
import torch
from edits import FACTS, LATER, settings
from pretend import SPREAD_LLAMA, MixedDevices, pretend_devices
from tiny import SENTENCES, tiny_editable
from torch import Tensor

from langedit.editing import Editor, collect_moments
from langedit.editing.angles import AngleGoal
from langedit.evaluation import FactScore, perplexity, score_facts
from langedit.linalg import Spectrum
from langedit.models import EditableModel

CORPUS = [("en", text) for text in SENTENCES]
GPT2 = {
    "transformer.wte": "lazy:0",
    "transformer.wpe": "lazy:0",
    "transformer.h.0": "lazy:0",
    "transformer.h.1": "lazy:1",
    "transformer.h.2": "lazy:2",
    "transformer.ln_f": "lazy:2",
    "lm_head": "lazy:0",
}
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "llama over four": ("llama", SPREAD_LLAMA),
    "gpt2 over three, head tied": ("gpt2", GPT2),
    "edited layers on disk and in memory, head and embeddings in memory": (
        "llama",
        SPREAD_LLAMA
        | {"model.layers.0": "disk", "model.layers.1": "cpu"}
        | {"lm_head": "cpu", "model.embed_tokens": "cpu"},
    ),
    "gpt2 on disk but for one layer": (
        "gpt2",
        dict.fromkeys(GPT2, "disk") | {"transformer.h.1": "lazy:1"},
    ),
}

METHODS = ("langedit", "memit-seq", "langedit", "langedit")


def model_of(family: str) -> EditableModel:
    return tiny_editable(family, attn_implementation="eager")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of two batches."""

    editor: Editor
    weights: dict[int, Tensor]
    scores: list[FactScore]
    perplexity: float


def edited(model: EditableModel, method: str) -> Found:
    """Collect, edit, undo, score."""
    moments = collect_moments(model, CORPUS, [0, 1], batch_tokens=60, sample=5)
    small = settings(
        prefix_count=1, prefix_length=2, method=method, corpus_weight=0.5, value_steps=3
    )
    editor = Editor(model, None, small, moments)
    digests = []
    for batch in (FACTS, LATER):
        editor.apply(batch).to_dict()
        digests.append(model.identity().weights_hash)
    weights = {layer: model.read_weight(layer).cpu().clone() for layer in (0, 1)}
    editor.undo()
    assert model.identity().weights_hash == digests[0] != digests[1]
    return Found(
        editor=editor,
        weights=weights,
        scores=score_facts(model, FACTS),
        perplexity=perplexity(model, SENTENCES[:3]),
    )


@pytest.mark.parametrize(("name", "method"), list(zip(PLACES, METHODS, strict=True)))
def test_everything_is_where_its_module_is(name: str, method: str, tmp_path: Path) -> None:
    """The same edit as without devices, but for the order of operations inside of torch's own."""
    family, places = PLACES[name]
    expected = edited(model_of(family), method)
    with pretend_devices():
        spread = model_of(family)
        accelerate.dispatch_model(spread.model, places, offload_dir=str(tmp_path / "offloaded"))
        found = edited(spread, method)
        for layer in (0, 1):
            place = places[f"{spread.structure.layers}.{layer}"]
            home = torch.device("cpu" if place in ("cpu", "disk") else place)
            assert spread.read_weight(layer).device == home
            assert found.editor.layer_states[layer].history.device == home
    for layer, weight in expected.weights.items():
        assert (found.weights[layer] - weight).norm() <= 1e-5 * weight.norm()
    assert found.scores == expected.scores
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)


def test_the_devices_do_refuse_to_mix() -> None:
    with pretend_devices():
        here, there = torch.ones(2, device="lazy:1"), torch.ones(2, device="lazy:2")
        assert (here + there.to("lazy:1")).device == torch.device("lazy:1")
        assert (here * torch.tensor(2.0))[torch.tensor([0])].device == here.device
        for other in (there, torch.ones(2)):
            with pytest.raises(MixedDevices):
                here + other


def test_null_spaces_of_halves_are_found_where_the_layer_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: list[str] = []
    decompose = Spectrum.of.__func__

    def watch(cls: type[Spectrum], mean: Tensor) -> Spectrum:
        places.append(str(mean.device))
        return decompose(cls, mean)

    monkeypatch.setattr(Spectrum, "of", classmethod(watch))
    goal = AngleGoal(degrees=0.01, null_share=0.5)
    with pretend_devices():
        model = tiny_editable("llama")
        model.model.to("lazy:0")
        collect_moments(model, CORPUS * 30, [1], until=goal)
    assert set(places) == {"lazy:0"}
