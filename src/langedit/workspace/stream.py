"""The one way to run a stream of batches: edit, probe, record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from langedit.editing import BatchReport, Editor
from langedit.evaluation import Scores, score_facts
from langedit.facts import Fact, check_batch


@dataclass(frozen=True, kw_only=True)
class StreamStep:
    """What is known right after a batch.

    Attributes:
        index: number of the batch, from 0.
        report: the editor's report.
        retention: efficacy in [0, 1] of each batch up to and with this one, oldest first; empty
            when it was not asked for.
        seconds: wall-clock time of the edit, without the probing.
    """

    index: int
    report: BatchReport
    retention: tuple[float, ...]
    seconds: float


def run_stream(
    editor: Editor,
    batches: Sequence[Sequence[Fact]],
    *,
    retention: bool = True,
    on_step: Callable[[StreamStep], None] | None = None,
) -> tuple[StreamStep, ...]:
    """Apply batches one after another and probe the earlier ones after each.

    Args:
        editor: holds the model, which is changed in place.
        batches: what to edit, in order. All are checked before the first is applied.
        retention: whether to score every earlier batch again after each batch.
        on_step: called after each batch, for progress and records.

    Raises:
        LangEditError: as `Editor.apply`; batches before the failing one stay applied.
    """
    for batch in batches:
        check_batch(batch)
    steps: list[StreamStep] = []
    for index, batch in enumerate(batches):
        begun = perf_counter()
        report = editor.apply(batch)
        seconds = perf_counter() - begun
        kept = batch_efficacies(editor, batches[: index + 1]) if retention else ()
        step = StreamStep(index=index, report=report, retention=kept, seconds=seconds)
        steps.append(step)
        if on_step is not None:
            on_step(step)
    return tuple(steps)


def batch_efficacies(editor: Editor, batches: Sequence[Sequence[Fact]]) -> tuple[float, ...]:
    """Efficacy in [0, 1] of each batch on the model as it is now, with one scoring pass."""
    facts = [fact for batch in batches for fact in batch]
    scores = iter(score_facts(editor.model, facts, kinds=("efficacy",), processes=editor.processes))
    means = (Scores.of([next(scores) for _ in batch]).efficacy for batch in batches)
    return tuple(mean for mean in means if mean is not None)
