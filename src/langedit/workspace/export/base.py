"""The base model of a record: loaded, and seen to be the one that was edited."""

from __future__ import annotations

from dataclasses import dataclass

from langedit.editing import EditedModelRecord
from langedit.editing.batch import sum_updates
from langedit.editing.record import update_shape
from langedit.errors import RecordError
from langedit.models import EditableModel, dequantise_projections, load_model


@dataclass(frozen=True, kw_only=True)
class BaseSource:
    """Where a base model is.

    Attributes:
        source: folder or hub id.
        revision: of a hub model.
        device_map: where the model goes; `None` is the CPU.
    """

    source: str
    revision: str | None = None
    device_map: str | None = None


def load_base(record: EditedModelRecord, base: BaseSource | None = None) -> EditableModel:
    """Load the model that a record was made from, in the precision in which it was edited.

    It is asked as it was when it was edited: through its chat template, or in plain text.
    Projections that were edited are plain in it, where the model is quantised.

    Args:
        record: the record.
        base: where the model is; `None` for where the record says.

    Raises:
        RecordError: it has other weights, or other parts, than the record says.
        ModelError: it cannot be loaded.
    """
    place = base or BaseSource(source=record.base.source, revision=record.base.revision)
    model = load_model(
        place.source,
        revision=place.revision,
        dtype="auto" if record.dtype == "float64" else record.dtype,
        device_map=place.device_map,
        structure_overrides=record.structure or None,
    )
    came = model.identity().weights_hash
    if came != record.base.weights_hash:
        raise RecordError(
            f"{place.source}: expected the base model that was edited, {record.base.source} with "
            f"weights {record.base.weights_hash}, got weights {came}: give the folder or the "
            "revision of that model. One that was quantised while it was loaded must be saved "
            "quantised before it is edited"
        )
    for layer, where in record.layers.items():
        if not layer < model.structure.n_layers or model.weight_name(layer) != where.weight_name:
            raise RecordError(
                f"layer {layer}: expected its edited weight to be {where.weight_name} in "
                f"{place.source}, found {model.structure.n_layers} layers like "
                f"{model.weight_name(0)}: the record names other parts than the model has"
            )
        shape = update_shape(record.batches[0].updates[layer])
        if shape != (model.structure.d_model, model.structure.d_in):
            raise RecordError(
                f"layer {layer}: expected updates of shape "
                f"{(model.structure.d_model, model.structure.d_in)}, got {shape}"
            )
    dequantise_projections(model, record.layers)
    return model.with_chat(record.chat)


def add_edits(model: EditableModel, record: EditedModelRecord) -> None:
    """Add all updates of a record to its base model: summed in order, rounded once.

    Raises:
        NumericalError: a value is not finite in the stored precision.
    """
    for layer in record.layers:
        weight = model.read_weight(layer)
        updates = [update.to(device=weight.device) for update in record.updates(layer)]
        model.write_weight(layer, sum_updates(weight, updates))
