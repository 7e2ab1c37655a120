"""Edit a tiny model with all processes that there are: `python edit_tiny.py OUTPUT`.

Process 0 writes what they found: moments, and weights and scores of several runs.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from edits import FACTS, LATER, random_moments, settings
from tiny import SENTENCES, tiny_editable

from langedit.editing import AngleGoal, Editor, Moments, collect_moments
from langedit.evaluation import score_facts
from langedit.parallel import ALONE, Processes, join_processes

CORPUS = [("en", text) for text in SENTENCES]
SCORES = ("efficacy", "target_probability", "fluency")
SMALL = {"prefix_count": 2, "prefix_length": 3, "value_steps": 3}
RUNS: dict[str, dict[str, Any]] = {
    "one group": {"method": "memit"},
    "bfloat16": {"micro_batch_tokens": 40},
    "pooled": {"projection": "pooled", "micro_batch_tokens": 40},
    "rome": {"method": "rome", "layers": (1,), "micro_batch_tokens": 40},
    "rect": {"method": "rect", "micro_batch_tokens": 40},
    "prune": {"method": "prune", "micro_batch_tokens": 40},
    "ft-l": {"method": "ft-l", "ft_steps": 3},
}
GOAL = AngleGoal(degrees=60, null_share=0.3)


def moments_with(processes: Processes) -> Moments:
    model = tiny_editable()
    return collect_moments(model, CORPUS, [0, 1], batch_tokens=60, sample=9, processes=processes)


def moments_until(processes: Processes) -> Moments:
    """So much of an endless corpus as the angle asks for."""
    model = tiny_editable()
    corpus = ((language, text) for text in cycle(SENTENCES) for language in ("en", "de"))
    return collect_moments(
        model, corpus, [0, 1], batch_tokens=60, max_tokens=4000, until=GOAL, processes=processes
    )


def edit_with(processes: Processes, name: str) -> dict[str, Any]:
    """Weights after each batch, the report of the last, and scores at the end."""
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    model = tiny_editable("llama", dtype=dtype)
    config = settings(**SMALL, **RUNS[name])
    moments = random_moments(model) if processes.is_first or name == "pooled" else None
    editor = Editor(model, None, config, moments, processes=processes)
    weights = []
    for batch in (FACTS, LATER):
        report = editor.apply(batch)
        weights.append({layer: model.read_weight(layer) for layer in (0, 1)})
    facts = (*FACTS, *LATER)
    scores = score_facts(model, facts, kinds=SCORES, batch_tokens=30, processes=processes)
    scores += score_facts(model, facts, compat=True, batch_tokens=30, processes=processes)
    digest = model.identity().weights_hash
    editor.undo()
    assert all(torch.equal(model.read_weight(layer), weights[0][layer]) for layer in (0, 1))
    assert bool(editor.layer_states) == processes.is_first
    return {
        "weights": weights,
        "scores": scores,
        "hash": digest,
        "prefixes": dict(editor.prefixes),
        "figures": report.to_dict(),
    }


def edit_from_folder(processes: Processes) -> dict[int, torch.Tensor]:
    """Weights of a model from a folder, in which the first process alone has moments."""
    with TemporaryDirectory() as own:
        folder = processes.first(lambda: own)
        moments = Path(own) / "moments"
        if processes.is_first:
            tiny = tiny_editable()
            tiny.model.save_pretrained(folder)
            tiny.tokenizer.save_pretrained(folder)
            random_moments(tiny).save(moments)
        processes.together(lambda: None)
        config = settings(**SMALL, micro_batch_tokens=40)
        editor = Editor.from_pretrained(folder, config, moments, processes=processes)
        editor.apply(FACTS)
        return {layer: editor.model.read_weight(layer) for layer in (0, 1)}


def everything(processes: Processes = ALONE) -> dict[str, Any]:
    return {
        "moments": moments_with(processes),
        "until": moments_until(processes),
        "from folder": edit_from_folder(processes),
        "runs": {name: edit_with(processes, name) for name in RUNS},
    }


if __name__ == "__main__":
    with join_processes() as everyone:
        found = everything(everyone)
        mine = [run["hash"] for run in found["runs"].values()]
        everyone.agree("weights after all edits", mine)
        if everyone.is_first:
            torch.save(found, Path(sys.argv[1]))
