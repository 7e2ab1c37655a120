"""Records a stream of batches in a workspace, and takes back what breaks a guard rail."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any, Literal

from langedit.editing import BatchReport, Editor
from langedit.errors import NumericalError
from langedit.evaluation import mean_or_none, mean_scores
from langedit.facts import Fact
from langedit.profiler import timed
from langedit.workspace.clashes import clashing, contradiction
from langedit.workspace.creation import software
from langedit.workspace.history import Change, Standing
from langedit.workspace.ledger import Draft
from langedit.workspace.probes import (
    Probed,
    Reading,
    probe_batch,
    read_guards,
    specificity,
    spread,
)
from langedit.workspace.record import batch_bytes, report_figures
from langedit.workspace.rows import FactRow, Summary
from langedit.workspace.stream import Batch, StreamStep, Verdict
from langedit.workspace.workspace import Workspace

OnBreach = Literal["stop", "skip", "split"]
ON_BREACH: tuple[OnBreach, ...] = ("stop", "skip", "split")


class LedgerRecorder:
    """Makes each batch of a stream a row; `run_stream` calls it.

    Of several processes all have one and come to the same verdicts; the first one writes the rows.
    """

    def __init__(
        self,
        workspace: Workspace,
        editor: Editor,
        *,
        places: Sequence[str | None],
        job: int | None = None,
        on_breach: OnBreach = "stop",
        supersede: bool = False,
        guarded: bool = True,
        taken_back: Sequence[int] = (),
        replays: Sequence[int | None] | None = None,
        sink: Callable[[Draft], int] | None = None,
    ) -> None:
        """Begin where the ledger stands; the editor must hold that model.

        Args:
            workspace: open for writing.
            editor: the model; what is in it must be what the ledger says, without `taken_back`.
            places: where in the job each batch of the stream comes from.
            job: the run.
            on_breach: after a batch that breaks a guard rail: stop, go on, or try its halves.
            supersede: replace earlier facts that the stream contradicts.
            guarded: whether guard rails count.
            taken_back: batches that an undo, not in the ledger yet, has taken out of the model.
            replays: for each batch of the stream the batch that it repeats.
            sink: takes the drafts in the first process, and gives each its number; `None` adds them
                to the ledger.
        """
        self._workspace = workspace
        self._processes = workspace.processes
        self._editor = editor
        self._job = job
        self._on_breach = on_breach
        self._supersede = supersede
        self._guarded = guarded
        self._sink = sink or (lambda draft: workspace.ledger.append([draft])[0])
        self._queue = deque(zip(places, replays or [None] * len(places), strict=True))
        self._history, self._efficacies = workspace.ask(
            lambda ledger: (ledger.history(), ledger.efficacies())
        )
        if taken_back:
            self._history.add(Change(number=0, kind="undo", removed=tuple(taken_back)))
        self._weights = editor.weights_hash
        self._place: str | None = None
        self._replays: int | None = None
        self._superseded: tuple[tuple[int, int], ...] = ()
        self._saved: tuple[BatchReport, ...] = ()
        self._specificity: float | None = None

    def begin(self, batch: Batch) -> None:
        """Take out of the model what the batch replaces.

        Raises:
            FactError: it contradicts facts in the model, and may not replace them.
            NumericalError: these cannot be taken out by themselves.
        """
        if self._editor.profiler is not None:
            self._editor.profiler.lap()  # what came before is no part of the batch
        self._place, self._replays = self._queue.popleft()
        self._saved = self._editor.reports
        self._superseded = self._processes.first(lambda: self._replaced_by(batch))
        if self._superseded:
            self._drop(self._superseded)
        if self._guarded and self._workspace.guards.max_specificity_loss is not None:
            with timed({}, "guards", self._editor.profiler):
                self._specificity = specificity(self._editor, batch)

    def record(self, step: StreamStep) -> Verdict:
        """Score the batch, look at the guard rails, and add a row whatever they say.

        Raises:
            WorkspaceError: the row cannot be written; the batch is not in the ledger.
            NumericalError: the weights from before a refused batch do not come back.
        """
        facts = step.report.facts
        probed = probe_batch(self._editor, facts, self._earlier_facts())
        readings = self._read_guards(step, probed)
        broken = tuple(reading for reading in readings if reading.broken)
        draft = self._processes.only_first(lambda: self._draft(step, probed, readings, broken))
        if not broken:
            self._number(*self._add_row(draft), probed)
            return Verdict(kept=True)
        self._take_back()
        self._add_row(draft)
        parts = halves(facts) if self._on_breach == "split" else ()
        self._queue.extendleft(
            (f"{self._place}.{i}", self._replays) for i in reversed(range(len(parts)))
        )
        return Verdict(kept=False, instead=parts, stop=self._on_breach == "stop")

    def _replaced_by(self, batch: Batch) -> tuple[tuple[int, int], ...]:
        """Batch and position of the facts in the model that a batch contradicts."""
        clashes = clashing(self._workspace, self._history.standing(), batch)
        if clashes and not self._supersede:
            raise contradiction(clashes)
        return tuple((old.event, old.position) for _, old in clashes)

    def _add_row(self, draft: Draft | None) -> tuple[int, str]:
        """Hand on the draft, which the first process has: its number, and the weights after it."""

        def add() -> tuple[int, str]:
            assert draft is not None
            return self._sink(draft), draft.weights_after

        return self._processes.first(add)

    def _read_guards(self, step: StreamStep, probed: Probed) -> tuple[Reading, ...]:
        if not self._guarded:
            return ()
        own = self._workspace
        with timed({}, "guards", self._editor.profiler):
            return read_guards(
                self._editor, own.guards, own.baseline, step.report, probed, self._specificity
            )

    def _draft(
        self,
        step: StreamStep,
        probed: Probed,
        readings: Sequence[Reading],
        broken: Sequence[Reading],
    ) -> Draft:
        report, editor = step.report, self._editor
        artefact = None
        if not broken:
            before = editor.earlier_layer_states
            with timed({}, "record", editor.profiler):
                content = batch_bytes(report, before, editor.layer_states, self._workspace.base)
                artefact = self._workspace.store.put(content)
        after = self._weights if broken else editor.weights_hash
        figures: dict[str, Any] = {
            **report_figures(report),
            "report": report.to_dict(),
            "guards": [asdict(reading) for reading in readings],
            "plain_scores": _plain_scores(probed),
            "software": software(editor),
        }
        if editor.profiler is not None:
            figures["profile"] = editor.profiler.to_dict(editor.profiler.lap())
        return Draft(
            kind="refused" if broken else "batch",
            weights_before=self._weights,
            weights_after=after,
            state_after=self._workspace.ledger.head()[1] if broken else editor.state_hash,
            summary=self._summary(step, probed, broken),
            facts=tuple(
                FactRow(
                    event=0,
                    position=position,
                    fact=fact,
                    efficacy=score.efficacy,
                    generalization=score.generalization,
                    specificity=score.specificity,
                )
                for position, (fact, score) in enumerate(
                    zip(report.facts, probed.scores, strict=True)
                )
            ),
            job=self._job,
            place=self._place,
            artefact=artefact,
            superseded=() if broken else self._superseded,
            replays=self._replays,
            figures=figures,
        )

    def _summary(self, step: StreamStep, probed: Probed, broken: Sequence[Reading]) -> Summary:
        report = step.report
        left = {layer: use.left_after for layer, use in report.ranks.items() if use is not None}
        return Summary(
            facts=len(report.facts),
            languages=language_counts(report.facts),
            efficacy=mean_or_none(score.efficacy for score in probed.scores),
            plain_efficacy=mean_or_none(score.efficacy for score in probed.plain_scores),
            retention=probed.retention,
            independence_max=report.independence_max,
            update_ratio=max(norm.ratio for norm in report.norms.values()),
            rank_left={str(layer): count for layer, count in left.items()},
            seconds=step.seconds,
            breaches=tuple(map(str, broken)),
            then=self._on_breach if broken else None,
        )

    def _number(self, number: int, weights: str, probed: Probed) -> None:
        """Take a batch that was recorded into account."""
        self._history.add(
            Change(number=number, kind="batch", superseded=self._superseded, weights_after=weights)
        )
        self._weights = weights
        for position, score in enumerate(probed.scores):
            if score.efficacy is not None:
                self._efficacies[number, position] = score.efficacy

    def _take_back(self) -> None:
        if self._superseded:
            self._editor.restore(self._saved)
        else:
            self._processes.together(self._editor.undo)
        self._processes.together(self._require_taken_back)

    def _require_taken_back(self) -> None:
        if self._editor.weights_hash != self._weights:
            raise NumericalError(
                "refused batch: expected the weights from before it bit for bit, got others: run "
                "langedit verify"
            )

    def _drop(self, facts: Sequence[tuple[int, int]]) -> None:
        """Take single facts out of the model."""
        standing = self._history.standing()
        known = dict(zip(self._workspace.present(standing), self._editor.reports, strict=True))
        gone: dict[int, set[int]] = {}
        for batch, position in facts:
            gone.setdefault(batch, set()).add(position)
        wanted = [
            Standing(item.batch, tuple(sorted({*item.dropped, *gone.get(item.batch, ())})))
            for item in standing
        ]
        self._editor.restore(self._workspace.reports(wanted, known))

    def _earlier_facts(self) -> list[tuple[Fact, float]]:
        """A sample of the facts of earlier batches, with their efficacy right after these."""
        reports = self._editor.reports[:-1]
        items = self._workspace.present(self._present_standing())
        ends = list(accumulate(len(report.facts) for report in reports))
        found = []
        for index in spread(range(ends[-1] if ends else 0), self._workspace.guards.retention_facts):
            at = bisect_right(ends, index)
            own = index - (ends[at] - len(reports[at].facts))
            efficacy = self._efficacies.get((items[at].batch, _nth_kept(own, items[at].dropped)))
            if efficacy is not None:
                found.append((reports[at].facts[own], efficacy))
        return found

    def _present_standing(self) -> list[Standing]:
        """What is in the model below the batch that was just edited."""
        dropped = {batch: set(own) for batch, own in self._history.dropped().items()}
        for batch, position in self._superseded:
            dropped.setdefault(batch, set()).add(position)
        return [
            Standing(number, tuple(sorted(dropped.get(number, ()))))
            for number in self._history.batches
        ]


def halves(batch: Batch) -> tuple[Batch, ...]:
    """A batch cut in two; nothing is left to cut of a single fact."""
    middle = (len(batch) + 1) // 2
    return (batch[:middle], batch[middle:]) if len(batch) > 1 else ()


def language_counts(facts: Sequence[Fact]) -> dict[str, int]:
    """Language -> number of facts, in order of first appearance."""
    return dict(Counter(fact.language for fact in facts))


def _plain_scores(probed: Probed) -> dict[str, Any] | None:
    """What a batch's facts score as plain text, as reports of an edit have it."""
    return {"after": mean_scores(probed.plain_scores)} if probed.plain_scores else None


def _nth_kept(index: int, dropped: Sequence[int]) -> int:
    """Position in its batch of the fact that is at `index` among those not replaced."""
    for position in dropped:  # rising
        if position <= index:
            index += 1
    return index
