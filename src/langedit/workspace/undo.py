"""Take batches back: the last one exactly, an earlier one by removal or by replay, or all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langedit.editing import BatchReport, Editor
from langedit.errors import NumericalError, WorkspaceError
from langedit.evaluation import mean_or_none
from langedit.facts import Fact
from langedit.profiler import Profile, join_costs, timed
from langedit.workspace.creation import software
from langedit.workspace.history import History, Standing
from langedit.workspace.ledger import Draft, Ledger
from langedit.workspace.probes import efficacies
from langedit.workspace.recorder import LedgerRecorder, language_counts
from langedit.workspace.rows import Summary
from langedit.workspace.stream import StreamStep, run_stream
from langedit.workspace.workspace import Workspace

How = Literal["last", "removal", "replay", "all"]


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What an undo did.

    Attributes:
        number: its event.
        how: which way.
        batches: numbers of the batches taken back.
        facts: how many facts they had in the model.
        efficacy: mean efficacy of those facts, before and after.
        later: facts of batches that came after, and stay.
        later_efficacy: their mean efficacy, before and after; `None` without such facts.
        later_changed: how many of them score otherwise than before.
        replayed: numbers of the new batches.
        weights: hash of the weights now.
    """

    number: int
    how: How
    batches: tuple[int, ...]
    facts: int
    efficacy: tuple[float | None, float | None]
    later: int
    later_efficacy: tuple[float | None, float | None]
    later_changed: int
    replayed: tuple[int, ...]
    weights: str


def undo(
    workspace: Workspace,
    editor: Editor,
    batch: int | None,
    how: How,
    *,
    on_step: Callable[[StreamStep], None] | None = None,
) -> Undone:
    """Take a batch back, and note it as a new row.

    Removal leaves the later batches' updates as they are, and sums what remains in order: the
    weights are those that would come from these updates alone. Replay edits the facts of the later
    batches again, on the model without the batch. With no batch left the weights are the original
    ones bit for bit. When anything fails, nothing has changed in the workspace, nor in the editor
    (of several processes only if all raise the error). All processes of the workspace call this.

    Args:
        workspace: open for writing.
        editor: what `load_editor` gave.
        batch: its number; not needed for `last` and `all`.
        how: which way. `last` refuses a batch that is not the last one in the model.
        on_step: called after each batch that is replayed.

    Raises:
        WorkspaceError: there is no such batch in the model, or the row cannot be written.
        NumericalError: the weights come out differently than when the same batches were in the
            model before.
    """
    processes = workspace.processes

    def look_up(ledger: Ledger) -> tuple[History, list[int]]:
        history = ledger.history()
        return history, _wanted(history, batch, how)

    history, gone = workspace.ask(look_up)
    profiler = editor.profiler
    if profiler is not None:
        profiler.lap()  # what came before is no part of the undo
    at = history.batches.index(gone[0])
    later = [number for number in history.batches[at:] if number not in gone]
    replayed = later if how == "replay" else []
    standing = history.standing()
    present = workspace.present(standing)
    reports = dict(zip(present, editor.reports, strict=True))
    facts = _facts(present, reports, gone)
    staying = _facts(present, reports, later)
    before = _asked(editor, facts, staying)
    weights = editor.weights_hash
    removed = (*gone, *replayed)
    drafts: list[Draft] = []
    try:
        _take_back(workspace, editor, history, removed, reports)
        summary = Summary(
            facts=len(facts),
            languages=language_counts(facts),
            rank_left=_rank_left(editor),
            how=how,
        )
        processes.only_first(lambda: drafts.append(_draft(editor, weights, removed, summary)))
        own = {} if profiler is None else profiler.lap()
        if replayed:
            _replay(workspace, editor, removed, [_own(present, reports, n) for n in replayed],
                    replayed, drafts, on_step)  # fmt: skip
        after = _asked(editor, facts, staying)
        if profiler is not None:
            own = join_costs(own, profiler.lap())
            drafts[:1] = [_with_profile(draft, profiler.to_dict(own)) for draft in drafts[:1]]
        numbers = workspace.ask(lambda ledger: ledger.append(drafts))
    except BaseException as error:
        if processes.all_raise(error):
            editor.restore(list(reports.values()))
        raise
    return Undone(
        number=numbers[0],
        how=how,
        batches=tuple(gone),
        facts=len(facts),
        efficacy=(mean_or_none(before[0]), mean_or_none(after[0])),
        later=len(staying),
        later_efficacy=(mean_or_none(before[1]), mean_or_none(after[1])),
        later_changed=sum(old != new for old, new in zip(before[1], after[1], strict=True)),
        replayed=tuple(numbers[1:]),
        weights=editor.weights_hash,
    )


def _wanted(history: History, batch: int | None, how: How) -> list[int]:
    """The batches to take back."""
    if not history.batches:
        raise WorkspaceError("expected a batch in the model to take back, got none")
    if how == "all":
        return list(history.batches)
    number = history.batches[-1] if batch is None else batch
    if number not in history.batches:
        raise WorkspaceError(
            f"expected the number of a batch in the model, got {number}: langedit log lists them"
        )
    if how == "last" and number != history.batches[-1]:
        later = len(history.batches) - 1 - history.batches.index(number)
        raise WorkspaceError(
            f"batch {number} is not the last in the model ({later} came after it): take it back "
            "with --by removal, which leaves the later updates as they are, or with --by replay, "
            "which edits the later facts again"
        )
    return [number]


def _take_back(
    workspace: Workspace,
    editor: Editor,
    history: History,
    removed: Sequence[int],
    reports: dict[Standing, BatchReport],
) -> None:
    left = history.without(removed)
    with timed({}, "read", editor.profiler):
        found = workspace.reports(left, reports)
    editor.restore(found)
    recorded = history.weights_of(left)

    def check() -> None:
        if recorded is not None and recorded != editor.weights_hash:
            raise NumericalError(
                "undo: expected the weights bit for bit as when the same batches were in the model "
                "before, got others; nothing was changed. Run langedit verify"
            )

    workspace.processes.together(check)


def _replay(
    workspace: Workspace,
    editor: Editor,
    removed: Sequence[int],
    batches: Sequence[Sequence[Fact]],
    numbers: Sequence[int],
    drafts: list[Draft],
    on_step: Callable[[StreamStep], None] | None,
) -> None:
    """Edit batches again, and append their drafts."""

    def sink(draft: Draft) -> int:
        drafts.append(draft)
        return workspace.ledger.count() + len(drafts)  # the undo is the first of them

    stream = [(n, facts) for n, facts in zip(numbers, batches, strict=True) if facts]
    recorder = LedgerRecorder(
        workspace,
        editor,
        places=[None] * len(stream),
        replays=[number for number, _ in stream],
        supersede=True,
        guarded=False,
        taken_back=removed,
        sink=sink,
    )
    run_stream(
        editor,
        [facts for _, facts in stream],
        retention=False,
        on_step=on_step,
        recorder=recorder,
    )


def _draft(editor: Editor, weights: str, removed: Sequence[int], summary: Summary) -> Draft:
    return Draft(
        kind="undo",
        weights_before=weights,
        weights_after=editor.weights_hash,
        state_after=editor.state_hash,
        summary=summary,
        removed=tuple(removed),
        figures={"software": software(editor)},
    )


def _asked(
    editor: Editor, facts: Sequence[Fact], staying: Sequence[Fact]
) -> tuple[list[float | None], list[float | None]]:
    """Efficacies of the facts that go, or are gone, and of those that stay."""
    with timed({}, "scores", editor.profiler):
        return efficacies(editor, facts), efficacies(editor, staying)


def _with_profile(draft: Draft, profile: Profile) -> Draft:
    return replace(draft, figures={**draft.figures, "profile": profile})


def _rank_left(editor: Editor) -> dict[str, int]:
    return {
        str(layer): state.projector.left
        for layer, state in editor.layer_states.items()
        if state.projector is not None
    }


def _own(
    present: Sequence[Standing], reports: dict[Standing, BatchReport], number: int
) -> tuple[Fact, ...]:
    """Facts of one batch that are in the model."""
    return tuple(f for item in present if item.batch == number for f in reports[item].facts)


def _facts(
    present: Sequence[Standing], reports: dict[Standing, BatchReport], numbers: Sequence[int]
) -> list[Fact]:
    return [fact for number in numbers for fact in _own(present, reports, number)]
