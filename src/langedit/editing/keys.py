"""Keys and hidden states at the lookup tokens of prompts.

A causal model cannot see what follows a token, so prompts are cut after their lookup token: less to
compute, and the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langedit.editing.batching import micro_batches
from langedit.models import EditableModel, EncodedPrompt, Recorder, pad_batch


def compute_keys(
    model: EditableModel,
    contexts: Sequence[Sequence[EncodedPrompt]],
    layers: Sequence[int],
    *,
    max_tokens: int = 8192,
) -> dict[int, Tensor]:
    """Inputs of the edited projections at the lookup tokens (algorithm 1 of MEMIT).

    The key of an edit is half its key in the bare prompt and half the mean of its keys in the
    prefixed prompts; without prefixes it is the bare one.

    Args:
        model: the model with the weights as they are now.
        contexts: for each edit the bare prompt, then the prefixed ones.
        layers: indices of the layers.
        max_tokens: padded tokens in one forward pass.

    Returns:
        layer -> keys (n, d_in) float32.
    """
    prompts = [prompt for context in contexts for prompt in context]
    names = {layer: model.projection_name(layer) for layer in layers}
    rows = _at_lookup(model, prompts, names, of_inputs=True, max_tokens=max_tokens)
    weights = _key_weights([len(context) for context in contexts])
    return {layer: weights.to(keys.device) @ keys for layer, keys in rows.items()}


def lookup_hidden(
    model: EditableModel, prompts: Sequence[EncodedPrompt], layer: int, *, max_tokens: int = 8192
) -> Tensor:
    """Outputs (n, d_model), float32, of a layer at the lookup tokens of n prompts."""
    names = {layer: model.layer_name(layer)}
    return _at_lookup(model, prompts, names, of_inputs=False, max_tokens=max_tokens)[layer]


def lookup_projected(
    model: EditableModel, prompts: Sequence[EncodedPrompt], layer: int, *, max_tokens: int = 8192
) -> Tensor:
    """Outputs (n, d_model), float32, of a layer's edited projection at the lookup tokens."""
    names = {layer: model.projection_name(layer)}
    return _at_lookup(model, prompts, names, of_inputs=False, max_tokens=max_tokens)[layer]


def _at_lookup(
    model: EditableModel,
    prompts: Sequence[EncodedPrompt],
    names: dict[int, str],
    *,
    of_inputs: bool,
    max_tokens: int,
) -> dict[int, Tensor]:
    """What enters or leaves named modules at the lookup tokens: layer -> (n, width) float32.

    Some models (OPT) hand their MLP all tokens as one list of rows.
    """
    sequences = [prompt.ids[: prompt.lookup + 1] for prompt in prompts]
    parts: dict[int, list[Tensor]] = {layer: [] for layer in names}
    groups = micro_batches([len(ids) for ids in sequences], max_tokens)
    inside = list(names.values())
    for group in groups:
        batch = pad_batch([sequences[i] for i in group], model.pad_id)
        recorder = Recorder(
            model.model,
            inputs=inside if of_inputs else (),
            outputs=() if of_inputs else inside,
            stop_after=names[max(names)],
        )
        with torch.no_grad(), recorder:
            model.run(batch)
        seen = recorder.inputs if of_inputs else recorder.outputs
        last = torch.tensor([len(sequences[i]) - 1 for i in group])
        for layer, name in names.items():
            states = seen[name].reshape(*batch.ids.shape, -1)
            at = last.to(states.device)
            parts[layer].append(states[torch.arange(len(group), device=at.device), at].float())
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return {layer: torch.cat(rows)[order.to(rows[0].device)] for layer, rows in parts.items()}


def _key_weights(sizes: Sequence[int]) -> Tensor:
    """(edits, prompts): what each prompt counts for in each edit's key."""
    weights = torch.zeros(len(sizes), sum(sizes))
    start = 0
    for edit, size in enumerate(sizes):
        if size == 1:
            weights[edit, start] = 1.0
        else:
            weights[edit, start] = 0.5
            weights[edit, start + 1 : start + size] = 0.5 / (size - 1)
        start += size
    return weights
