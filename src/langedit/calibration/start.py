"""Where a search begins: the published settings of the nearest known model.

Published thresholds, ridges and learning rates have the scale of that model's keys and hidden
states. On another model they are replaced by settings that follow a model's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from langedit.editing import EditConfig
from langedit.editing.shipped import shipped_settings
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What tells models apart here.

    Attributes:
        model_type: in the configuration.
        n_layers: depth.
        d_model: width of the hidden states.
        d_in: width inside the MLP.
        vocab_size: tokens that the model tells apart.
    """

    model_type: str
    n_layers: int
    d_model: int
    d_in: int
    vocab_size: int

    @classmethod
    def of(cls, model: EditableModel) -> Shape:
        """The shape of a loaded model."""
        return cls(
            model_type=str(model.model.config.model_type),
            n_layers=model.structure.n_layers,
            d_model=model.structure.d_model,
            d_in=model.structure.d_in,
            vocab_size=int(model.model.config.get_text_config().vocab_size),
        )

    def distance(self, other: Shape) -> float:
        """Doublings of depth and of width between two models, and 2 more for another type."""
        depth = abs(math.log2(self.n_layers / other.n_layers))
        width = abs(math.log2(self.d_model / other.d_model))
        return depth + width + (0.0 if self.model_type == other.model_type else 2.0)


KNOWN: Mapping[str, Shape] = MappingProxyType(
    {
        "llama3-8b": Shape(
            model_type="llama", n_layers=32, d_model=4096, d_in=14336, vocab_size=128256
        ),
        "gpt-j-6b": Shape(
            model_type="gptj", n_layers=28, d_model=4096, d_in=16384, vocab_size=50400
        ),
        "gpt2-xl": Shape(model_type="gpt2", n_layers=48, d_model=1600, d_in=6400, vocab_size=50257),
        "qwen2.5-7b": Shape(
            model_type="qwen2", n_layers=28, d_model=3584, d_in=18944, vocab_size=152064
        ),
    }
)
"""Shipped settings, and the shape of the model that they are published for."""

NULL_SHARE, RELATIVE_RIDGE = 0.5, 0.02
"""Stand for a published threshold and ridge on a model of another scale."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Settings that a search begins with.

    Attributes:
        config: the settings.
        origin: where they come from, for people.
        rate_known: whether the learning rate is one for this model; else reachability finds it.
    """

    config: EditConfig
    origin: str
    rate_known: bool


def nearest_start(shape: Shape, method: str) -> Start:
    """Published settings of the nearest model, fitted to a model's depth and scale.

    A model of the very shape, size of the vocabulary included, is taken to be of the same scale.

    Args:
        shape: of the model to be edited.
        method: that is edited with.
    """
    name = min(KNOWN, key=lambda known: shape.distance(KNOWN[known]))
    known = KNOWN[name]
    config = shipped_settings(name, method=method)
    if shape == known:
        origin = f"shipped settings {name}, published for a model of this shape"
        return Start(config=config, origin=origin, rate_known=True)
    settings = config.model_dump(exclude={"null_threshold", "ridge", "loss_layer"})
    settings |= {
        "layers": scaled_layers(config.layers, known.n_layers, shape.n_layers),
        "null_share": NULL_SHARE,
        "relative_ridge": RELATIVE_RIDGE,
    }
    origin = (
        f"shipped settings {name}, the nearest of the known models, with layers at the same depth "
        "and settings that follow the scale of the model"
    )
    return Start(config=EditConfig(**settings), origin=origin, rate_known=False)


def scaled_layers(layers: tuple[int, ...], depth: int, new_depth: int) -> tuple[int, ...]:
    """Layers at the same relative depth in a model of another depth."""
    ends = [
        min(new_depth - 1, max(0, round((layer + 0.5) * new_depth / depth - 0.5)))
        for layer in (layers[0], layers[-1])
    ]
    return tuple(range(ends[0], ends[1] + 1))
