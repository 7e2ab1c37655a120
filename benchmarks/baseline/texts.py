"""Scores, one text at a time with full logits; second moments, one layer at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from langedit.evaluation import ForcedAnswer
from langedit.models import EditableModel, Recorder, pad_batch

_TEXTS = 100
"""Texts that are sorted together."""

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

    As in the published code: one layer after the other, each in passes of its own over the corpus,
    which end at the layer; texts by hundreds, and of these such of like length in one pass.
    """
    encoded = [tuple(model.tokenizer(text)["input_ids"]) for text in texts]
    found = {}
    for layer in layers:
        name, count = model.projection_name(layer), 0
        total = torch.zeros(model.structure.d_in, model.structure.d_in)
        for rows in _by_length(encoded, 3 * model.model.config.max_position_embeddings):
            batch = pad_batch(rows, model.pad_id)
            recorder = Recorder(model.model, inputs=[name], stop_after=name)
            with torch.no_grad(), recorder:
                model.model(**model.inputs(batch))
            keys = recorder.inputs[name].reshape(*batch.ids.shape, -1)[batch.mask.bool()]
            total += keys.T @ keys
            count += len(keys)
        found[layer] = total / count
    return found


def _by_length(texts: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Rows of one pass: of a hundred texts, sorted, as many as make that many tokens, padded."""
    for start in range(0, len(texts), _TEXTS):
        rows: list[Sequence[int]] = []
        for text in sorted(texts[start : start + _TEXTS], key=len, reverse=True):
            if rows and (len(rows) + 1) * len(rows[0]) > tokens:
                yield rows
                rows = []
            rows.append(text)
        yield rows


def _logits(model: EditableModel, ids: Sequence[int]) -> Tensor:
    """(tokens, vocabulary) of one text."""
    with torch.no_grad():
        logits: Tensor = model.model(**model.inputs(pad_batch([ids], model.pad_id))).logits
    return logits[0]
