"""How much is edited, and facts of that size."""

from __future__ import annotations

from dataclasses import dataclass

from langedit.editing.config import EditConfig
from langedit.editing.requests import EditRequest
from langedit.models import EncodedPrompt


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How much is edited, and how long the texts are.

    Attributes:
        edits: facts in all.
        batch_size: facts in a batch.
        prompt_tokens: tokens of a prompt with its subject, in the mean.
        target_tokens: tokens of a target, in the mean.
        moment_tokens: tokens that second moments are collected from.
        stats_tokens: tokens in one pass of that.
    """

    edits: int
    batch_size: int = 100
    prompt_tokens: int = 16
    target_tokens: int = 4
    moment_tokens: int = 1_000_000
    stats_tokens: int = 4096

    @property
    def batch(self) -> int:
        """Facts in the largest batch."""
        return min(self.edits, self.batch_size)

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.edits // self.batch_size)


def facts_of_mean_size(config: EditConfig, work: Workload, count: int) -> list[EditRequest]:
    """Facts of the mean size, of one language: they have prefixes in common, and no other token.

    Ids do not matter but for which are the same: beginnings that prompts have in common are run
    once.
    """

    def prompt(before: tuple[int, ...], fact: int) -> EncodedPrompt:
        start = len(before)
        ids = (*before, *(fact,) * work.prompt_tokens)
        return EncodedPrompt(
            ids=ids, lookup=start + (work.prompt_tokens - 1) // 2, subject_start=start
        )

    length = config.prefix_length + 2  # the seed word and the end of the sentence
    prefixes = [(), *((number,) * length for number in range(config.prefix_count))]
    requests = []
    for number in range(count):
        fact, beginning = config.prefix_count + number, config.prefix_count + count + number
        requests.append(
            EditRequest(
                name=f"fact {number}",
                language="en",
                prompts=tuple(prompt(before, fact) for before in prefixes),
                target_ids=(fact,) * work.target_tokens,
                kl_prompt=EncodedPrompt(ids=(beginning,) * 6, lookup=3, subject_start=0),
            )
        )
    return requests
