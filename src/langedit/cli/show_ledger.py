"""What the user reads of a workspace: tables, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from langedit.errors import WorkspaceError
from langedit.reporting.tables import percent, profile_table

if TYPE_CHECKING:
    from langedit.cli.workspace_job import Applied
    from langedit.workspace.archive import Archived
    from langedit.workspace.history import History, Standing
    from langedit.workspace.lock import Owner
    from langedit.workspace.queries import Difference, Status
    from langedit.workspace.rows import Event, FactRow
    from langedit.workspace.undo import Undone
    from langedit.workspace.verify import Verified

_SHORT = 8
_FACTS = 20
_SCORES = ("efficacy", "generalization", "specificity")


def say(*lines: str) -> None:
    """Print lines; what no terminal should get is escaped."""
    console = Console()
    for line in lines:
        console.print(shown(line), markup=False, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    print("\n".join(map(shown, text.split("\n"))))


def shown(text: str) -> str:
    """A text with control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def show_log(events: Sequence[Event], total: int, history: History, *, as_json: bool) -> None:
    """Print events, oldest first."""
    there = set(history.batches)
    if as_json:
        say_json([{**event_json(event), "in_model": event.number in there} for event in events])
        return
    plain = _plain_column(events)
    columns = ("#", "when (UTC)", "event", "facts", "efficacy", *plain, "kept", "room", "weights")
    table = _table(*columns)
    for event in events:
        own = event.summary
        _row(
            table,
            event.number,
            event.created[:16].replace("T", " "),
            event_text(event, event.number in there),
            own.facts,
            percent(own.efficacy),
            *(percent(own.plain_efficacy) for _ in plain),
            percent(own.retention),
            min(own.rank_left.values(), default="–"),
            event.weights_after[:_SHORT],
        )
    Console().print(table)
    say(f"{len(events)} of {total} events; batches in the model: {len(there)}.")


def show_event(
    event: Event,
    facts: Sequence[FactRow],
    figures: Mapping[str, Any],
    standing: Sequence[Standing],
    *,
    as_json: bool,
) -> None:
    """Print one event with its facts and figures."""
    there = [item for item in standing if item.batch == event.number]
    if as_json:
        rows = [fact_json(row) for row in facts]
        say_json({**event_json(event), "in_model": bool(there), "facts": rows, "figures": figures})
        return
    say(f"Event {event.number}, {event.created}: {event_text(event, bool(there))}")
    say(f"Weights {event.weights_before[:_SHORT]} → {event.weights_after[:_SHORT]}")
    if facts:
        table = _table("language", "text", "target", "efficacy", "general.", "specific.")
        replaced = {position for item in there for position in item.dropped}
        for row in facts[:_FACTS]:
            note = " (replaced)" if row.position in replaced else ""
            scores = (row.efficacy, row.generalization, row.specificity)
            fact = row.fact
            _row(table, fact.language, fact.text, fact.target + note, *map(percent, scores))
        Console().print(table)
        if len(facts) > _FACTS:
            say(f"... and {len(facts) - _FACTS} more facts; --json lists them all.")
    try:
        _show_plain_scores(figures)
        _show_layers(figures)
        _show_guards(figures)
        software = dict(figures.get("software", {}))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise WorkspaceError(
            f"event {event.number}: expected its figures, got: {error!r}; restore the workspace "
            "from an archive or a copy, or read what there is with --json"
        ) from error
    say("Made with " + ", ".join(f"{name} {value}" for name, value in software.items()))


def _show_plain_scores(figures: Mapping[str, Any]) -> None:
    """Means of the batch without the chat template, of a model that is edited in a chat."""
    plain = figures.get("plain_scores")
    if plain is None:
        return
    means = plain["after"]["all"]
    shown = ", ".join(f"{name} {percent(means[name])}" for name in _SCORES)
    say(f"As plain text, without the chat template, in percent: {shown}")


def _show_guards(figures: Mapping[str, Any]) -> None:
    for reading in figures.get("guards", ()):
        state = "BROKEN" if reading["broken"] else "held"
        value = "nothing to measure"
        if reading["value"] is not None:
            value = f"{reading['value']:.4g}"
        detail = f" ({reading['detail']})" if reading["detail"] else ""
        say(f"Guard rail {reading['name']} {state}: {value}, limit {reading['limit']:g}{detail}")


def _show_layers(figures: Mapping[str, Any]) -> None:
    layers = figures.get("report", {}).get("layers", {})
    if not layers:
        return
    table = _table("layer", "rank", "|ΔW|/|W|", "earlier keys moved", "room left")
    for layer, own in layers.items():
        moved = max((change["largest"] for change in own["independence"].values()), default=None)
        room = own["projector"]["left_after"] if own["projector"] else "–"
        change = "–" if moved is None else f"{moved:.1e}"
        _row(table, layer, own["update_rank"], f"{own['norms']['ratio']:.2e}", change, room)
    Console().print(table)


def show_difference(found: Difference, first: int, second: int, *, as_json: bool) -> None:
    """Print what changed between two events."""
    if as_json:
        say_json(
            {
                "events": [first, second],
                "weights": found.weights,
                "added": [fact_json(row) for row in found.added],
                "removed": [fact_json(row) for row in found.removed],
                "changed": [[fact_json(old), fact_json(new)] for old, new in found.changed],
                "rank_left": found.rank_left,
            }
        )
        return
    same = "the same weights" if found.weights[0] == found.weights[1] else "other weights"
    old, new = (weights[:_SHORT] for weights in found.weights)
    say(f"From event {first} to event {second}: {same}, {old} → {new}")
    table = _table("±", "language", "text", "before", "after")
    for row in found.removed:
        _row(table, "-", row.fact.language, row.fact.text, row.fact.target, "")
    for row, later in found.changed:
        _row(table, "~", row.fact.language, row.fact.text, row.fact.target, later.fact.target)
    for row in found.added:
        _row(table, "+", row.fact.language, row.fact.text, "", row.fact.target)
    if table.row_count:
        Console().print(table)
    for layer, (before, after) in found.rank_left.items():
        say(f"Layer {layer}: {before} → {after} directions left")
    say(
        f"Facts that came: {len(found.added)}, went: {len(found.removed)}, "
        f"changed: {len(found.changed)}."
    )


def show_status(status: Status, owner: Owner | None, *, as_json: bool) -> None:
    """Print the present state."""
    if as_json:
        said = None if owner is None else asdict(owner)
        say_json({**asdict(status), "writer": said})
        return
    state = "the original weights" if status.original else f"weights {status.weights[:_SHORT]}"
    model = status.model
    say(
        f"Model    {model['source']} ({model['dtype']}), unedited {str(model['base'])[:_SHORT]}",
        f"Method   {status.method} on layers {', '.join(map(str, status.layers))}",
        f"Now      {state}",
        f"Batches  {len(status.batches)} in the model, {status.events} events, "
        f"{status.refused} refused",
    )
    facts = ", ".join(f"{name} {count}" for name, count in status.languages.items())
    more = f"; {status.replaced} were replaced" if status.replaced else ""
    say(f"Facts    {sum(status.languages.values())}{f' ({facts})' if facts else ''}{more}")
    room = ", ".join(f"layer {layer}: {count}" for layer, count in status.rank_left.items())
    say(f"Room     {room or 'no limit known'} (directions left to edits)")
    say(f"Guards   {', '.join(status.guards) or 'none'}")
    if owner is not None:
        say(f"Writer   {owner}")


def show_found(
    subject: str,
    rows: Sequence[FactRow],
    events: Mapping[int, Event],
    standing: Sequence[Standing],
    *,
    as_json: bool,
) -> None:
    """Print the facts about a subject, and what became of them."""
    by_batch = {item.batch: item for item in standing}
    states = [_state(row, events[row.event], by_batch.get(row.event)) for row in rows]
    if as_json:
        say_json(
            [
                {**fact_json(row), "batch": row.event, "state": state}
                for row, state in zip(rows, states, strict=True)
            ]
        )
        return
    table = _table("batch", "when (UTC)", "language", "text", "target", "state")
    for row, state in zip(rows, states, strict=True):
        fact, when = row.fact, events[row.event].created[:16].replace("T", " ")
        _row(table, row.event, when, fact.language, fact.text, fact.target, state)
    if rows:
        Console().print(table)
    count = "1 fact has" if len(rows) == 1 else f"{len(rows)} facts have"
    say(f"{count} a subject with {subject!r} in it.")


def show_applied(outcome: Applied, *, as_json: bool) -> None:
    """Print what `langedit apply` did."""
    work = outcome.work
    kept = [event for event in outcome.events if event.kind == "batch"]
    refused = [event for event in outcome.events if event.kind == "refused"]
    if as_json:
        say_json(
            {
                "events": [event_json(event) for event in outcome.events],
                "already_recorded_batches": work.earlier,
                "already_known_facts": work.known,
                "rejected": [asdict(row) for row in outcome.rejected],
                "stopped": outcome.stopped,
                "weights": outcome.weights,
                **({} if outcome.profiler is None else {"profile": outcome.profiler.to_dict()}),
            }
        )
        return
    if work.earlier:
        say(f"Went on: batches recorded before: {work.earlier}.")
    if work.known:
        say(f"Facts in the model already, not edited again: {work.known}.")
    plain = _plain_column(outcome.events)
    columns = ("batch", "languages", "facts", "efficacy", *plain, "kept", "room", "seconds")
    table = _table(*columns)
    for event in outcome.events:
        own = event.summary
        _row(
            table,
            f"{event.number}{'' if event.kind == 'batch' else ' refused'}",
            ", ".join(own.languages),
            own.facts,
            percent(own.efficacy),
            *(percent(own.plain_efficacy) for _ in plain),
            percent(own.retention),
            min(own.rank_left.values(), default="–"),
            f"{own.seconds:.1f}",
        )
    if outcome.events:
        Console().print(table)
    for event in refused:
        say(
            *(f"Batch {event.number} was taken back: {breach}" for breach in event.summary.breaches)
        )
    facts = sum(event.summary.facts for event in kept)
    say(
        f"Facts edited: {facts}, in batches: {len(kept)}; batches refused: {len(refused)}; rows "
        f"rejected: {len(outcome.rejected)}. Weights {outcome.weights[:_SHORT]}"
    )
    if outcome.stopped:
        say("Stopped at a guard rail: see --on-breach, or mend the facts and run again.")
    if outcome.profiler is not None:
        Console().print(profile_table(outcome.profiler))


def show_undone(undone: Undone, *, as_json: bool) -> None:
    """Print what an undo did."""
    if as_json:
        say_json(asdict(undone))
        return
    batches = ", ".join(map(str, undone.batches))
    old, new = map(percent, undone.efficacy)
    say(f"Took back {batches} ({undone.how}); its facts: {undone.facts}, efficacy {old} → {new}")
    if undone.later:
        old, new = map(percent, undone.later_efficacy)
        say(
            f"Later facts: {undone.later}, efficacy {old} → {new}; {undone.later_changed} of them "
            "score otherwise than before"
        )
    if undone.replayed:
        say(f"Edited again as {', '.join(map(str, undone.replayed))}")
    say(f"Noted as event {undone.number}. Weights {undone.weights[:_SHORT]}")


def show_verified(found: Verified, *, as_json: bool) -> None:
    """Print what `langedit verify` found."""
    if as_json:
        say_json(asdict(found))
        return
    say(*(f"PROBLEM  {problem}" for problem in found.problems))
    if found.replayed is None:
        summed = "weights were not summed again"
    else:
        summed = f"{found.replayed} events summed again, bit for bit as recorded"
    unused = f"; {found.unused} unused files of interrupted runs" if found.unused else ""
    state = "NOT SOUND" if found.problems else "Sound"
    say(f"{state}: {found.events} events, {found.artefacts} files, {summed}{unused}.")


def show_archived(done: Archived, sentence: str, *, as_json: bool) -> None:
    """Print what went into an archive or came out of it."""
    if as_json:
        say_json(asdict(done))
        return
    say(f"{sentence}: {done.events} events, {done.artefacts} files, {done.bytes / 1e6:.1f} MB.")


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON-able values."""
    return {**vars(event), "summary": vars(event.summary)}


def fact_json(row: FactRow) -> dict[str, Any]:
    """A fact with its scores as JSON-able values."""
    scores = {name: getattr(row, name) for name in _SCORES}
    return {**asdict(row.fact), **scores}


def event_text(event: Event, in_model: bool) -> str:
    """What happened, in a few words."""
    own = event.summary
    if event.kind == "undo":
        return f"undo of {', '.join(map(str, event.removed))} ({own.how})"
    languages = ", ".join(own.languages)
    if event.kind == "refused":
        names = ", ".join(breach.partition(":")[0] for breach in own.breaches)
        return f"{languages} refused: {names}"
    more = f", replaces {len(event.superseded)}" if event.superseded else ""
    again = f", {event.replays} again" if event.replays else ""
    return f"{languages}{again}{more}{'' if in_model else ' (undone)'}"


def _state(row: FactRow, event: Event, item: Standing | None) -> str:
    if event.kind == "refused":
        return "refused"
    if item is None:
        return "undone"
    return "replaced" if row.position in item.dropped else "in the model"


def _plain_column(events: Sequence[Event]) -> tuple[str, ...]:
    """The column of efficacy without the chat template, if any of the events has it."""
    return ("as text",) if any(e.summary.plain_efficacy is not None for e in events) else ()


def _table(*columns: str) -> Table:
    table = Table()
    numbers = {"#", "batch", "facts", "efficacy", "as text", "kept", "room", "seconds", "rank"}
    numbers |= {"layer"}
    whole = numbers | {"when (UTC)", "weights", "language"}
    for column in columns:
        side: Literal["left", "right"] = "right" if column in numbers else "left"
        table.add_column(column, justify=side, no_wrap=column in whole)
    return table


def _row(table: Table, *cells: object) -> None:
    """Add cells as they are: no markup, no control characters."""
    table.add_row(*(Text(shown(str(cell))) for cell in cells))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
