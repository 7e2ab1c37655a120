"""What is edited: loading, structure, hooks, token positions, identity."""

from langedit.models.editable import EditableModel
from langedit.models.hooks import Recorder, hidden_of, replace_output
from langedit.models.identity import ModelIdentity, weights_hash
from langedit.models.loading import load_model
from langedit.models.offload import compute_device
from langedit.models.padding import PaddedBatch, pad_batch
from langedit.models.placement import DeviceMap
from langedit.models.positions import (
    EncodedPrompt,
    encode_continuation,
    encode_prompt,
    encode_text,
)
from langedit.models.saving import save_weights
from langedit.models.structure import ModelStructure, find_structure

__all__ = [
    "DeviceMap",
    "EditableModel",
    "EncodedPrompt",
    "ModelIdentity",
    "ModelStructure",
    "PaddedBatch",
    "Recorder",
    "compute_device",
    "encode_continuation",
    "encode_prompt",
    "encode_text",
    "find_structure",
    "hidden_of",
    "load_model",
    "pad_batch",
    "replace_output",
    "save_weights",
    "weights_hash",
]
