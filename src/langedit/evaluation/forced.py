"""What a model says about answers under teacher forcing: predictions and log-probabilities.

One pass answers everything that is asked: what begins another row has none of its own, MLPs see
equal beginnings once (`langedit.evaluation.sharing`), rows are batched by length and padded on the
right, where a causal model cannot see it, and logits are computed at the answers' places only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from langedit.editing.batching import halve_on_oom, micro_batches
from langedit.editing.requests import shortened
from langedit.errors import NumericalError, TokenError
from langedit.evaluation.sharing import Beginnings, maximal_rows, shared_mlps
from langedit.models import EditableModel, answer_text, encode_answers, pad_batch
from langedit.models.memory import PassKind
from langedit.parallel import ALONE, Processes

Encoded = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt, and of an answer that follows it; neither is empty."""

BATCH_TOKENS = 2048
"""Padded tokens in one forward pass; with more, a CPU waits for memory (measured: 1.4 times)."""

_MAX_LOGITS = 2**27
"""Logits computed at once: half a gigabyte in float32."""


@dataclass(frozen=True)
class ForcedAnswer:
    """What the model says at each token of an answer, given the prompt and the tokens before.

    Attributes:
        predicted: the most probable token id.
        log_probabilities: natural logarithm of the probability of the answer's own token.
    """

    predicted: tuple[int, ...]
    log_probabilities: tuple[float, ...]


def encode_answer(
    model: EditableModel, language: str, prompt: str, answer: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of a prompt, and of an answer as it follows that prompt in its language.

    Where the model is asked in a chat (`model.chat`), the prompt is the user's turn.
    """
    return encode_all(model, [(language, prompt, answer)])[0]


def encode_all(
    model: EditableModel, texts: Sequence[tuple[str, str, str]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """`encode_answer` of many (language, prompt, answer), tokenised together.

    Raises:
        TokenError: a prompt or an answer has no tokens of its own.
        ConfigError: the chat template cannot be used.
    """
    tokenizer, chat = model.tokenizer, model.chat
    pairs = [
        (prompt, answer_text(tokenizer, code, prompt, answer, chat))
        for code, prompt, answer in texts
    ]
    return encode_answers(tokenizer, pairs, chat=chat)


def forced_answers(
    model: EditableModel,
    items: Sequence[Encoded],
    *,
    batch_tokens: int = BATCH_TOKENS,
    processes: Processes = ALONE,
) -> list[ForcedAnswer]:
    """Ask for answers with as few tokens run as the items' equal beginnings allow.

    Args:
        model: the model.
        items: prompts with their answers.
        batch_tokens: padded tokens in one forward pass.
        processes: each runs its share of the passes, which do not depend on their number; all get
            every answer.

    Returns:
        One answer an item, in order.

    Raises:
        TokenError: a prompt with its answer is longer than the model's context.
        NumericalError: the model gives no finite numbers for an answer; the message names it.
        LangEditError: memory does not hold one text with one answer; batches, and the answers of
            a text, are halved before that.
    """
    rows, owners = maximal_rows([(*prompt, *answer)[:-1] for prompt, answer in items])
    require_context(model, rows)
    of_row: list[list[int]] = [[] for _ in rows]
    for item, row in enumerate(owners):
        of_row[row].append(item)
    parts = [
        part
        for group in micro_batches([len(row) for row in rows], batch_tokens)
        for part in _within_logits(model, sorted(group), of_row, items)
    ]

    def run(part: list[int]) -> dict[int, ForcedAnswer]:
        if len(part) > 1:
            return _run(model, [(rows[row], of_row[row]) for row in part], items)
        text = rows[part[0]]
        return halved(
            of_row[part[0]],
            lambda asked: _run(model, [(text, asked)], items),
            "logits",
            lambda asked: sum(len(items[item][1]) for item in asked),
            "text with one answer",
        )

    def halved(
        group: list[int],
        work: Callable[[list[int]], dict[int, ForcedAnswer]],
        kind: PassKind,
        size: Callable[[list[int]], int],
        one: str,
    ) -> dict[int, ForcedAnswer]:
        parts = halve_on_oom(group, work, limits=model.limits, kind=kind, size=size, one=one)
        return {item: said for _, found in parts for item, said in found.items()}

    def tokens(part: list[int]) -> int:
        return len(part) * max(len(rows[row]) for row in part)

    def answer(own: Sequence[list[int]]) -> list[dict[int, ForcedAnswer]]:
        return [halved(part, run, "answers", tokens, "text") for part in own]

    found: dict[int, ForcedAnswer] = {}
    for answers in processes.spread(parts, answer):
        found.update(answers)
    return [found[item] for item in range(len(items))]


def _run(
    model: EditableModel,
    rows: Sequence[tuple[tuple[int, ...], list[int]]],
    items: Sequence[Encoded],
) -> dict[int, ForcedAnswer]:
    """Answers to the items of some rows, which come in lexicographic order."""
    batch = pad_batch([ids for ids, _ in rows], model.pad_id)
    beginnings = Beginnings.of(batch)
    asked = [item for _, of_one in rows for item in of_one]
    places = [
        beginnings.index[row, len(items[item][0]) - 1 :][: len(items[item][1])]
        for row, (_, of_one) in enumerate(rows)
        for item in of_one
    ]
    wanted, place = cast(Any, torch.cat(places)).unique(return_inverse=True)
    expected = torch.tensor([token for item in asked for token in items[item][1]])
    with torch.no_grad(), shared_mlps(model, beginnings, wanted):
        logits = model.logits_at(batch, beginnings.rows[wanted], beginnings.columns[wanted])
    best, chosen = _read(logits, place, expected)
    answers, at = {}, 0
    for item in asked:
        end = at + len(items[item][1])
        if not all(map(math.isfinite, chosen[at:end])):
            prompt, answer = items[item]
            text = shortened(str(model.tokenizer.decode(list(answer))))
            raise no_numbers(model, repr(text), prompt)
        answers[item] = ForcedAnswer(tuple(best[at:end]), tuple(chosen[at:end]))
        at = end
    return answers


def require_context(model: EditableModel, sequences: Sequence[Sequence[int]]) -> None:
    """Refuse what is longer than the model was built to read.

    Raises:
        TokenError: a sequence is; the message names it.
    """
    limit = model.context
    for ids in sequences:
        if limit is not None and len(ids) > limit:
            text = shortened(str(model.tokenizer.decode(list(ids))))
            raise TokenError(
                f"expected at most {limit} tokens, the context of the model, got {len(ids)} of "
                f"{text!r}: shorten it"
            )


def no_numbers(model: EditableModel, what: str, prompt: Sequence[int]) -> NumericalError:
    """What to say where the most probable token would be any token.

    Args:
        model: whose logits are not finite.
        what: was asked for, in words.
        prompt: token ids before it.
    """
    before = shortened(str(model.tokenizer.decode(list(prompt))))
    return spoiled(model, f"{what} after {before!r}")


def spoiled(model: EditableModel, what: str) -> NumericalError:
    """What to say where a model gives no probabilities of something."""
    return NumericalError(
        f"expected probabilities of {what}, got values that are not finite: activations overflow "
        f"{model.model.dtype}, or the edits have spoiled the model. Load it in float32 or "
        "bfloat16, or undo the last batch"
    )


def _read(logits: Tensor, place: Tensor, expected: Tensor) -> tuple[list[int], list[float]]:
    """Most probable ids, and log-probabilities of the expected ids.

    Args:
        logits: (w, vocabulary).
        place: (m,) row of the logits for each expected token.
        expected: (m,) token ids.
    """
    place, expected = place.to(logits.device), expected.to(logits.device)
    logits = logits.float()
    chosen = logits[place, expected] - logits.logsumexp(dim=-1)[place]
    return logits.argmax(dim=-1)[place].tolist(), chosen.tolist()


def _within_logits(
    model: EditableModel,
    group: Sequence[int],
    of_row: Sequence[Sequence[int]],
    items: Sequence[Encoded],
) -> list[list[int]]:
    """Cut a batch where the logits of its answers would take too much memory."""
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    parts: list[list[int]] = []
    used = 0
    for row in group:
        own = vocabulary * sum(len(items[item][1]) for item in of_row[row])
        if not parts or used + own > _MAX_LOGITS:
            parts.append([])
            used = 0
        parts[-1].append(row)
        used += own
    return parts
