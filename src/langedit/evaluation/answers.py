"""What a model answers: most probable tokens under teacher forcing, and log-probabilities of text.

Everything is batched by length and padded on the right, where a causal model cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from langedit.editing.batching import micro_batches
from langedit.facts import Language
from langedit.models import (
    EditableModel,
    compute_device,
    encode_continuation,
    encode_text,
    pad_batch,
)


def encode_answer(
    model: EditableModel, language: str, prompt: str, answer: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of a prompt, and of an answer as it follows that prompt in its language."""
    joined = Language.parse(language).join(answer, after=prompt)
    ids = encode_text(model.tokenizer, prompt)
    return ids, encode_continuation(model.tokenizer, prompt, joined)


def forced_predictions(
    model: EditableModel,
    items: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_tokens: int = 8192,
) -> list[tuple[int, ...]]:
    """Most probable next token at every position of the answers.

    Args:
        model: the model.
        items: pairs of prompt ids and answer ids, neither empty.
        batch_tokens: padded tokens in one forward pass.

    Returns:
        For each item as many token ids as its answer has. Logits are computed at those positions
        only.
    """
    sequences = [[*prompt, *answer][:-1] for prompt, answer in items]
    head = model.model.get_submodule(model.structure.head)
    device = compute_device(model.model, model.structure.head)
    found: list[tuple[int, ...]] = [()] * len(items)
    for group in micro_batches([len(sequence) for sequence in sequences], batch_tokens):
        batch = pad_batch([sequences[i] for i in group], model.pad_id)
        spans = [(len(items[i][0]) - 1, len(items[i][1])) for i in group]
        with torch.no_grad():
            hidden = model.run(batch)
            wanted = torch.cat(
                [hidden[row, start : start + size] for row, (start, size) in enumerate(spans)]
            )
            best = head(wanted.to(device)).argmax(dim=-1).tolist()
        at = 0
        for item, (_, size) in zip(group, spans, strict=True):
            found[item] = tuple(best[at : at + size])
            at += size
    return found


def text_log_probabilities(
    model: EditableModel, texts: Sequence[str], *, batch_tokens: int = 4096
) -> Iterator[Tensor]:
    """Log-probabilities (nats, natural logarithm) of the tokens of texts, in order of length.

    The first token of a text has no context and is left out; with a tokenizer that puts BOS in
    front, that is BOS.

    Yields:
        For each text a float32 tensor (tokens - 1,) on the CPU.
    """
    sequences = [encode_text(model.tokenizer, text) for text in texts]
    for group in micro_batches([len(sequence) for sequence in sequences], batch_tokens):
        batch = pad_batch([sequences[i] for i in group], model.pad_id)
        with torch.no_grad():
            logits = model.logits(batch)[:, :-1].float()
            expected = batch.ids[:, 1:].to(logits.device)
            chosen = logits.gather(-1, expected[..., None])[..., 0] - logits.logsumexp(-1)
        for row, item in enumerate(group):
            yield chosen[row, : len(sequences[item]) - 1].cpu()


def greedy_text(
    model: EditableModel, language: str, prompts: Sequence[str], *, max_new_tokens: int = 12
) -> list[str]:
    """Greedy continuations of prompts, cut after their first sentence.

    Args:
        model: the model.
        language: of the prompts; says how a sentence ends.
        prompts: the texts to continue.
        max_new_tokens: of each continuation.
    """
    stop = Language.parse(language).sentence_break.strip()
    texts = []
    generate: Callable[..., Tensor] = cast(Any, model.model).generate
    for prompt in prompts:
        ids = torch.tensor([encode_text(model.tokenizer, prompt)], device=model.device)
        with torch.no_grad():
            output = generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=model.pad_id,
            )
        text = str(model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
        texts.append((text.split(stop)[0] if stop else text).strip())
    return texts
