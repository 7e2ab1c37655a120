"""Keys and hidden states from passes of the whole model over whole prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langedit.models import EditableModel, EncodedPrompt, Recorder, pad_batch

_ROWS = 128


def baseline_keys(
    model: EditableModel, contexts: Sequence[Sequence[EncodedPrompt]], layer: int
) -> Tensor:
    """Keys (n, d_in): half the bare prompt's, half the mean of the prefixed ones'."""
    prompts = [prompt for own in contexts for prompt in own]
    rows = _at_lookup(model, prompts, inputs=model.projection_name(layer))
    keys, start = [], 0
    for own in contexts:
        mine = rows[start : start + len(own)]
        keys.append(mine[0] if len(own) == 1 else 0.5 * mine[0] + 0.5 * mine[1:].mean(dim=0))
        start += len(own)
    return torch.stack(keys)


def baseline_lookup_hidden(
    model: EditableModel, prompts: Sequence[EncodedPrompt], layer: int
) -> Tensor:
    """Outputs (n, d_model) of a layer at the lookup tokens."""
    return _at_lookup(model, prompts, outputs=model.layer_name(layer))


def _at_lookup(
    model: EditableModel,
    prompts: Sequence[EncodedPrompt],
    *,
    inputs: str | None = None,
    outputs: str | None = None,
) -> Tensor:
    found = []
    for start in range(0, len(prompts), _ROWS):
        own = prompts[start : start + _ROWS]
        batch = pad_batch([prompt.ids for prompt in own], model.pad_id)
        recorder = Recorder(
            model.model,
            inputs=[inputs] if inputs else [],
            outputs=[outputs] if outputs else [],
        )
        with torch.no_grad(), recorder:
            model.logits(batch)
        seen = recorder.inputs[inputs] if inputs else recorder.outputs[str(outputs)]
        states = seen.reshape(*batch.ids.shape, -1)
        found.append(states[torch.arange(len(own)), [prompt.lookup for prompt in own]])
    return torch.cat(found)
