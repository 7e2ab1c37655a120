"""What is edited: loading, structure, hooks, token positions, identity."""

from langedit.models.attention import Attention, replace_attention
from langedit.models.chat import ChatSettings, answer_text, render_prompt
from langedit.models.editable import EditableModel
from langedit.models.hooks import Recorder, hidden_of, replace_output
from langedit.models.identity import ModelIdentity, weights_hash
from langedit.models.loading import load_model
from langedit.models.offload import compute_device, find_offloaded, values_of
from langedit.models.padding import PaddedBatch, pad_batch
from langedit.models.placement import DeviceMap
from langedit.models.plain_projections import dequantise_projections
from langedit.models.positions import (
    EncodedPrompt,
    encode_answers,
    encode_continuation,
    encode_prompt,
    encode_text,
)
from langedit.models.quantised import require_at_hand, require_runs
from langedit.models.saving import save_weights
from langedit.models.structure import ModelStructure, find_structure

__all__ = [
    "Attention",
    "ChatSettings",
    "DeviceMap",
    "EditableModel",
    "EncodedPrompt",
    "ModelIdentity",
    "ModelStructure",
    "PaddedBatch",
    "Recorder",
    "answer_text",
    "compute_device",
    "dequantise_projections",
    "encode_answers",
    "encode_continuation",
    "encode_prompt",
    "encode_text",
    "find_offloaded",
    "find_structure",
    "hidden_of",
    "load_model",
    "pad_batch",
    "render_prompt",
    "replace_attention",
    "replace_output",
    "require_at_hand",
    "require_runs",
    "save_weights",
    "values_of",
    "weights_hash",
]
