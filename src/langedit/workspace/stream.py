"""The one way to run a stream of batches: edit, probe, record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from langedit.editing import BatchReport, Editor
from langedit.evaluation import Scores, score_facts
from langedit.facts import Fact, check_batch
from langedit.profiler import timed

Batch = tuple[Fact, ...]


@dataclass(frozen=True, kw_only=True)
class StreamStep:
    """What is known right after a batch.

    Attributes:
        index: number of the batch among those tried, from 0.
        report: the editor's report.
        retention: efficacy in [0, 1] of each batch of this stream up to and with this one, oldest
            first; empty when it was not asked for.
        seconds: wall-clock time of the edit, without the probing.
        kept: whether the batch is in the model; what records a stream may take it back.
    """

    index: int
    report: BatchReport
    retention: tuple[float, ...]
    seconds: float
    kept: bool = True


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a batch when it was recorded.

    Attributes:
        kept: whether it is still in the model.
        instead: batches to edit next, before what is left of the stream.
        stop: whether to edit nothing more.
    """

    kept: bool
    instead: tuple[Batch, ...] = ()
    stop: bool = False


class StreamRecorder(Protocol):
    """What records a stream, and may refuse a batch."""

    def begin(self, batch: Batch) -> None:
        """Called before a batch is edited."""
        ...

    def record(self, step: StreamStep) -> Verdict:
        """Called when a batch is in the model: keep it, or take it back."""
        ...


def run_stream(
    editor: Editor,
    batches: Sequence[Sequence[Fact]],
    *,
    retention: bool = True,
    on_step: Callable[[StreamStep], None] | None = None,
    recorder: StreamRecorder | None = None,
) -> tuple[StreamStep, ...]:
    """Apply batches one after another and probe the earlier ones after each.

    Args:
        editor: holds the model, which is changed in place.
        batches: what to edit, in order. All are checked before the first is applied.
        retention: whether to score every earlier batch again after each batch.
        on_step: called after each batch, for progress.
        recorder: makes each batch last before the next begins, and may take it back.

    Raises:
        LangEditError: as `Editor.apply` and the recorder; batches before the failing one stay
            applied.
    """
    for batch in batches:
        check_batch(batch)
    queue = deque(tuple(batch) for batch in batches)
    steps: list[StreamStep] = []
    kept: list[Batch] = []
    while queue:
        batch = queue.popleft()
        if recorder is not None:
            recorder.begin(batch)
        begun = perf_counter()
        report = editor.apply(batch)
        seconds = perf_counter() - begun
        scores = batch_efficacies(editor, [*kept, batch]) if retention else ()
        step = StreamStep(index=len(steps), report=report, retention=scores, seconds=seconds)
        verdict = Verdict(kept=True) if recorder is None else recorder.record(step)
        step = replace(step, kept=verdict.kept)
        steps.append(step)
        if verdict.kept:
            kept.append(batch)
        if on_step is not None:
            on_step(step)
        if verdict.stop:
            break
        queue.extendleft(reversed(verdict.instead))
    return tuple(steps)


def batch_efficacies(editor: Editor, batches: Sequence[Sequence[Fact]]) -> tuple[float, ...]:
    """Efficacy in [0, 1] of each batch on the model as it is now, with one scoring pass."""
    facts = [fact for batch in batches for fact in batch]
    with timed({}, "scores", editor.profiler):
        found = score_facts(editor.model, facts, kinds=("efficacy",), processes=editor.processes)
    scores = iter(found)
    means = (Scores.of([next(scores) for _ in batch]).efficacy for batch in batches)
    return tuple(mean for mean in means if mean is not None)
