"""What training asks of a subject's keys: alike wherever it stands, unlike those of all others.

A large model's subjects have keys of their own because it has room for them. A small one saves room
where nothing else is asked of it, and then no method can edit one subject without its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from langedit.demo.training_text import TrainingBatch


class KeyTap:
    """Holds what the MLP output projections of some layers read in the last forward pass."""

    def __init__(self, model: LlamaForCausalLM, layers: Sequence[int]) -> None:
        self.keys: dict[int, Tensor] = {}
        for layer in layers:
            projection = model.model.layers[layer].mlp.down_proj
            projection.register_forward_pre_hook(self._taker(layer))

    def _taker(self, layer: int) -> Any:
        def take(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            self.keys[layer] = args[0]

        return take


def last_subject_tokens(batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Find the last token of each subject that is whole.

    Returns:
        (row, column) of each, (n, 2), and its name, (n,).
    """
    ends = (batch.name[:, :-1] >= 0) & (batch.subject[:, :-1] != batch.subject[:, 1:])
    places = ends.nonzero()
    return places, batch.name[places[:, 0], places[:, 1]]


def key_loss(keys: Tensor, names: Tensor, subject_count: int) -> Tensor:
    """Mean squared cosine between different subjects, and mean squared lack of it within one.

    Names of one subject in two languages are not compared: the words may be the same.

    Args:
        keys: (n, d_in), one row a mention.
        names: (n,) numbers of names, as in `TrainingBatch.name`.
        subject_count: names that are equal modulo it belong to one subject.
    """
    unit = torch.nn.functional.normalize(keys.float(), dim=1)
    cosine = unit @ unit.T
    same_name = names[:, None] == names[None, :]
    same_subject = (names[:, None] - names[None, :]) % subject_count == 0
    apart = (cosine**2)[~same_subject]
    alike = same_name & ~torch.eye(len(names), dtype=torch.bool, device=names.device)
    together = ((1 - cosine) ** 2)[alike]
    return sum((part.mean() for part in (apart, together) if len(part)), cosine.new_zeros(()))
