"""What an editor holds between two batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langedit.editing.independence import output_size
from langedit.editing.methods import LayerState
from langedit.editing.prefixes import Prefixes
from langedit.linalg import rows_beyond
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class EditorState:
    """Everything that a batch changes. Never changed itself: a batch makes another.

    Attributes:
        layers: layer -> what the method remembers.
        languages: language of every edit so far, aligned with the rows of the layers' histories.
        sizes: layer -> (m,) `|W k|` of the key of every edit so far, in the weight that its own
            batch left. Measurements read them; no edit does, so that the digest leaves them out.
        prefixes: context prefixes given, or used so far.
        digest: SHA-256 that covers all of this: of the state before, and of what the last batch
            added to it. Two states with equal digests edit the next batch alike.
    """

    layers: Mapping[int, LayerState]
    languages: tuple[str, ...]
    sizes: Mapping[int, Tensor]
    prefixes: Prefixes
    digest: str

    @classmethod
    def first(cls, layers: Mapping[int, LayerState], prefixes: Prefixes) -> EditorState:
        """The state before the first batch."""
        digest = hashlib.sha256(repr(dict(prefixes)).encode())
        for layer, state in layers.items():
            digest.update(f"layer {layer} ridge {state.ridge!r}".encode())
            for tensor in _tensors(state):
                digest.update(_bytes(tensor))
        sizes = {layer: torch.zeros(0) for layer in layers}
        return cls(
            layers=layers, languages=(), sizes=sizes, prefixes=prefixes, digest=digest.hexdigest()
        )

    def after(
        self,
        layers: Mapping[int, LayerState],
        languages: Sequence[str],
        prefixes: Mapping[str, tuple[str, ...]],
        weights: Mapping[int, Tensor],
        digest: str,
    ) -> EditorState:
        """The state after a batch.

        Args:
            layers: layer -> what the method remembers from now on.
            languages: language of each row that the batch added to the histories.
            prefixes: those of the batch's languages.
            weights: layer -> (d_out, d_in) that the batch left.
            digest: what `next_digest` gives for the batch.
        """
        known = self.prefixes
        if any(known.get(language) != texts for language, texts in prefixes.items()):
            known = Prefixes({**known, **prefixes})
        return EditorState(
            layers=layers,
            languages=(*self.languages, *languages),
            sizes={layer: self._sizes(layer, own, weights[layer]) for layer, own in layers.items()},
            prefixes=known,
            digest=digest,
        )

    def forget(self) -> None:
        """Keep nothing that was worked out of the batch that follows."""
        for own in self.layers.values():
            own.forget()

    def sharing(self, later: EditorState) -> EditorState:
        """The same, with its tensors kept as the beginnings of those of a state made of it."""
        layers = {layer: own.sharing(later.layers[layer]) for layer, own in self.layers.items()}
        return replace(self, layers=layers)

    def _sizes(self, layer: int, after: LayerState, weight: Tensor) -> Tensor:
        known = self.sizes[layer]
        return torch.cat([known, output_size(weight, after.history[len(known) :])])

    def next_digest(
        self,
        layers: Mapping[int, LayerState],
        languages: Sequence[str],
        prefixes: Mapping[str, tuple[str, ...]],
    ) -> str:
        """The digest after a batch; arguments as for `after`."""
        said = [self.digest, sorted(prefixes.items()), list(languages)]
        digest = hashlib.sha256(repr(said).encode())
        for layer, state in layers.items():
            digest.update(f"layer {layer}".encode())
            for tensor in layer_growth(self.layers[layer], state):
                digest.update(_bytes(tensor))
        return digest.hexdigest()


def layer_growth(before: LayerState, after: LayerState) -> tuple[Tensor, ...]:
    """What a batch added to a layer's state: keys, and columns of the basis.

    A basis that was made anew counts whole, and so do a new moment and what only one method has.
    """
    grown = [after.history[len(before.history) :]]
    if after.projector is not None:
        growth = basis_growth(before, after)
        grown.append(after.projector.basis if growth is None else growth)
    if after.moment is not None and after.moment is not before.moment:
        grown.append(after.moment.mean)
    return (*grown, *after.further())


def basis_growth(before: LayerState, after: LayerState) -> Tensor | None:
    """Columns (d_in, r) by which the forbidden basis grew; `None` where it was made anew."""
    if before.projector is None or after.projector is None:
        return None
    growth = rows_beyond(before.projector.basis.T, after.projector.basis.T)
    return None if growth is None else growth.T


def stored_digest(model: EditableModel, layers: Iterable[int]) -> str:
    """SHA-256 of the weights of some layers as the model stores them."""
    return weights_digest(model.read_weight(layer) for layer in layers)


def weights_digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of weights, in order."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _tensors(state: LayerState) -> list[Tensor]:
    """Everything in a layer's state that a solve reads, but for what follows from the rest."""
    found = [state.history]
    if state.projector is not None:
        found.append(state.projector.basis)
    if state.solver is not None:
        found += state.solver.tensors
    if state.moment is not None:
        found.append(state.moment.mean)
    return found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().data
