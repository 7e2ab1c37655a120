"""Bytes of a model's weights, and where they are in which pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from langedit.editing.config import EditConfig
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bytes of the model's weights.

    Attributes:
        stored: all of them.
        embeddings: the token embeddings.
        resident: on the device in passes without gradients.
        held: on the device in passes with gradients of the targets.
        waiting: in main memory.
    """

    stored: int
    embeddings: int
    resident: int
    held: int
    waiting: int

    @classmethod
    def of(
        cls, model: EditableModel, config: EditConfig, *, offloaded: bool, cards: int
    ) -> Weights:
        """The weights of a model that is on one device, offloaded, or spread over cards."""
        parameters = {id(p): p for p in model.model.parameters()}.values()
        stored = sum(p.numel() * p.itemsize for p in parameters)
        layer = sum(p.numel() * p.itemsize for p in model.layer(0).parameters())
        table = model.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        embeddings = table.numel() * table.itemsize
        last = model.structure.n_layers - 1
        resident = held = stored
        if cards > 1:  # no module is on two
            resident = held = min(stored, -(-stored // cards) + max(layer, embeddings))
        elif offloaded:  # all but the layers, one that runs, and one that comes or goes
            resident = min(stored, stored - layer * (last - 1))
            end = last if config.loss_layer is None else config.loss_layer
            held = min(stored, resident + layer * (end - config.layers[-1]))
        return cls(
            stored=stored,
            embeddings=embeddings,
            resident=resident,
            held=held,
            waiting=stored - resident if offloaded else 0,
        )
