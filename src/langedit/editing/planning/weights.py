"""Bytes of a model's weights, and where they are in which pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from langedit.editing.config import EditConfig
from langedit.editing.planning.quantisation import plain_module
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bytes of the model's weights.

    Attributes:
        stored: all of them, as they are loaded.
        embeddings: the token embeddings.
        collecting: on the device while second moments are collected.
        resident: on the device in passes of edits without gradients. An editor makes the edited
            projections of a quantised model plain.
        held: on the device in passes with gradients of the targets.
        waiting: in main memory.
    """

    stored: int
    embeddings: int
    collecting: int
    resident: int
    held: int
    waiting: int

    @classmethod
    def of(
        cls, model: EditableModel, config: EditConfig, *, offloaded: bool, cards: int
    ) -> Weights:
        """The weights of a model that is on one device, offloaded, or spread over cards."""
        stored = _bytes(model.model)
        layer = _bytes(model.layer(0))
        table = model.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        embeddings = table.numel() * table.itemsize
        last = model.structure.n_layers - 1
        plain = sum(_made_plain(model.projection(layer)) for layer in config.edited_layers)
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
            collecting=resident,
            resident=resident + plain,
            held=held + plain,
            waiting=stored - resident if offloaded else 0,
        )


def _bytes(module: nn.Module) -> int:
    """Bytes of all parameters, shared ones once."""
    return sum(own.numel() * own.itemsize for own in module.parameters())


def _made_plain(module: nn.Module) -> int:
    """Bytes by which a module grows where it is made plain."""
    return _bytes(plain_module(module)) - _bytes(module)
