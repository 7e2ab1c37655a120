"""Edit a file of facts into a workspace, going on where an earlier run over it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langedit.editing import Editor
from langedit.errors import FactError, LangEditError
from langedit.facts import Fact, make_batches
from langedit.facts.batches import comparable
from langedit.facts.jsonl import fact_to_json
from langedit.facts.listing import listed
from langedit.workspace.clashes import clashing, contradiction
from langedit.workspace.history import Standing
from langedit.workspace.recorder import LedgerRecorder, OnBreach, halves
from langedit.workspace.rows import Event, Job, Run, text_hash
from langedit.workspace.stream import Batch, StreamStep, run_stream
from langedit.workspace.workspace import Workspace

LONGEST_FACT = 100_000
"""Characters of a fact with all of its probes; no model reads more."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do for a file of facts.

    Attributes:
        run: the run, a `Job` where it was begun before; `None` if nothing is left.
        batches: place in the run and facts of each batch, in order.
        earlier: batches of this run that are in the ledger already.
        known: facts that are in the model already and are not edited again.
    """

    run: Run | None
    batches: tuple[tuple[str, Batch], ...]
    earlier: int
    known: int


def plan_work(
    workspace: Workspace, facts: Sequence[Fact], *, batch_size: int, supersede: bool = False
) -> Work:
    """See what of a file is left; nothing is written.

    A run is known by its facts and its batch size: given again, it goes on with the first batch
    that is not in the ledger. Facts that are in the model already are left out of a new run. Of
    several processes the first one looks, and tells the others.

    Args:
        workspace: open for writing.
        facts: the whole file.
        batch_size: facts in a batch.
        supersede: whether facts may replace earlier ones.

    Raises:
        FactError: facts contradict each other, or others in the model, or are too long.
    """
    return workspace.processes.first(lambda: _plan(workspace, facts, batch_size, supersede))


def _plan(workspace: Workspace, facts: Sequence[Fact], batch_size: int, supersede: bool) -> Work:
    _check(facts)
    lines = "\n".join(fact_to_json(fact) for fact in facts)
    sha256 = hashlib.sha256(f"{batch_size}\n{lines}".encode()).hexdigest()
    for job in workspace.ledger.jobs(sha256)[:1]:
        events = workspace.ledger.events_of(job.number)
        left = _still_new(workspace, _left(facts, job, events))
        if left:
            known = len(facts) - len(job.taken)
            return Work(run=job, batches=left, earlier=_recorded(events), known=known)
    standing = workspace.ledger.history().standing()
    taken = [i for i, fact in enumerate(facts) if not _is_known(workspace, standing, fact)]
    clashes = clashing(workspace, standing, [facts[i] for i in taken])
    if clashes and not supersede:
        raise contradiction(clashes)
    if not taken:
        return Work(run=None, batches=(), earlier=0, known=len(facts))
    run = Run(facts_sha256=sha256, batch_size=batch_size, taken=tuple(taken))
    left = _left(facts, run, ())
    return Work(run=run, batches=left, earlier=0, known=len(facts) - len(taken))


def apply_work(
    workspace: Workspace,
    editor: Editor,
    work: Work,
    *,
    on_breach: OnBreach = "stop",
    supersede: bool = False,
    on_step: Callable[[StreamStep], None] | None = None,
) -> tuple[StreamStep, ...]:
    """Edit what is left of a file; each batch is in the ledger before the next begins.

    A new run is noted in the ledger first.

    Args:
        workspace: open for writing.
        editor: what `load_editor` gave.
        work: what `plan_work` gave.
        on_breach: as for `LedgerRecorder`.
        supersede: as for `LedgerRecorder`.
        on_step: called after each batch.

    Raises:
        LangEditError: as `Editor.apply`, or the ledger cannot be written. What is recorded stays,
            and the editor holds just that; of several processes only if all raise the error.
    """
    run = work.run
    if run is None:
        return ()
    job = run if isinstance(run, Job) else workspace.ask(lambda ledger: ledger.append_job(run))
    recorder = LedgerRecorder(
        workspace,
        editor,
        places=[place for place, _ in work.batches],
        job=job.number,
        on_breach=on_breach,
        supersede=supersede,
    )
    batches = [batch for _, batch in work.batches]
    try:
        return run_stream(editor, batches, retention=False, on_step=on_step, recorder=recorder)
    except LangEditError as error:
        # Where one process alone has failed, the others are elsewhere, and the run is over.
        if workspace.processes.all_raise(error) and workspace.ask(
            lambda ledger: editor.weights_hash != ledger.head()[0]
        ):
            workspace.restore(editor)
        raise


def _left(
    facts: Sequence[Fact], run: Run, events: Sequence[Event]
) -> tuple[tuple[str, Batch], ...]:
    """The batches of a run that its events leave undone."""
    batches = make_batches([facts[i] for i in run.taken if 0 <= i < len(facts)], run.batch_size)
    queue = [(str(number), batch) for number, batch in enumerate(batches)]
    for event in events:
        if event.kind == "undo" or not queue or queue[0][0] != event.place:
            continue
        place, batch = queue[0]
        if event.kind == "batch" or event.summary.then == "skip":
            queue.pop(0)
        elif event.summary.then == "split":
            parts = halves(batch)
            queue[:1] = [(f"{place}.{i}", part) for i, part in enumerate(parts)]
    return tuple(queue)


def _still_new(
    workspace: Workspace, batches: Sequence[tuple[str, Batch]]
) -> tuple[tuple[str, Batch], ...]:
    """The batches without what another run has edited since this one was interrupted."""
    standing = workspace.ledger.history().standing()
    left = []
    for place, batch in batches:
        own = tuple(fact for fact in batch if not _is_known(workspace, standing, fact))
        if own:
            left.append((place, own))
    return tuple(left)


def _recorded(events: Sequence[Event]) -> int:
    return sum(event.kind == "batch" for event in events)


def _is_known(workspace: Workspace, standing: Sequence[Standing], fact: Fact) -> bool:
    dropped = {item.batch: item.dropped for item in standing}
    return any(
        row.event in dropped
        and row.position not in dropped[row.event]
        and comparable(row.fact.target) == comparable(fact.target)
        for row in workspace.ledger.asking_the_same(fact)
    )


def _check(facts: Sequence[Fact]) -> None:
    """Refuse what no model reads, and a file that contradicts or repeats itself."""
    first: dict[tuple[str, str], Fact] = {}
    clashes = []
    for position, fact in enumerate(facts):
        length = len(fact_to_json(fact))
        if length > LONGEST_FACT:
            raise FactError(
                f"fact {position + 1}: expected at most {LONGEST_FACT} characters with all of its "
                f"probes, got {length}: leave it out"
            )
        earlier = first.setdefault((fact.language, text_hash(fact)), fact)
        if earlier is not fact:
            targets = f"{earlier.target!r} and {fact.target!r}"
            clashes.append(f"{fact.language}: {fact.text!r} -> {targets}")
    if clashes:
        raise FactError(
            "expected each fact to be told once in the file, got facts that clash; remove one of "
            f"each two:\n{listed(clashes)}"
        )
