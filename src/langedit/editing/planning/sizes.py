"""Bytes of what an editor keeps, in pieces of one layer.

A second moment is (d_in, d_in), a basis of forbidden directions (d_in, rank), both float64; an
edited weight (d_model, d_in) is kept in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from langedit.editing.config import EditConfig
from langedit.editing.methods import find_method
from langedit.editing.methods.alphaedit import AlphaEdit
from langedit.editing.methods.memit import Memit
from langedit.editing.methods.memit_seq import MemitSeq
from langedit.editing.methods.rome import Rome
from langedit.editing.planning.quantisation import plain_module
from langedit.editing.planning.workload import Workload
from langedit.linalg.growing import rows_with_room
from langedit.linalg.recursive import most_rows
from langedit.models import EditableModel

_ASSUMED_NULL_SHARE = 0.5
"""Share of open directions where the settings give a threshold, which needs a real moment."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of what comes in pieces of one layer.

    Attributes:
        layers: number of edited layers.
        d_in: width of the keys.
        moment: a second moment.
        weight: an edited weight in float32.
        rounded: the same as the model stores it.
        rank: forbidden directions before the first batch.
        rank_after: the same after the last one.
        batch_rows: keys of a batch in float64.
        bases: bases of forbidden directions that are kept between batches.
        bases_growing: the same while a batch's directions are added.
        keys: keys of past edits that are kept between batches.
        keys_growing: the same while those of a batch are added.
        memory: what solves that weigh past keys know of them, kept between batches.
        memory_growing: the same while a batch's rows are added.
        memory_width: coordinates that it is in; 0 where solves weigh no past keys.
        closed: what the solves of a weighed corpus have closed, after the last batch.
        factored: what is kept of a second moment that solves weigh.
    """

    layers: int
    d_in: int
    moment: int
    weight: int
    rounded: int
    rank: int
    rank_after: int
    batch_rows: int
    bases: int
    bases_growing: int
    keys: int
    keys_growing: int
    memory: int
    memory_growing: int
    memory_width: int
    closed: int
    factored: int

    @classmethod
    def of(cls, model: EditableModel, config: EditConfig, work: Workload) -> Sizes:
        """The sizes of a run with this model."""
        d_in, d_model = model.structure.d_in, model.structure.d_model
        share = config.null_share or _ASSUMED_NULL_SHARE
        method = find_method(config.method)
        factors = issubclass(method, Memit | Rome)
        rank = round((1 - share) * d_in) if method.needs_null_space else 0
        grows = config.method == "langedit"
        kept, growing = most_directions(rank, work, d_in) if grows else (rank, rank)
        bases, bases_growing = 8 * d_in * kept, 8 * d_in * growing
        if grows and config.corpus_weight:  # what the solves of a weighed corpus close
            kept, growing = most_directions(0, work, d_in - rank)
            bases += 8 * (d_in - rank) * kept
            bases_growing += 8 * (d_in - rank) * growing
        closed = 8 * (d_in - rank) * min(d_in - rank, work.edits)
        keys, keys_growing = most_directions(0, work, None)
        # Of methods with a null space its eigenvectors, of others a triangular factor, if any.
        weighs = bool(config.corpus_weight) if method.needs_null_space else factors
        factored = 8 * d_in * (d_in - rank) if weighs else 0
        width = 0
        if issubclass(method, MemitSeq):
            width = d_in
        elif issubclass(method, AlphaEdit) and config.solve_history:
            width = d_in - rank if weighs else d_in
        memory, memory_growing = most_remembered(work, width)
        return cls(
            layers=len(config.edited_layers),
            d_in=d_in,
            moment=8 * d_in * d_in,
            weight=4 * d_in * d_model,
            rounded=d_in * d_model * next(plain_module(model.projection(0)).parameters()).itemsize,
            rank=rank,
            rank_after=min(d_in, rank + work.edits) if grows else rank,
            batch_rows=8 * d_in * work.batch,
            bases=bases,
            bases_growing=bases_growing,
            keys=4 * d_in * keys,
            keys_growing=4 * d_in * keys_growing,
            memory=8 * width * memory,
            memory_growing=8 * width * memory_growing,
            memory_width=width,
            closed=closed if grows and config.corpus_weight else 0,
            factored=factored,
        )

    @property
    def null(self) -> int:
        """Open directions before the first batch."""
        return self.d_in - self.rank

    @property
    def mean_rank(self) -> float:
        """Forbidden directions in the middle of the run."""
        return (self.rank + self.rank_after) / 2

    def basis(self, rank: int) -> int:
        """A basis of so many forbidden directions."""
        return 8 * self.d_in * rank


def most_directions(rank: int, work: Workload, most: int | None) -> tuple[int, int]:
    """The most rows that are stored between batches, and while those of a batch are added.

    All states share one storage, which is made with room for more rows. When it is full, a larger
    one is filled from it.
    """
    held = kept = growing = rank
    for batch in range(work.batches):
        known, more = rank + batch * work.batch_size, work.batch
        if most is not None:
            known = min(most, known)
            more = min(most - known, more)
        kept = max(kept, held)
        if known + more > held:
            larger = rows_with_room(known, more, most)
            growing, held = max(growing, held + larger), larger
    return kept, max(growing, held)


def most_remembered(work: Workload, width: int) -> tuple[int, int]:
    """The same of the rows of a `RecursiveRidge`, and of what making them fewer takes.

    States from before and after rows were made fewer share nothing.
    """
    rows = held = earlier = kept = growing = 0
    for _ in range(work.batches):
        kept = max(kept, held + earlier)
        total, storage = rows + work.batch, held
        beside = earlier  # of the state that is kept for undo, and will not be after this batch
        if total > held:
            storage = rows_with_room(rows, work.batch, most_rows(width))
            beside += held
        growing = max(growing, beside + storage)
        if total <= most_rows(width):
            rows, held, earlier = total, storage, 0
            continue
        # The decomposition works in a copy; what it gives is laid out anew.
        growing = max(growing, beside + storage + total + 2 * width)
        rows, held, earlier = width, width, held
    return kept, max(growing, held + earlier)
