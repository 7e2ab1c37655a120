"""Suffixes of all rows in one row without padding; only attention takes them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from langedit.editing.forwards import Forward, head_on_tokens, on_tokens, replace_forwards
from langedit.editing.passes import TokenStates, begin_after, pass_on
from langedit.editing.prefix_cache import PrefixCache
from langedit.editing.suffix_batch import SuffixRow
from langedit.models import Attention, EditableModel, replace_attention

# Rows share a call of attention while padding them costs less than a call does: in slots (a query
# times a key), and as a share of the slots that are needed, which bounds the number of calls.
_CALL, _SHARE = 1024, 1 / 8


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Rows of one call of attention.

    Attributes:
        rows: (r,) int64, which rows.
        tokens: (r, suffix) int64, where their tokens are among those of all rows, padded on the
            right with any token; on the CPU.
        places: the same where attention is.
        before: (r,) int64 lengths of their prefixes.
        after: (r,) int64 lengths of their suffixes.
        mask: (r, 1, suffix, prefix + suffix) bool, which keys a token sees.
        cache: keys and values of the prefixes, padded on the left.
    """

    rows: Tensor
    tokens: Tensor
    places: Tensor
    before: Tensor
    after: Tensor
    mask: Tensor
    cache: PrefixCache

    @classmethod
    def build(
        cls,
        rows: Tensor,
        tokens: Tensor,
        before: Tensor,
        after: Tensor,
        cache: PrefixCache,
        cached: Tensor,
    ) -> _Group:
        """Trim to what the rows need.

        Args:
            rows: as the attribute, and so are `before` and `after`.
            tokens: (r, suffix or more).
            cache: that has these rows among others.
            cached: (r,) int64, as which of its rows.
        """
        prefix, suffix = int(before.max()), int(after.max())
        seen = torch.arange(prefix).expand(len(rows), prefix) >= prefix - before.unsqueeze(1)
        causal = torch.ones(suffix, suffix, dtype=torch.bool).tril()
        shape = (len(rows), suffix, -1)
        mask = torch.cat([seen.unsqueeze(1).expand(shape), causal.expand(shape)], dim=2)
        device = cache.blank.device
        return cls(
            rows=rows,
            tokens=tokens[:, :suffix],
            places=tokens[:, :suffix].to(device),
            before=before,
            after=after,
            mask=mask.unsqueeze(1).to(device),
            cache=cache.select(cached, prefix),
        )

    @property
    def filled(self) -> Tensor:
        """(r, suffix) bool, where `tokens` is no padding; on the CPU."""
        return torch.arange(self.tokens.shape[1]) < self.after.unsqueeze(1)

    def select(self, kept: Tensor, moved: Tensor) -> _Group | None:
        """The rows with `kept` (r,) bool, if any; token i of all is now token `moved[i]`."""
        at = kept.nonzero().squeeze(1)
        if not len(at):
            return None
        tokens = moved[self.tokens[at]].clamp(min=0)  # padding may be of rows that left
        return _Group.build(self.rows[at], tokens, self.before[at], self.after[at], self.cache, at)

    def attend(
        self, attention: Attention, module: nn.Module, states: Sequence[Tensor], layer: int
    ) -> Tensor:
        """Attention of the rows' tokens.

        Args:
            attention: what the module would call, with its keywords.
            module: the attention module.
            states: queries, keys and values of all tokens, (tokens, heads, width).
            layer: index of the layer.

        Returns:
            (r * suffix, heads, width), padding included.
        """
        places = self.places.to(states[0].device)
        shape, flat = places.shape, places.flatten()
        query, key, value = (
            own.index_select(0, flat).view(*shape, *own.shape[1:]).transpose(1, 2) for own in states
        )
        if self.cache.blank.shape[2]:
            keys, values = self.cache.layers[layer - self.cache.first]
            key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        return attention(module, query, key, value, self.mask.to(query.device))[0].flatten(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedSuffixes:
    """See `Suffixes`. Linear modules, norms and MLPs see one row with every token once.

    Attributes:
        model: the model; a step leaves it as it was.
        layer: index of the layer whose output is changed.
        loss_layer: index of the layer whose output the final norm and the head read.
        hidden: (tokens, d_model) outputs of the changed layer, in the model's dtype.
        ids: (tokens,) token ids, like the next where the model takes them.
        position_ids: (tokens,) positions in the whole sequences.
        row: (tokens,) int64, to which row a token belongs; like the next two on the CPU.
        lookup: (rows,) int64, which tokens are lookup tokens.
        wanted: (m,) int64, the tokens whose logits are wanted.
        groups: which rows are together in attention.
        order: (tokens,) int64, where each token is in what the groups give, one after the other.
    """

    model: EditableModel
    layer: int
    loss_layer: int
    hidden: Tensor
    ids: Tensor
    position_ids: Tensor
    row: Tensor
    lookup: Tensor
    wanted: Tensor
    groups: tuple[_Group, ...]
    order: Tensor

    @classmethod
    def build(
        cls,
        model: EditableModel,
        rows: Sequence[SuffixRow],
        layer: int,
        loss_layer: int,
        states: TokenStates,
        cache: PrefixCache,
    ) -> PackedSuffixes:
        """Cut the rows before their lookup tokens and put what is left into one row.

        Args:
            model: one whose attention can be replaced, and whose sequences can share a row.
            rows: the sequences.
            layer: index of the layer whose output is changed.
            loss_layer: index of the layer that is read.
            states: the outputs of the layer.
            cache: keys and values of the prefixes.
        """
        before = torch.tensor([row.lookup for row in rows])
        after = torch.tensor([len(row.ids) for row in rows]) - before
        starts = after.cumsum(0) - after
        index = [own[row.lookup :] for row, own in zip(rows, states.index, strict=True)]
        wanted = [
            start + at - row.lookup
            for row, start in zip(rows, starts.tolist(), strict=True)
            for at in row.wanted
        ]
        ids = [token for row in rows for token in row.ids[row.lookup :]]
        positions = [torch.arange(row.lookup, len(row.ids)) for row in rows]
        groups = []
        for members in _alike(before.tolist(), after.tolist()):
            at = torch.tensor(members)
            tokens = starts[at].unsqueeze(1) + torch.arange(int(after[at].max()))
            tokens = tokens.clamp(max=int(after.sum()) - 1)
            groups.append(_Group.build(at, tokens, before[at], after[at], cache, at))
        return cls(
            model=model,
            layer=layer,
            loss_layer=loss_layer,
            hidden=states.values[torch.cat(index).to(states.values.device)],
            ids=torch.tensor(ids, device=model.device),
            position_ids=torch.cat(positions).to(model.device),
            row=torch.arange(len(rows)).repeat_interleave(after),
            lookup=starts,
            wanted=torch.tensor(wanted),
            groups=tuple(groups),
            order=_order(groups),
        )

    @property
    def at_lookup(self) -> Tensor:
        """(rows, d_model) outputs of the changed layer at the lookup tokens."""
        return self.hidden[self.lookup.to(self.hidden.device)]

    def logits(self, delta: Tensor) -> Tensor:
        """As `Suffixes.logits`."""
        hidden, model = self.hidden, self.model
        changed = (self.at_lookup.float() + delta.to(hidden.device)).to(hidden.dtype)
        moved = hidden.index_put((self.lookup.to(hidden.device),), changed).unsqueeze(0)
        count = len(self.ids)
        # Attention is replaced, so that nobody reads the mask; without one the model would make it.
        blind = torch.zeros(1, 1, 1, 1, dtype=model.model.dtype, device=model.device)
        with (
            replace_forwards(self._forwards(moved)),
            replace_attention(self._attention),
            head_on_tokens(model, torch.zeros_like(self.wanted), self.wanted),
        ):
            output = model.model(
                input_ids=self.ids.unsqueeze(0),
                position_ids=self.position_ids.unsqueeze(0),
                attention_mask=blind.expand(1, 1, count, count),
                use_cache=False,
            )
        logits: Tensor = output.logits
        return logits.squeeze(0).float()

    def select(self, rows: Tensor) -> PackedSuffixes:
        """As `Suffixes.select`."""
        kept = torch.zeros(len(self.lookup), dtype=torch.bool)
        kept[rows] = True
        tokens = kept[self.row]
        moved = torch.where(tokens, tokens.cumsum(0) - 1, -1)
        number = kept.cumsum(0) - 1
        groups = [own.select(kept[own.rows], moved) for own in self.groups]
        left = [replace(own, rows=number[own.rows]) for own in groups if own is not None]
        wanted = moved[self.wanted]
        return replace(
            self,
            hidden=self.hidden[tokens.to(self.hidden.device)],
            ids=self.ids[tokens.to(self.ids.device)],
            position_ids=self.position_ids[tokens.to(self.ids.device)],
            row=number[self.row[tokens]],
            lookup=moved[self.lookup[rows]],
            wanted=wanted[wanted >= 0],
            groups=tuple(left),
            order=_order(left),
        )

    def _forwards(self, hidden: Tensor) -> list[tuple[nn.Module, Forward]]:
        """What modules do instead of their own work in a step.

        Layers up to the changed one give `hidden` (1, tokens, d_model); those after the loss layer
        pass on what comes, and its MLP skips every token whose logits nobody wants.
        """
        model, end, mlp = self.model, self.loss_layer, self.model.behaviour.mlp
        forwards = begin_after(model, self.layer, hidden)
        forwards += [
            (model.layer(i), pass_on(model)) for i in range(end + 1, model.structure.n_layers)
        ]
        if mlp is not None and end > self.layer:
            module = model.layer(end).get_submodule(mlp)
            forwards.append((module, on_tokens(module, torch.zeros_like(self.wanted), self.wanted)))
        return forwards

    def _attention(self, attention: Attention) -> Attention:
        """What the attention modules of the layers that run call instead of `attention`."""
        name = self.model.behaviour.attention
        assert name is not None
        layers = {
            self.model.layer(i).get_submodule(name): i
            for i in range(self.layer + 1, self.loss_layer + 1)
        }

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
        ) -> tuple[Tensor, Any]:
            if module not in layers:
                return attention(module, query, key, value, mask, **kwargs)
            states = [own.squeeze(0).transpose(0, 1) for own in (query, key, value)]
            within = partial(attention, **kwargs)
            parts = [own.attend(within, module, states, layers[module]) for own in self.groups]
            whole = torch.cat(parts).index_select(0, self.order.to(query.device))
            return whole.unsqueeze(0), None

        return attend


def _alike(before: Sequence[int], after: Sequence[int]) -> list[list[int]]:
    """Rows that share a call of attention, by the lengths of their prefixes and suffixes."""
    needed = [own * (past + own) for past, own in zip(before, after, strict=True)]
    limit = max(_CALL, _SHARE * sum(needed))
    groups: list[list[int]] = []
    suffix = prefix = waste = 0
    for row in sorted(range(len(after)), key=lambda i: (-after[i], -before[i])):
        # A longer prefix pads those that are there already.
        longer = max(prefix, before[row])
        more = (longer - prefix) * suffix * (len(groups[-1]) if groups else 0)
        more += suffix * (longer + suffix) - needed[row]
        if groups and waste + more <= limit:
            groups[-1].append(row)
            prefix, waste = longer, waste + more
        else:
            groups.append([row])
            suffix, prefix, waste = after[row], before[row], 0
    return groups


def _order(groups: Sequence[_Group]) -> Tensor:
    """Where each token is in what the groups give, one after the other, padding included."""
    tokens = torch.cat([own.tokens[own.filled] for own in groups])
    places = torch.cat([own.filled.flatten() for own in groups]).nonzero().squeeze(1)
    return places[tokens.argsort()].to(groups[0].places.device)
