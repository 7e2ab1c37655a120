"""Keys and values of the tokens before the lookup token, computed once and then only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from langedit.editing.forwards import replace_forwards
from langedit.editing.layout import TokenLayout, lay_out
from langedit.editing.passes import TokenStates, begin_at
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixCache:
    """Attention keys and values of prefixes, for the layers that a change can reach.

    Attributes:
        first: index of the first layer that has them.
        layers: one pair a layer, (rows, heads, length, width), padded on the left.
        blank: (rows, 1, length, 1), what layers below hold: they are passed over, and only asked
            for the length.
    """

    first: int
    layers: tuple[tuple[Tensor, Tensor], ...]
    blank: Tensor

    @classmethod
    def compute(
        cls,
        model: EditableModel,
        states: TokenStates,
        prefixes: Sequence[Sequence[int]],
        first: int,
        last: int,
        max_tokens: int,
    ) -> PrefixCache | None:
        """Run the prefixes from layer `first` until the keys and values of layer `last` are known.

        Args:
            model: the model.
            states: what enters layer `first`, for sequences that begin with the prefixes.
            prefixes: token ids before each row's lookup token; some may be empty, not all.
            first: index of the first layer that is run on top.
            last: index of the last layer that will be run on top.
            max_tokens: tokens in one forward pass.

        Returns:
            `None` if the model takes no cache, or did not keep plain keys and values of every token
            in every layer (layers that share them, recurrent states).
        """
        stateful = bool(getattr(model.model, "_is_stateful", False))
        if stateful or not model.takes("past_key_values"):
            return None
        length = max(map(len, prefixes))
        blank = states.values.new_zeros(1).expand(len(prefixes), 1, length, 1)
        if last < first:
            return cls(first=first, layers=(), blank=blank)
        filled = [i for i, own in enumerate(prefixes) if len(own)]
        layouts = lay_out(model, [prefixes[i] for i in filled], max_tokens)
        own = TokenStates(values=states.values, index=tuple(states.index[i] for i in filled))
        parts: list[list[tuple[Tensor, Tensor]]] = []
        for layout in layouts:
            pairs = _run(model, layout, own.placed(layout), first, last)
            if pairs is None:
                return None
            parts.append(pairs)
        places = _places(layouts, filled, len(prefixes), length)
        layers = [_gathered([part[i] for part in parts], places) for i in range(last - first + 1)]
        return cls(first=first, layers=tuple(layers), blank=blank)

    def fresh(self) -> DynamicCache:
        """A cache of transformers with these keys and values, which may be grown."""
        cache = DynamicCache()
        for keys, values in [(self.blank, self.blank)] * self.first + list(self.layers):
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values  # not copied: the cache joins, never writes
            cache.layers.append(layer)
        return cache

    def select(self, rows: Tensor, length: int) -> PrefixCache:
        """The same for some of the rows, an int64 index, whose longest prefix is `length`."""

        def own(states: Tensor) -> Tensor:
            return states[rows.to(states.device), :, states.shape[2] - length :]

        return PrefixCache(
            first=self.first,
            layers=tuple((own(keys), own(values)) for keys, values in self.layers),
            blank=self.blank[: len(rows), :, :length],
        )


class _Complete(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a pass when the last keys and values are there; caught where it was asked for."""


class _CollectingCache(DynamicCache):
    """Keeps every token of every layer, and ends the pass at one layer."""

    def __init__(self, last: int) -> None:
        super().__init__()  # without the config: no layer forgets tokens outside a window
        self._last = last

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        pair = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self._last:
            raise _Complete
        return pair


def _run(
    model: EditableModel, layout: TokenLayout, hidden: Tensor, first: int, last: int
) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of layers `first` to `last`, (b, heads, t, width)."""
    cache = _CollectingCache(last)
    inputs = layout.inputs(model) | {"past_key_values": cache, "use_cache": True}
    with torch.no_grad(), replace_forwards(begin_at(model, first, hidden)):
        try:
            model.model(**inputs)
        except _Complete:
            pass
        else:
            return None
    pairs = [_plain_pair(layer) for layer in cache.layers[first:]]
    width = layout.ids.shape[1]
    kept = [pair for pair in pairs if pair is not None and pair[0].shape[-2] == width]
    return kept if len(kept) == len(pairs) == last - first + 1 else None


def _places(
    layouts: Sequence[TokenLayout], filled: Sequence[int], rows: int, length: int
) -> Tensor:
    """(rows, length): which token of all layouts stands where; any at the padding."""
    places = torch.zeros((rows, length), dtype=torch.int64)
    start = 0
    for layout in layouts:
        for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
            at = torch.tensor(columns) + (start + row * layout.ids.shape[1])
            places[filled[member], length - len(columns) :] = at
        start += layout.ids.numel()
    return places


def _gathered(pairs: Sequence[tuple[Tensor, Tensor]], places: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer, (b, heads, t, width), as (rows, heads, length, width)."""

    def gather(parts: Sequence[Tensor]) -> Tensor:
        flat = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        return flat[places.to(flat.device)].transpose(1, 2).contiguous()

    return gather([keys for keys, _ in pairs]), gather([values for _, values in pairs])


def _plain_pair(layer: object) -> tuple[Tensor, Tensor] | None:
    """Keys and values of a layer that keeps them all, else `None`."""
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        return None
    return layer.keys, layer.values
