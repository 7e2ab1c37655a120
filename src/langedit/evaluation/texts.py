"""Whole texts: how probable a model finds them, and how it goes on after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from langedit.editing.batching import halve_on_oom, micro_batches, with_less_memory
from langedit.editing.requests import shortened
from langedit.errors import FactError
from langedit.evaluation.forced import no_numbers, require_context, spoiled
from langedit.facts import Language
from langedit.models import EditableModel, PaddedBatch, encode_text, pad_batch
from langedit.parallel import ALONE, Processes


@dataclass(frozen=True)
class Continuation:
    """What a model says after a prompt.

    Attributes:
        ids: token ids, up to the end token if the model gave one, without it.
        text: the same as text, without special tokens.
    """

    ids: tuple[int, ...]
    text: str


def continue_greedily(
    model: EditableModel,
    prompts: Sequence[tuple[int, ...]],
    new_tokens: Sequence[int],
    *,
    batch_tokens: int = 8192,
    processes: Processes = ALONE,
) -> list[Continuation]:
    """Continue prompts with the most probable token, again and again, with a key-value cache.

    Equal prompts run once. Prompts of like length run together, padded on the left.

    Args:
        model: the model. Of its own generation settings only the end tokens are heeded.
        prompts: token ids.
        new_tokens: how many tokens each prompt gets, at most; no more than its context has room
            for.
        batch_tokens: padded tokens of prompts and continuations in one batch.
        processes: each runs its share of the batches; all get every continuation.

    Raises:
        TokenError: a prompt is longer than the model's context.
        NumericalError: the model gives no numbers after a prompt; the message names it.
    """
    require_context(model, prompts)
    needed: dict[tuple[int, ...], int] = {}
    for prompt, count in zip(prompts, new_tokens, strict=True):
        needed[prompt] = max(_room(model, prompt, count), needed.get(prompt, 0))
    distinct = list(needed)
    groups = micro_batches([len(p) + needed[p] for p in distinct], batch_tokens)
    batches = [[distinct[i] for i in group] for group in groups]

    def run(batch: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        most = max(needed[p] for p in batch)
        if len(batch) > 1 and most > min(_room(model, p, most) for p in batch):
            return [ids for p in batch for ids in run([p])]
        return list(_generate(model, batch, most))

    def tokens(batch: list[tuple[int, ...]]) -> int:
        return len(batch) * max(len(p) + needed[p] for p in batch)

    def halved(batch: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        parts = halve_on_oom(
            batch, run, limits=model.limits, kind="continuations", size=tokens, one="prompt"
        )
        return [ids for _, part in parts for ids in part]

    def generate(own: Sequence[list[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
        return [halved(batch) for batch in own]

    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for batch, texts in zip(batches, processes.spread(batches, generate), strict=True):
        found.update(zip(batch, texts, strict=True))
    return [
        _continuation(model, found[prompt][:count])
        for prompt, count in zip(prompts, new_tokens, strict=True)
    ]


def _room(model: EditableModel, prompt: Sequence[int], count: int) -> int:
    """How many of some tokens the context has room for; the last one is not read again."""
    return count if model.context is None else min(count, model.context - len(prompt) + 1)


def greedy_text(
    model: EditableModel, language: str, prompts: Sequence[str], *, max_new_tokens: int = 12
) -> list[str]:
    """Greedy continuations of prompts, cut after their first sentence.

    Args:
        model: the model; where it is asked in a chat, each prompt is a user's turn.
        language: of the prompts; says how a sentence ends.
        prompts: the texts to continue.
        max_new_tokens: of each continuation.
    """
    stop = Language.parse(language).sentence_break.strip()
    encoded = [encode_text(model.tokenizer, prompt, chat=model.chat) for prompt in prompts]
    found = continue_greedily(model, encoded, [max_new_tokens] * len(prompts))
    return [(own.text.split(stop)[0] if stop else own.text).strip() for own in found]


def perplexity(
    model: EditableModel,
    texts: Sequence[str],
    *,
    batch_tokens: int = 4096,
    processes: Processes = ALONE,
) -> float:
    """Exp of the mean negative log-probability of a token, over all tokens of all texts.

    Args:
        model: the model as it is now, edited or not.
        texts: as for `text_log_likelihoods`.
        batch_tokens: padded tokens in one forward pass.
        processes: each runs its share of the forward passes; all get the perplexity.

    Returns:
        The perplexity; infinite where it is beyond all numbers, as after a collapse.

    Raises:
        FactError: the texts have no token that has a context.
        NumericalError: the model gives no probabilities; the message names the text.
    """
    total, count = 0.0, 0
    for log_likelihood, tokens in text_log_likelihoods(
        model, texts, batch_tokens=batch_tokens, processes=processes
    ):
        total += log_likelihood
        count += tokens
    if not count:
        raise FactError("perplexity: expected texts of two or more tokens, got none")
    try:
        return math.exp(-total / count)
    except OverflowError:
        return math.inf


def text_log_likelihoods(
    model: EditableModel,
    texts: Sequence[str],
    *,
    batch_tokens: int = 4096,
    processes: Processes = ALONE,
) -> list[tuple[float, int]]:
    """Sums of the log-probabilities (nats, natural logarithm) of the tokens of texts.

    The first token of a text has no context and is left out; with a tokenizer that puts BOS in
    front, that is BOS. Texts are cut at the length that the model was built for. They are no
    questions: they stand as they are also where the model is asked in a chat.

    Returns:
        For each text, in order of length, the sum and how many tokens it is of.

    Raises:
        NumericalError: a sum is not finite; the message names the text.
    """
    sequences = [encode_text(model.tokenizer, text)[: model.context] for text in texts]
    groups = micro_batches([len(sequence) for sequence in sequences], batch_tokens)

    def chosen_of(batch: PaddedBatch) -> Tensor:
        """(n, t - 1) log-probabilities of the tokens but the first; any where there is padding."""
        width = batch.ids.shape[1]
        if len(batch.ids) > 1:
            return _chosen(model, batch, torch.arange(width))[:, :-1]

        def parts_of(most: int) -> Tensor:
            starts = range(0, width, most)
            columns = [torch.arange(at, min(at + most, width)) for at in starts]
            return torch.cat([_chosen(model, batch, own) for own in columns], dim=1)[:, :-1]

        return with_less_memory(
            parts_of,
            width,
            most=width,
            least=1,
            limits=model.limits,
            kind="logits",
            what="one text",
        )

    def run(group: list[int]) -> list[tuple[float, int]]:
        batch = pad_batch([sequences[i] for i in group], model.pad_id)
        chosen = chosen_of(batch)
        lengths = [len(sequences[i]) - 1 for i in group]
        rows = (row[:length].cpu() for row, length in zip(chosen, lengths, strict=True))
        found = [(float(row.double().sum()), len(row)) for row in rows]
        for i, (total, _) in zip(group, found, strict=True):
            if not math.isfinite(total):
                raise spoiled(model, f"the text {shortened(texts[i])!r}")
        return found

    def tokens(group: list[int]) -> int:
        return len(group) * max(len(sequences[i]) for i in group)

    def halved(group: list[int]) -> list[tuple[float, int]]:
        parts = halve_on_oom(group, run, limits=model.limits, kind="texts", size=tokens, one="text")
        return [text for _, part in parts for text in part]

    def read(own: Sequence[list[int]]) -> list[list[tuple[float, int]]]:
        return [halved(group) for group in own]

    return [text for group in processes.spread(groups, read) for text in group]


def _chosen(model: EditableModel, batch: PaddedBatch, columns: Tensor) -> Tensor:
    """(n, m) log-probabilities that columns give to the tokens after them; any after the last.

    Args:
        model: the model.
        batch: padded on the right.
        columns: (m,) int64; all of them, or a few at which logits are to be had in this pass.
    """
    whole = len(columns) == batch.ids.shape[1]
    with torch.no_grad():
        logits = model.logits(batch, columns=None if whole else columns).float()
        following = (columns + 1).clamp(max=batch.ids.shape[1] - 1)
        expected = batch.ids[:, following].to(logits.device)
        return logits.gather(-1, expected[..., None])[..., 0] - logits.logsumexp(-1)


def _generate(
    model: EditableModel, prompts: Sequence[tuple[int, ...]], new_tokens: int
) -> list[tuple[int, ...]]:
    """Ids of greedy continuations, cut before the end token.

    Raises:
        NumericalError: the model gives no numbers after a prompt; the message names it.
    """
    batch = pad_batch(prompts, model.pad_id, side="left", device=model.device)
    ends = _end_tokens(model)
    settings = cast(Any, GenerationConfig)(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=model.pad_id,
        eos_token_id=sorted(ends) or None,
    )
    generate: Callable[..., Tensor] = cast(Any, model.model).generate

    def require_numbers(_: Tensor, scores: Tensor) -> Tensor:
        bad = (~scores.logsumexp(dim=-1).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise no_numbers(model, "the next token", prompts[bad[0]])
        return scores

    with torch.no_grad():
        output = generate(
            batch.ids,
            attention_mask=batch.mask,
            generation_config=settings,
            logits_processor=[require_numbers],
        )
    found = []
    for row in output[:, batch.ids.shape[1] :].tolist():
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        found.append(tuple(row[:end]))
    return found


def _end_tokens(model: EditableModel) -> set[int]:
    """Ids that end a text, as the model's generation settings say."""
    settings = cast(Any, model.model).generation_config
    ends = settings.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def _continuation(model: EditableModel, ids: tuple[int, ...]) -> Continuation:
    return Continuation(ids, str(model.tokenizer.decode(list(ids), skip_special_tokens=True)))
