"""Scores and second moments, one text at a time: the whole model with full logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from langedit.evaluation import ForcedAnswer
from langedit.models import EditableModel, Recorder, pad_batch

Encoded = tuple[Sequence[int], Sequence[int]]


def baseline_answers(model: EditableModel, items: Iterable[Encoded]) -> list[ForcedAnswer]:
    """What the model says at each token of an answer (ids of a prompt, ids of the answer)."""
    found = []
    for prompt, answer in items:
        logits = _logits(model, (*prompt, *answer))[len(prompt) - 1 : -1]
        chosen = logits.log_softmax(dim=1)[range(len(answer)), list(answer)]
        found.append(ForcedAnswer(tuple(logits.argmax(dim=1).tolist()), tuple(chosen.tolist())))
    return found


def baseline_moments(
    model: EditableModel, texts: Iterable[str], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Layer -> mean over all tokens of the outer products of keys (d_in, d_in), in float32.

    The published code reads one layer after the other, each in a pass of its own over the corpus.
    """
    encoded = [tuple(model.tokenizer(text)["input_ids"]) for text in texts]
    found = {}
    for layer in layers:
        name, count = model.projection_name(layer), 0
        total = torch.zeros(model.structure.d_in, model.structure.d_in)
        for ids in encoded:
            recorder = Recorder(model.model, inputs=[name])
            with recorder:
                _logits(model, ids)
            keys = recorder.inputs[name].flatten(0, -2)
            total += keys.T @ keys
            count += len(keys)
        found[layer] = total / count
    return found


def _logits(model: EditableModel, ids: Sequence[int]) -> Tensor:
    """(tokens, vocabulary) of one text."""
    with torch.no_grad():
        logits: Tensor = model.model(**model.inputs(pad_batch([ids], model.pad_id))).logits
    return logits[0]
