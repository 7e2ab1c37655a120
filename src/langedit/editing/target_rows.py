"""The token sequences that a target loss is over, and how they are divided to fit memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langedit.editing.batching import micro_batches
from langedit.editing.requests import EditRequest
from langedit.editing.suffix_batch import KEPT_TOKENS, SuffixRow


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One sequence of a target loss.

    Attributes:
        row: the sequence.
        targets: for each wanted position the id that should come next; -1 for a divergence.
        weight: of each of its positions in the loss.
    """

    row: SuffixRow
    targets: tuple[int, ...]
    weight: float


def loss_rows(request: EditRequest, *, divergence: bool = True) -> list[LossRow]:
    """The rows of a fact, its bare prompt first, the KL prompt last.

    Each context is followed by the target without its last token; logits are wanted before target
    tokens. The KL prompt goes up to its subject: what follows does not enter the loss.

    Args:
        request: the fact, with those merged into it.
        divergence: whether there is a KL prompt.
    """
    rows = []
    for member in request.members:
        weight = 1.0 / (len(member.prompts) * len(member.target_ids) * len(request.members))
        for prompt in member.prompts:
            ids = (*prompt.ids, *member.target_ids[:-1])
            wanted = tuple(range(len(prompt.ids) - 1, len(ids)))
            row = SuffixRow(ids=ids, lookup=prompt.lookup, wanted=wanted)
            rows.append(LossRow(row=row, targets=member.target_ids, weight=weight))
    if divergence:
        kept = request.kl_prompt
        ids = kept.ids[: kept.lookup + 1]
        row = SuffixRow(ids=ids, lookup=kept.lookup, wanted=(kept.lookup,))
        rows.append(LossRow(row=row, targets=(-1,), weight=1.0))
    return rows


@dataclass(frozen=True, kw_only=True)
class Division:
    """Rows in parts that are evaluated one after the other.

    Attributes:
        parts: numbers of the rows of each part, rising.
        keeps: whether what is computed once is kept of all parts from step to step: where there is
            one, or where the prefixes of all take no more than one part may. Else it is computed
            again for each part in each step.
    """

    parts: tuple[tuple[int, ...], ...]
    keeps: bool

    @classmethod
    def of(cls, rows: Sequence[SuffixRow], tokens: int) -> Division:
        """Divide rows into parts of rows of like width.

        Args:
            rows: the rows.
            tokens: of a part, padded; one row alone may exceed it.
        """
        parts = micro_batches([row.width for row in rows], tokens)
        return cls(
            parts=tuple(tuple(sorted(part)) for part in parts),
            keeps=len(parts) == 1 or _before(rows) <= KEPT_TOKENS * tokens,
        )

    @staticmethod
    def least(rows: Sequence[SuffixRow]) -> int:
        """Tokens up to which every row is a part of its own, and nothing is kept of the others.

        Keys and values of `KEPT_TOKENS` tokens in all are too few to count.
        """
        if len(rows) == 1:
            return rows[0].width
        alone = 2 * sorted(row.width for row in rows)[1] - 1
        before = _before(rows)
        return max(1, min(alone, (before - 1) // KEPT_TOKENS)) if before else alone


def _before(rows: Sequence[SuffixRow]) -> int:
    """Tokens before the lookup tokens."""
    return sum(row.lookup for row in rows)
