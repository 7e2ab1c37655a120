"""Tiny edited models whose base lies on disk, for tests of exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from langedit.editing import EditedModelRecord, Editor, Moments
from langedit.models import load_model

LAYOUTS = ("llama", "gpt2", "gptj")
IDS = torch.tensor([[5, 9, 30, 7, 60, 61], [3, 8, 41, 99, 12, 77]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Edited:
    """An edited tiny model and where its base lies."""

    base: Path
    editor: Editor
    moments: Moments

    @property
    def record(self) -> EditedModelRecord:
        return self.editor.record()

    @property
    def logits(self) -> Tensor:
        return logits(self.editor.model.model)


def save_base(folder: Path, family: str, dtype: torch.dtype, shard: str = "5GB") -> Path:
    """Write a tiny model as its source is: tied where the family ties, sharded if asked to."""
    tiny = tiny_editable(family, dtype=dtype)
    tiny.model.save_pretrained(folder, max_shard_size=shard)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def edit_base(folder: Path, **changes: object) -> Edited:
    """Edit the model in a folder: a batch in en and zh, then one in de and zh."""
    dtype = str(changes.pop("load_as", "auto"))
    model = load_model(folder, dtype=dtype)
    moments = random_moments(model)
    strong = {"norm_clamp": 4.0, "value_lr": 0.5, "value_steps": 12}
    editor = Editor(model, None, settings(**{**strong, **changes}), moments, PREFIXES)
    editor.apply(FACTS)
    editor.apply(LATER)
    return Edited(base=folder, editor=editor, moments=moments)


def edited(
    folder: Path,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    shard: str = "5GB",
    **changes: object,
) -> Edited:
    """Save a tiny base and edit it."""
    return edit_base(save_base(folder / "base", family, dtype, shard), **changes)


def plain(folder: Path) -> PreTrainedModel:
    """Load as anyone would, in the stored precision."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()
