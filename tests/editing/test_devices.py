"""A model spread over devices is edited on them; nothing meets what is elsewhere.

The devices are those of tests/pretend.py: they refuse to mix, but compute as the CPU does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from edits import FACTS, LATER, settings
from pretend import MixedDevices, pretend_devices
from tiny import SENTENCES, tiny_editable

from langedit.editing import Editor, collect_moments
from langedit.evaluation import perplexity, score_facts
from langedit.models import EditableModel, load_model

CORPUS = [("en", text) for text in SENTENCES]
LLAMA = {
    "model.embed_tokens": "lazy:0",
    "model.rotary_emb": "lazy:0",
    "model.layers.0": "lazy:0",
    "model.layers.1": "lazy:1",
    "model.layers.2": "lazy:2",
    "model.norm": "lazy:2",
    "lm_head": "lazy:3",
}
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
    "llama over four": ("llama", LLAMA),
    "gpt2 over three, head tied": ("gpt2", GPT2),
    "an edited layer in memory": ("llama", LLAMA | {"model.layers.1": "cpu"}),
    "an edited layer on disk": ("llama", LLAMA | {"model.layers.0": "disk"}),
    "head and embeddings in memory": (
        "llama",
        LLAMA | {"lm_head": "cpu", "model.embed_tokens": "cpu"},
    ),
    "gpt2 on disk but for one layer": (
        "gpt2",
        dict.fromkeys(GPT2, "disk") | {"transformer.h.1": "lazy:1"},
    ),
}


def model_of(family: str) -> EditableModel:
    return tiny_editable(family, attn_implementation="eager")


def edited(model: EditableModel, method: str) -> tuple[Editor, dict[str, Any]]:
    """Everything that an edit does, and what came of it."""
    found: dict[str, Any] = {}
    moments = collect_moments(model, CORPUS, [0, 1], batch_tokens=60, sample=5)
    small = settings(prefix_count=2, prefix_length=3, method=method, corpus_weight=0.5)
    editor = Editor(model, None, small, moments)
    for batch in (FACTS, LATER):
        found["report"] = editor.apply(batch).to_dict()
        found["hash"] = model.identity().weights_hash
    editor.undo()
    found["undone"] = model.identity().weights_hash
    editor.apply(LATER)
    found["again"] = model.identity().weights_hash
    found["scores"] = score_facts(model, (*FACTS, *LATER))
    found["perplexity"] = perplexity(model, SENTENCES[:3])
    found["report"].pop("seconds")
    return editor, found


@pytest.mark.parametrize("method", ["langedit", "memit-seq"])
@pytest.mark.parametrize("name", PLACES)
def test_everything_is_where_its_module_is(name: str, method: str, tmp_path: Path) -> None:
    family, places = PLACES[name]
    _, expected = edited(model_of(family), method)
    with pretend_devices():
        spread = model_of(family)
        accelerate.dispatch_model(spread.model, places, offload_dir=str(tmp_path / "offloaded"))
        editor, found = edited(spread, method)
        assert found == expected
        for layer in (0, 1):
            place = places[f"{spread.structure.layers}.{layer}"]
            home = torch.device("cpu" if place in ("cpu", "disk") else place)
            assert spread.read_weight(layer).device == home
            assert editor.layer_states[layer].history.device == home
        editor.save_pretrained(tmp_path / "edited")
    saved = load_model(tmp_path / "edited")
    assert saved.identity().weights_hash == found["again"] == found["hash"]


def test_the_devices_do_refuse_to_mix() -> None:
    with pretend_devices():
        here, there = torch.ones(2, device="lazy:1"), torch.ones(2, device="lazy:2")
        assert (here + there.to("lazy:1")).device == torch.device("lazy:1")
        assert (here * torch.tensor(2.0))[torch.tensor([0])].device == here.device
        for other in (there, torch.ones(2)):
            with pytest.raises(MixedDevices):
                here + other
