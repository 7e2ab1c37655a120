"""Recorded runs of the original research code, in the folder that `LANGEDIT_GOLDEN` names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from langedit.editing import EditConfig, Editor, LayerMoment, Moments, Prefixes
from langedit.facts import Fact
from langedit.linalg import SecondMoment
from langedit.models import EditableModel, find_structure

RUNS = ("tiny-llama-a", "tiny-gpt2-a")

OUR_METHODS: dict[str, dict[str, str]] = {
    "langedit": {"method": "langedit", "projection": "released"},
    "langedit_l2_1": {"method": "langedit", "projection": "released"},
    "alphaedit": {"method": "alphaedit"},
    "alphaedit_langtmpl": {"method": "alphaedit"},
    "memit": {"method": "memit"},
    "memit_seq": {"method": "memit-seq"},
}
"""Recorded methods that we offer, and how they are called here."""


def golden_folder() -> Path:
    """The folder of recorded runs; the test is skipped where none is named."""
    folder = os.environ.get("LANGEDIT_GOLDEN")
    if not folder:
        pytest.skip("LANGEDIT_GOLDEN is not set")
    return Path(folder)


@dataclass(frozen=True)
class GoldenRun:
    """One run folder: a model, its edits, and what each method recorded."""

    name: str

    @cached_property
    def folder(self) -> Path:
        return golden_folder() / self.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        return self.read_json("spec")

    def read_json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def model(self) -> EditableModel:
        root = self.folder.parent
        model = AutoModelForCausalLM.from_pretrained(
            root / self.spec["model_dir"], dtype=torch.float32
        )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(root / self.spec["tokenizer_dir"])
        model.eval().requires_grad_(False)
        return EditableModel(model, tokenizer, find_structure(model))

    def moments(self, model: EditableModel) -> Moments:
        counts = self.spec["second_moment_counts"]
        recorded = self.read_tensors("second_moments")
        layers = {}
        for layer, count in counts.items():
            mean = recorded[f"layer{layer}/second_moment"]
            layers[int(layer)] = LayerMoment(
                moment=SecondMoment(count=count, mean=mean.double()),
                sample=torch.zeros(0, len(mean)),
                counts={"und": count},
            )
        return Moments(layers=layers, identity=model.identity(), corpus="recorded")

    def config(self, method: str) -> EditConfig:
        return EditConfig.from_hparams(
            self.spec["methods"][method]["hparams"],
            **OUR_METHODS[method],
            refresh_edits=100,
            target_joint="space",
            kl_template=self.spec["kl_prompt"],
        )

    def prefixes(self, method: str) -> Prefixes:
        """Templates of each language, or the English ones for every language."""
        own = self.read_json(method)["inputs"].endswith("/lang")
        templates = self.spec["context_templates"]
        return Prefixes(
            {
                language: [text.removesuffix("{}") for text in templates[used][1]]
                for language in self.spec["languages"]
                for used in [language if own else "en"]
            }
        )

    def batches(self) -> list[list[Fact]]:
        batches: dict[int, list[Fact]] = {}
        for request in self.spec["requests"]:
            fact = Fact(
                language=request["lang"],
                prompt=request["prompt"],
                subject=request["subject"],
                target=request["target_new"],
            )
            batches.setdefault(request["batch"], []).append(fact)
        return [batches[number] for number in sorted(batches)]


def distance(found: Tensor, recorded: Tensor) -> float:
    """Relative distance in the Frobenius norm."""
    recorded = recorded.double()
    return float((found.double() - recorded).norm() / recorded.norm())


def assert_final_weights(editor: Editor, recorded: dict[str, Tensor], limit: float) -> None:
    weights = editor.model.model.state_dict()
    finals = {name: value for name, value in recorded.items() if name.startswith("final/")}
    assert len(finals) == len(editor.config.edited_layers)
    for name, value in finals.items():
        assert distance(weights[name.removeprefix("final/")], value) <= limit


def as_stored(recorded: Tensor, like: Tensor) -> Tensor:
    """Seen as (d_out, d_in): a Conv1D stores the transpose."""
    return recorded if recorded.shape == like.shape else torch.t(recorded)
