"""Run only what a change of one hidden state can reach: late layers, late tokens.

A change `delta` of the output of one layer, or of the edited projection in it, at the lookup token
of a prompt cannot reach earlier layers, nor tokens before the lookup token. `build_suffixes`
computes those once:

* the outputs of the layer for all tokens; what prompts have in common at their beginnings once;
* the keys and values of the tokens before the lookup token, in every later layer (the *prefix*,
  padded on the left, so that distances between indices are distances between positions, which
  sliding windows and ALiBi rely on).

A step then runs the model on the other tokens (the *suffix*) with the layers up to the changed one
replaced by pass-throughs, and the output head on the wanted positions only. Nothing is
approximated. Where the model allows it, suffixes stand in one row without padding
(`PackedSuffixes`), else they are padded on the right (`PaddedSuffixes`). Where memory does not hold
what is computed once, it is computed for each step (`RemadeSuffixes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from torch import Tensor

from langedit.editing.packed_suffixes import PackedSuffixes
from langedit.editing.padded_suffixes import PaddedSuffixes
from langedit.editing.passes import TokenStates
from langedit.editing.prefix_cache import PrefixCache
from langedit.editing.suffix_batch import SuffixRow
from langedit.models import EditableModel


class Suffixes(Protocol):
    """Logits of a batch of rows as a function of a change at one layer and one token a row."""

    @property
    def at_lookup(self) -> Tensor:
        """(rows, d_model) outputs of the changed layer or projection at the lookup tokens."""
        ...

    def logits(self, delta: Tensor) -> Tensor:
        """Logits at the wanted positions, row after row, with `delta` added.

        Args:
            delta: (rows, d_model) float32, added to the output at the lookup tokens.

        Returns:
            (wanted positions of all rows, vocabulary) float32, differentiable in `delta`.
        """
        ...

    def select(self, rows: Tensor) -> Self:
        """The same for some of the rows: `rows` is an int64 index, in rising order."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RemadeSuffixes:
    """See `Suffixes`. Keeps nothing but the outputs at the lookup tokens between two calls.

    Attributes:
        make: runs the parts that do not depend on the change, for some rows.
        rows: the sequences.
        at_lookup: (rows, d_model) outputs of the changed layer or projection at the lookup tokens.
    """

    make: Callable[[Sequence[SuffixRow]], Suffixes]
    rows: tuple[SuffixRow, ...]
    at_lookup: Tensor

    @classmethod
    def of(
        cls, make: Callable[[Sequence[SuffixRow]], Suffixes], rows: Sequence[SuffixRow]
    ) -> RemadeSuffixes:
        """Make them once, for the outputs at the lookup tokens."""
        return cls(make=make, rows=tuple(rows), at_lookup=make(rows).at_lookup)

    def logits(self, delta: Tensor) -> Tensor:
        """As `Suffixes.logits`."""
        return self.make(self.rows).logits(delta)

    def select(self, rows: Tensor) -> RemadeSuffixes:
        """As `Suffixes.select`."""
        return RemadeSuffixes(
            make=self.make,
            rows=tuple(self.rows[i] for i in rows.tolist()),
            at_lookup=self.at_lookup[rows.to(self.at_lookup.device)],
        )


def build_suffixes(
    model: EditableModel,
    rows: Sequence[SuffixRow],
    layer: int,
    loss_layer: int,
    *,
    site: Literal["layer", "projection"],
    max_tokens: int,
    use_cache: bool = True,
) -> Suffixes:
    """Run the parts that do not depend on the change.

    Args:
        model: the model.
        rows: the sequences; wanted positions lie at or after the lookup token.
        layer: index of the layer whose output is changed.
        loss_layer: index of the layer that is read.
        site: whether the output of the whole layer is changed, or of its edited projection.
        max_tokens: tokens in one forward pass of these parts.
        use_cache: keep keys and values of the prefixes where the model's kind of cache allows
            it; else whole sequences are run at each step. Both give the same numbers.
    """
    ids = [row.ids for row in rows]
    first = layer if site == "projection" else layer + 1
    if site == "projection":
        before, states = TokenStates.around_projection(model, ids, layer, max_tokens)
    else:
        before = states = TokenStates.compute(model, ids, layer, max_tokens)
    prefixes = [row.ids[: row.lookup] for row in rows]
    cache = None
    if use_cache and any(prefixes):
        cache = PrefixCache.compute(model, before, prefixes, first, loss_layer, max_tokens)
    packs = model.behaviour.attention is not None and model.can_pack(max(map(len, ids)))
    if packs and cache is not None and site == "layer":
        return PackedSuffixes.build(model, rows, layer, loss_layer, states, cache)
    entering = before if site == "projection" else None
    return PaddedSuffixes.build(model, rows, layer, loss_layer, states, entering, cache)
