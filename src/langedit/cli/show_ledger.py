"""What the user reads of a ledger: events, facts and what became of them; or JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from langedit.cli.plain_text import SHORT, add_row, plain_table, say, say_json
from langedit.errors import WorkspaceError
from langedit.reporting.tables import percent, profile_table

if TYPE_CHECKING:
    from langedit.workspace.history import History, Standing
    from langedit.workspace.queries import Difference
    from langedit.workspace.rows import Event, FactRow

_FACTS = 20
_SCORES = ("efficacy", "generalization", "specificity")


def show_log(
    events: Sequence[Event],
    total: int,
    history: History,
    profile: Callable[[int], Mapping[str, Any] | None],
    *,
    as_json: bool,
) -> None:
    """Print events, oldest first; as JSON with the profiles of those that have one."""
    there = set(history.batches)
    if as_json:
        say_json([_listed(event, event.number in there, profile) for event in events])
        return
    as_text = as_text_column(events)
    columns = ("#", "when (UTC)", "event", "facts", "efficacy", *as_text, "kept", "room", "weights")
    table = plain_table(*columns)
    for event in events:
        own = event.summary
        add_row(
            table,
            event.number,
            event.created[:16].replace("T", " "),
            event_text(event, event.number in there),
            own.facts,
            percent(own.efficacy),
            *(percent(own.plain_efficacy) for _ in as_text),
            percent(own.retention),
            min(own.rank_left.values(), default="–"),
            event.weights_after[:SHORT],
        )
    Console().print(table)
    say(f"{len(events)} of {total} events; batches in the model: {len(there)}.")


def _listed(
    event: Event, in_model: bool, profile: Callable[[int], Mapping[str, Any] | None]
) -> dict[str, Any]:
    costs = profile(event.number)
    more = {} if costs is None else {"profile": costs}
    return {**event_json(event), "in_model": in_model, **more}


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
    say(f"Weights {event.weights_before[:SHORT]} → {event.weights_after[:SHORT]}")
    if facts:
        table = plain_table("language", "text", "target", "efficacy", "general.", "specific.")
        replaced = {position for item in there for position in item.dropped}
        for row in facts[:_FACTS]:
            note = " (replaced)" if row.position in replaced else ""
            scores = (row.efficacy, row.generalization, row.specificity)
            fact = row.fact
            add_row(table, fact.language, fact.text, fact.target + note, *map(percent, scores))
        Console().print(table)
        if len(facts) > _FACTS:
            say(f"... and {len(facts) - _FACTS} more facts; --json lists them all.")
    try:
        _show_plain_scores(figures)
        _show_layers(figures)
        _show_guards(figures)
        if "profile" in figures:
            Console().print(profile_table(figures["profile"]))
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
    table = plain_table("layer", "rank", "|ΔW|/|W|", "earlier keys moved", "room left")
    for layer, own in layers.items():
        moved = max((change["largest"] for change in own["independence"].values()), default=None)
        room = own["projector"]["left_after"] if own["projector"] else "–"
        change = "–" if moved is None else f"{moved:.1e}"
        add_row(table, layer, own["update_rank"], f"{own['norms']['ratio']:.2e}", change, room)
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
    old, new = (weights[:SHORT] for weights in found.weights)
    say(f"From event {first} to event {second}: {same}, {old} → {new}")
    table = plain_table("±", "language", "text", "before", "after")
    for row in found.removed:
        add_row(table, "-", row.fact.language, row.fact.text, row.fact.target, "")
    for row, later in found.changed:
        add_row(table, "~", row.fact.language, row.fact.text, row.fact.target, later.fact.target)
    for row in found.added:
        add_row(table, "+", row.fact.language, row.fact.text, "", row.fact.target)
    if table.row_count:
        Console().print(table)
    for layer, (before, after) in found.rank_left.items():
        say(f"Layer {layer}: {before} → {after} directions left")
    say(
        f"Facts that came: {len(found.added)}, went: {len(found.removed)}, "
        f"changed: {len(found.changed)}."
    )


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
    table = plain_table("batch", "when (UTC)", "language", "text", "target", "state")
    for row, state in zip(rows, states, strict=True):
        fact, when = row.fact, events[row.event].created[:16].replace("T", " ")
        add_row(table, row.event, when, fact.language, fact.text, fact.target, state)
    if rows:
        Console().print(table)
    count = "1 fact has" if len(rows) == 1 else f"{len(rows)} facts have"
    say(f"{count} a subject with {subject!r} in it.")


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


def as_text_column(events: Sequence[Event]) -> tuple[str, ...]:
    """The column of efficacy without the chat template, if any of the events has it."""
    return ("as text",) if any(e.summary.plain_efficacy is not None for e in events) else ()


def _state(row: FactRow, event: Event, item: Standing | None) -> str:
    if event.kind == "refused":
        return "refused"
    if item is None:
        return "undone"
    return "replaced" if row.position in item.dropped else "in the model"
