"""Export as a PEFT LoRA adapter: exact, or of a smaller rank with what that loses."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from langedit.editing import EditedModelRecord, Moments
from langedit.editing.record import update_shape
from langedit.errors import ConfigError, MomentsError, RecordError
from langedit.evaluation import score_facts
from langedit.folders import whole_folder
from langedit.linalg import Compression, LowRankUpdate, Update, compress_update, key_metric
from langedit.workspace.export.base import BaseSource, load_base
from langedit.workspace.export.card import write_card
from langedit.workspace.export.outcome import ExportOutcome, Loss, fact_scores, with_scores
from langedit.workspace.export.selection import select_edits


@dataclass(frozen=True, kw_only=True, eq=False)
class _Factors:
    """The factors of an adapter.

    Attributes:
        updates: layer -> factors, of ranks up to `rank`.
        rank: of the adapter.
        lost: layer -> relative error; `None` if the factors are exact.
    """

    updates: Mapping[int, LowRankUpdate]
    rank: int
    lost: Mapping[int, float] | None = None


def export_adapter(
    record: EditedModelRecord,
    folder: str | Path,
    *,
    base: BaseSource | None = None,
    batches: Collection[int] | None = None,
    languages: Collection[str] | None = None,
    max_rank: int | None = None,
    moments: Moments | None = None,
) -> ExportOutcome:
    """Write the updates as a LoRA adapter for peft, with a model card.

    The factors are those of the updates, side by side; nothing is approximated unless `max_rank`
    says so. The rank is the number of facts, and at most the smaller side of the edited weight;
    that is also the rank of updates that have no factors.

    Args:
        record: the base model and its updates.
        folder: new or empty; it appears when it is complete.
        base: where the base model is, if not where the record says. It is loaded only where scores
            must be measured.
        batches: numbers of the batches to export; `None` for all.
        languages: languages of the facts to export; `None` for all.
        max_rank: largest rank. Updates of a larger one are approximated such that the keys of the
            corpus and of the edits are changed most nearly as before, and every fact is scored.
        moments: second moments of the edited layers, needed to approximate.

    Raises:
        ConfigError: `max_rank` is below 1.
        MomentsError: moments are needed and not given, or of another model.
        RecordError: keys are needed and not in the record, the base has other weights, or the
            selection cannot be made.
        LangEditError: the base cannot be loaded, or the folder not be written.
    """
    if max_rank is not None and max_rank < 1:
        raise ConfigError(f"max_rank: expected a number above 0, got {max_rank}")
    chosen = select_edits(record, batches, languages)
    with whole_folder(Path(folder)) as whole:
        exact = {layer: exact_factors(chosen.total(layer)) for layer in chosen.layers}
        rank = max(update.rank for update in exact.values())
        if max_rank is not None and rank > max_rank:
            factors = _compressed(chosen, exact, max_rank, moments)
            chosen, loss = _rescored(chosen, exact, factors, base)
        else:
            factors, loss = _Factors(updates=exact, rank=rank), None
            chosen = with_scores(chosen, base)
        write_adapter(whole, chosen, factors.updates, factors.rank)
        outcome = ExportOutcome(
            kind="adapter", folder=Path(folder), record=chosen, rank=factors.rank, loss=loss
        )
        write_card(whole, outcome)
    return outcome


def exact_factors(update: Update) -> LowRankUpdate:
    """The same update with as few rows of factors as can be had without a decomposition.

    Factors with more rows than the weight has on its smaller side are multiplied out: the matrix
    and an identity matrix are a pair of factors too. So are they for an update without factors.
    """
    rows, columns = update_shape(update)
    if isinstance(update, LowRankUpdate) and update.rank <= min(rows, columns):
        return update
    dense = update.to(dtype=torch.float64).dense().float()
    one = torch.eye(min(rows, columns), dtype=dense.dtype, device=dense.device)
    if rows <= columns:
        return LowRankUpdate(left=one, right=dense)
    return LowRankUpdate(left=dense, right=one)


def write_adapter(
    folder: Path, record: EditedModelRecord, updates: Mapping[int, LowRankUpdate], rank: int
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`.

    All layers get the same rank, filled up with zeros, since not every program reads others.

    Raises:
        OSError: a file cannot be written.
    """
    tensors = {}
    for layer, update in updates.items():
        name = f"base_model.model.{record.layers[layer].module_name}"
        tensors[f"{name}.lora_A.weight"] = _padded(update.right, 0, rank)
        tensors[f"{name}.lora_B.weight"] = _padded(update.left, 1, rank)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(adapter_config(record, rank), ensure_ascii=False, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def adapter_config(record: EditedModelRecord, rank: int) -> dict[str, Any]:
    """What peft reads: a LoRA of a rank with a scaling of 1 on the edited modules."""
    layers = record.layers.values()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": record.base.source,
        "revision": record.base.revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(layer.module_name for layer in layers),
        "fan_in_fan_out": any(layer.transposed for layer in layers),
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }


def _padded(factor: Tensor, dim: int, rank: int) -> Tensor:
    """A factor with zeros up to a rank along a dimension."""
    shape = list(factor.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([factor.cpu().float(), torch.zeros(shape)], dim=dim).contiguous()


def _compressed(
    record: EditedModelRecord,
    exact: Mapping[int, LowRankUpdate],
    max_rank: int,
    moments: Moments | None,
) -> _Factors:
    """Factors of a smaller rank, in the metric of the keys of corpus and edits."""
    if moments is None:
        raise MomentsError(
            f"expected second moments, to make an adapter of rank {max_rank} that changes keys "
            "most nearly as the updates do, got none: give those that the model was edited with"
        )
    if moments.identity.weights_hash != record.base.weights_hash:
        raise MomentsError(
            f"expected second moments of the base model (weights {record.base.weights_hash}), got "
            f"those of weights {moments.identity.weights_hash}"
        )
    missing = sorted(set(record.layers) - set(moments.layers))
    if missing:
        raise MomentsError(f"expected second moments of every edited layer, got none of {missing}")
    found: dict[int, Compression] = {}
    for layer, update in exact.items():
        metric = key_metric(moments.layers[layer].moment, _edited_keys(record, layer))
        found[layer] = compress_update(update, metric, max_rank)
    return _Factors(
        updates={layer: own.update for layer, own in found.items()},
        rank=max_rank,
        lost={layer: own.lost for layer, own in found.items()},
    )


def _edited_keys(record: EditedModelRecord, layer: int) -> Tensor:
    """The keys of all facts at a layer, (facts, d_in)."""
    keys = []
    for batch in record.batches:
        if batch.keys is None:
            raise RecordError(
                "expected the keys of the facts, to make an adapter of smaller rank, got none: "
                "export it from the folder that langedit edit wrote; a delta has no keys"
            )
        keys.append(batch.keys[layer].cpu())
    return torch.cat(keys)


def _rescored(
    record: EditedModelRecord,
    exact: Mapping[int, LowRankUpdate],
    factors: _Factors,
    base: BaseSource | None,
) -> tuple[EditedModelRecord, Loss]:
    """Score every fact with the exact and with the compressed updates."""
    model = load_base(record, base)
    weights = {layer: model.read_weight(layer) for layer in record.layers}
    scores = []
    for updates in (exact, factors.updates):
        for layer, weight in weights.items():
            model.write_weight(layer, weight + updates[layer].dense().to(weight))
        scores.append([score.shares() for score in score_facts(model, record.facts)])
    loss = Loss(
        rank=max(update.rank for update in exact.values()),
        layers=factors.lost or {},
        exact=fact_scores(record.with_scores(scores[0])),
    )
    return record.with_scores(scores[1]), loss
