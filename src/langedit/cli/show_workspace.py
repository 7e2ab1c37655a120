"""What the user reads of a workspace and of what was done to it; or JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from langedit.cli.plain_text import SHORT, add_row, plain_table, say, say_json
from langedit.cli.show_ledger import as_text_column, event_json
from langedit.reporting.tables import percent, profile_table

if TYPE_CHECKING:
    from langedit.cli.workspace_job import Applied
    from langedit.profiler import Profile
    from langedit.workspace.archive import Archived
    from langedit.workspace.lock import Owner
    from langedit.workspace.queries import Status
    from langedit.workspace.undo import Undone
    from langedit.workspace.verify import Verified


def show_status(
    status: Status, owner: Owner | None, profile: Mapping[str, Any] | None, *, as_json: bool
) -> None:
    """Print the present state; as JSON with the profile of `langedit init`, if there is one."""
    if as_json:
        said = None if owner is None else asdict(owner)
        say_json({**asdict(status), "writer": said, **_profile_json(profile)})
        return
    state = "the original weights" if status.original else f"weights {status.weights[:SHORT]}"
    model = status.model
    say(
        f"Model    {model['source']} ({model['dtype']}), unedited {str(model['base'])[:SHORT]}",
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
                **_profile_json(outcome.profile),
            }
        )
        return
    if work.earlier:
        say(f"Went on: batches recorded before: {work.earlier}.")
    if work.known:
        say(f"Facts in the model already, not edited again: {work.known}.")
    as_text = as_text_column(outcome.events)
    columns = ("batch", "languages", "facts", "efficacy", *as_text, "kept", "room", "seconds")
    table = plain_table(*columns)
    for event in outcome.events:
        own = event.summary
        add_row(
            table,
            f"{event.number}{'' if event.kind == 'batch' else ' refused'}",
            ", ".join(own.languages),
            own.facts,
            percent(own.efficacy),
            *(percent(own.plain_efficacy) for _ in as_text),
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
        f"rejected: {len(outcome.rejected)}. Weights {outcome.weights[:SHORT]}"
    )
    if outcome.stopped:
        say("Stopped at a guard rail: see --on-breach, or mend the facts and run again.")
    show_profile(outcome.profile)


def show_profile(profile: Profile | None) -> None:
    """Print what the stages cost, if that was asked for."""
    if profile is not None:
        Console().print(profile_table(profile))


def show_undone(undone: Undone, profile: Profile | None, *, as_json: bool) -> None:
    """Print what an undo did."""
    if as_json:
        say_json({**asdict(undone), **_profile_json(profile)})
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
    say(f"Noted as event {undone.number}. Weights {undone.weights[:SHORT]}")
    show_profile(profile)


def show_verified(found: Verified, profile: Profile | None, *, as_json: bool) -> None:
    """Print what `langedit verify` found."""
    if as_json:
        say_json({**asdict(found), **_profile_json(profile)})
        return
    say(*(f"PROBLEM  {problem}" for problem in found.problems))
    if found.replayed is None:
        summed = "weights were not summed again"
    else:
        summed = f"{found.replayed} events summed again, bit for bit as recorded"
    unused = f"; {found.unused} unused files of interrupted runs" if found.unused else ""
    state = "NOT SOUND" if found.problems else "Sound"
    say(f"{state}: {found.events} events, {found.artefacts} files, {summed}{unused}.")
    show_profile(profile)


def show_archived(done: Archived, sentence: str, *, as_json: bool) -> None:
    """Print what went into an archive or came out of it."""
    if as_json:
        say_json(asdict(done))
        return
    say(f"{sentence}: {done.events} events, {done.artefacts} files, {done.bytes / 1e6:.1f} MB.")


def _profile_json(profile: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if profile is None else {"profile": profile}
