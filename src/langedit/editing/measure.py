"""Measure what a batch did, from its keys, its updates and the keys of earlier edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from langedit.editing.batch import BatchEdit
from langedit.editing.independence import (
    KnownKeys,
    change_by_language,
    output_change,
    summarise,
)
from langedit.editing.methods import LayerState
from langedit.editing.report import BatchReport, RankUse, UpdateNorm
from langedit.editing.state import EditorState
from langedit.facts import Fact
from langedit.linalg import null_fraction


def measure_batch(
    facts: Sequence[Fact],
    rows: Sequence[int],
    edit: BatchEdit,
    before: EditorState,
    after: EditorState,
    samples: Mapping[int, KnownKeys],
) -> BatchReport:
    """The report of a batch, without times.

    Args:
        facts: the batch.
        rows: for each fact its row in keys and targets.
        edit: what was done.
        before: state before the batch.
        after: state after it.
        samples: layer -> keys of the corpus.
    """
    independence, corpus, ranks, norms = {}, {}, {}, {}
    for layer, own in edit.layers.items():
        past = before.layers[layer].history
        if len(past):
            known = KnownKeys(keys=past, sizes=before.sizes[layer])
            ratios = output_change(own.update, known)
            independence[layer] = change_by_language(ratios, before.languages)
        corpus[layer] = summarise(output_change(own.update, samples[layer]))
        ranks[layer] = _rank_use(
            before.layers[layer], after.layers[layer], own.keys, edit.kept.get(layer)
        )
        norms[layer] = UpdateNorm(
            update=own.update.norm(), weight=float(torch.linalg.vector_norm(own.before))
        )
    return BatchReport(
        facts=tuple(facts),
        rows=tuple(rows),
        updates={layer: own.update for layer, own in edit.layers.items()},
        keys={layer: own.keys for layer, own in edit.layers.items()},
        prefixes={fact.language: after.prefixes[fact.language] for fact in facts},
        targets=edit.targets,
        losses=edit.losses,
        independence=independence,
        corpus_change=corpus,
        ranks=ranks,
        norms=norms,
        seconds={},
    )


def _rank_use(
    before: LayerState, after: LayerState, keys: Tensor, kept: Tensor | None
) -> RankUse | None:
    if before.projector is None or after.projector is None:
        return None
    if kept is None:
        kept = null_fraction(before.projector, keys)
    return RankUse(
        used=before.projector.rank,
        left=before.projector.left,
        left_after=after.projector.left,
        kept_median=float(kept.median()),
        kept_smallest=float(kept.min()),
    )
