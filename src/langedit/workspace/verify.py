"""Check everything a workspace holds: the ledger, every file's hash, and the weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from langedit.editing import Editor, LayerState
from langedit.editing.state import basis_growth
from langedit.errors import LangEditError, WorkspaceError
from langedit.models import EditableModel
from langedit.profiler import Profiler, timed
from langedit.workspace.artefacts import file_hash
from langedit.workspace.database import reading
from langedit.workspace.history import History
from langedit.workspace.ledger import Ledger
from langedit.workspace.record import recorded_growth
from langedit.workspace.rows import Event
from langedit.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was looked at, and what is wrong.

    Attributes:
        events: rows of the ledger's history.
        artefacts: files whose hashes were computed.
        unused: files that no row names, left by interrupted runs; they do no harm.
        replayed: events whose weights were summed again and compared; `None` without a model.
        problems: what is wrong, in words; empty for a sound workspace.
    """

    events: int
    artefacts: int
    unused: int
    replayed: int | None
    problems: tuple[str, ...]


def verify(
    folder: Path,
    model: EditableModel | None = None,
    *,
    on_event: Callable[[int], None] = lambda _done: None,
    profiler: Profiler | None = None,
) -> Verified:
    """Check a workspace.

    Args:
        folder: of the workspace.
        model: the unedited model, freshly loaded, to sum all updates again, event by event;
            `None` compares files and rows only. It is changed in place.
        on_event: called with the number of events replayed so far.
        profiler: is told of the stages.

    Raises:
        WorkspaceError: there is no workspace that could be looked at.
    """
    with Workspace.open(folder) as workspace:
        ledger = workspace.ledger
        with timed({}, "files", profiler):
            problems = ledger.problems()
            known = ledger.artefacts()
            problems += _file_problems(workspace)
        unused = set(workspace.store.names()) - {sha256 for sha256, _ in known}
        problems += _chain_problems(ledger)
        replayed = None
        if model is not None and not problems:
            try:
                replayed = _replay(workspace, model, on_event, profiler)
            except LangEditError as error:
                problems.append(str(error))
        return Verified(
            events=ledger.count(),
            artefacts=len(known),
            unused=len(unused),
            replayed=replayed,
            problems=tuple(problems),
        )


def _file_problems(workspace: Workspace) -> Iterator[str]:
    """Yield what is wrong with artefacts, and with moments that are kept elsewhere."""
    for sha256, size in workspace.ledger.artefacts():
        try:
            wrong, path = workspace.store.problem(sha256), workspace.store.path(sha256)
        except WorkspaceError as error:
            yield str(error)
            continue
        if wrong is not None:
            yield f"{path}: the artefact {wrong}; put it back from a copy or an archive"
        elif path.stat().st_size != size:
            yield f"{path}: expected {size} bytes as recorded, got {path.stat().st_size}"
    try:
        files = workspace.moment_files()
    except WorkspaceError as error:
        yield str(error)
        return
    for layer, (path, sha256, _) in files.items():
        if file_hash(path) != sha256:
            yield f"{path}: the second moment of layer {layer} was altered; put it back"


def _chain_problems(ledger: Ledger) -> list[str]:
    """Whether each event begins with the weights with which the one before it ended."""
    origin = ledger.origin()
    weights, state = origin.weights, origin.state
    problems = []
    history = History(base=weights)
    for number, event in enumerate(ledger.events(), start=1):
        with reading(ledger.path):
            history.add(event.change)
        if event.number != number:
            problems.append(f"event {event.number}: expected number {number}, rows are missing")
        if event.weights_before != weights:
            problems.append(f"event {number} begins with other weights than the one before left")
        refused = event.kind == "refused"
        if refused and (event.weights_after, event.state_after) != (weights, state):
            problems.append(f"event {number} was refused, but changed the weights")
        if history.weights_of(history.standing()) != event.weights_after:
            problems.append(f"event {number}: the same batches gave other weights before")
        weights, state = event.weights_after, event.state_after
    return problems


def _replay(
    workspace: Workspace,
    model: EditableModel,
    on_event: Callable[[int], None],
    profiler: Profiler | None,
) -> int:
    """Sum the updates again, event by event; gives the number of events.

    Raises:
        WorkspaceError: weights, state or a basis differ from what was recorded.
    """
    editor = workspace.fresh_editor(model, profiler)
    history = History(base=editor.weights_hash)
    events = workspace.ledger.events()
    for done, event in enumerate(events, start=1):
        present = workspace.present(history.standing())
        known = dict(zip(present, editor.reports, strict=True))
        history.add(event.change)
        layers = editor.layer_states
        grows = event.kind == "batch" and not event.superseded
        with timed({}, "read", profiler):
            reports = workspace.reports(history.standing(), known)
        editor.restore(reports)
        _require_same(event, editor)
        if grows:
            _require_growth(workspace, event, editor, layers)
        on_event(done)
    return len(events)


def _require_same(event: Event, editor: Editor) -> None:
    came = editor.weights_hash, editor.state_hash
    if came != (event.weights_after, event.state_after):
        part = "weights" if came[0] != event.weights_after else "memory of the method"
        raise WorkspaceError(
            f"event {event.number}: expected its {part} to come out bit for bit as recorded, got "
            "others. On the machine that recorded it the record is damaged; on another one sums "
            "may be rounded otherwise"
        )


def _require_growth(
    workspace: Workspace, event: Event, editor: Editor, before: Mapping[int, LayerState]
) -> None:
    recorded = recorded_growth(workspace.artefact(event.number), workspace.base)
    for layer, after in editor.layer_states.items():
        growth = basis_growth(before[layer], after)
        own = recorded.get(layer)
        if growth is None or not growth.shape[1]:
            good = own is None
        else:
            good = own is not None and torch.equal(growth.cpu(), own)
        if not good:
            raise WorkspaceError(
                f"event {event.number}: expected layer {layer}'s forbidden directions to grow as "
                "recorded, got others"
            )
