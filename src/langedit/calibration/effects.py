"""Effects by language, layer and role of the token: what heat maps show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.calibration.tracing import SITES, Site, Traces, last_logits
from langedit.editing.batching import halve_on_oom, micro_batches
from langedit.facts import Fact
from langedit.models import (
    EditableModel,
    EncodedPrompt,
    answer_text,
    encode_continuation,
    encode_prompt,
    pad_batch,
)

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "further tokens",
    "last token",
)
LAST_SUBJECT = ROLES.index("last subject token")

CONFIDENCE = 0.2
"""Least probability of an answer that is traced."""


@dataclass(frozen=True, kw_only=True)
class KnownFact:
    """A fact whose prompt the model answers with some confidence.

    Attributes:
        fact: the fact.
        prompt: its prompt.
        answer: the token that is most probable after it.
        probability: of that token.
    """

    fact: Fact
    prompt: EncodedPrompt
    answer: int
    probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectMap:
    """Mean effects over the facts of a language, or of all.

    Attributes:
        facts: how many were traced.
        asked: how many were looked at.
        clean: mean probability of the answer.
        corrupted: the same with a corrupted subject.
        indirect: site -> (layers, roles) mean indirect effect; not a number where no prompt has
            such a token.
    """

    facts: int
    asked: int
    clean: float
    corrupted: float
    indirect: dict[Site, Tensor]

    @property
    def total(self) -> float:
        """Total effect: what corrupting the subject takes from the answer's probability."""
        return self.clean - self.corrupted

    @property
    def peak(self) -> int | None:
        """Layer whose MLP has the largest indirect effect at the last subject token.

        `None` if no prompt goes on after its subject.
        """
        effects = self.indirect["mlp"][:, LAST_SUBJECT]
        return None if bool(effects.isnan().any()) else int(effects.argmax())


def known_facts(
    model: EditableModel, facts: Sequence[Fact], *, max_tokens: int = 8192
) -> list[KnownFact]:
    """Keep the facts that the model knows.

    Known is a fact whose most probable next token has a probability of `CONFIDENCE`; where the
    fact tells its old answer, that token must begin it.

    Raises:
        TokenError: a position is not found.
        LangEditError: memory does not hold one prompt; batches are halved before that.
    """
    tokenizer, chat = model.tokenizer, model.chat
    prompts = [encode_prompt(tokenizer, f.text, f.subject_span, chat=chat) for f in facts]
    found: list[KnownFact | None] = [None] * len(facts)
    lengths = [len(prompt.ids) for prompt in prompts]

    def ask(group: list[int]) -> None:
        scores = last_logits(model, pad_batch([prompts[i].ids for i in group], model.pad_id))
        best = scores.softmax(dim=1).max(dim=1)
        for i, probability, token in zip(
            group, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            if probability >= CONFIDENCE and _is_old(model, facts[i], token):
                found[i] = KnownFact(
                    fact=facts[i], prompt=prompts[i], answer=token, probability=probability
                )

    def tokens(group: list[int]) -> int:
        return len(group) * max(lengths[i] for i in group)

    for group in micro_batches(lengths, max_tokens):
        halve_on_oom(group, ask, limits=model.limits, kind="answers", size=tokens, one="prompt")
    return [own for own in found if own is not None]


def _is_old(model: EditableModel, fact: Fact, token: int) -> bool:
    """Whether a token begins the old answer of a fact; true where none is told."""
    if fact.old is None:
        return True
    text = answer_text(model.tokenizer, fact.language, fact.text, fact.old, model.chat)
    return encode_continuation(model.tokenizer, fact.text, text, chat=model.chat)[0] == token


def role_places(prompt: EncodedPrompt) -> tuple[tuple[int, ...], ...]:
    """For each of `ROLES` the positions of such tokens.

    A subject of one token has its last only. Where a prompt ends with its subject, its final token
    is a last token and not one of the subject: late MLPs write the answer there directly, which
    says nothing of where a subject is recalled.
    """
    first, last, end = prompt.subject_start, prompt.lookup, len(prompt.ids) - 1
    return (
        (first,) if first < last else (),
        tuple(range(first + 1, last)),
        (last,) if last < end else (),
        tuple(range(last + 1, end)),
        (end,),
    )


def average_effects(traces: Traces, rows: Sequence[int], asked: int) -> EffectMap:
    """Mean effects over some of the traced facts, of which there is at least one."""
    own = list(rows)
    base = traces.corrupted[own, None, None]
    return EffectMap(
        facts=len(own),
        asked=asked,
        clean=float(traces.clean[own].mean()),
        corrupted=float(traces.corrupted[own].mean()),
        indirect={site: torch.nanmean(traces.restored[site][own] - base, dim=0) for site in SITES},
    )


def join_traces(parts: Sequence[Traces]) -> Traces:
    """The facts of several traces, of which there is at least one, one after the other."""
    return Traces(
        clean=torch.cat([part.clean for part in parts]),
        corrupted=torch.cat([part.corrupted for part in parts]),
        restored={site: torch.cat([part.restored[site] for part in parts]) for site in SITES},
    )
