"""`langedit log`, `show`, `diff`, `status` and `find`: what a ledger says. Needs no model."""

from __future__ import annotations

from typing import Annotated

import typer

from langedit.cli.workspace_options import AsJson, Folder

Number = Annotated[
    int,
    typer.Argument(metavar="BATCH", help="A number of langedit log.", show_default=False),
]

EXAMPLES = {
    "log": """\b
Examples:
  langedit log ./atlas
\b
  langedit log ./atlas --last 0 --json
""",
    "show": """\b
Examples:
  langedit show ./atlas 3
\b
  langedit show ./atlas 3 --json
""",
    "diff": """\b
Examples:
  langedit diff ./atlas 0 3
\b
  langedit diff ./atlas 3 7 --json
""",
    "status": """\b
Examples:
  langedit status ./atlas
\b
  langedit status ./atlas --json
""",
    "find": """\b
Examples:
  langedit find ./atlas Ljubljana
\b
  langedit find ./atlas "Costa Rica" --json
""",
}


def log(
    folder: Folder,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest; 0 for all.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List what happened: batches, refused batches, and undos."""
    from langedit.cli.show_ledger import show_log
    from langedit.workspace.ledger import Ledger

    with Ledger.open(folder) as ledger:
        events = ledger.events(last=last or None)
        show_log(events, ledger.count(), ledger.history(), ledger.profile, as_json=as_json)


def show(folder: Folder, batch: Number, as_json: AsJson = False) -> None:
    """Show one batch: its facts with their scores, layer by layer what it did, and its software."""
    from langedit.cli.show_ledger import show_event
    from langedit.workspace.ledger import Ledger

    with Ledger.open(folder) as ledger:
        event, facts = ledger.event(batch), ledger.facts(batch)
        standing = ledger.history().standing()
        show_event(event, facts, ledger.figures(batch), standing, as_json=as_json)


def diff(
    folder: Folder,
    first: Annotated[
        int, typer.Argument(metavar="A", help="A number of langedit log; 0 is the original model.")
    ],
    second: Annotated[int, typer.Argument(metavar="B", help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Say what the model was told otherwise after event B than after event A."""
    from langedit.cli.show_ledger import show_difference
    from langedit.workspace.ledger import Ledger
    from langedit.workspace.queries import difference

    with Ledger.open(folder) as ledger:
        show_difference(difference(ledger, first, second), first, second, as_json=as_json)


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say which weights these are: model, hash, batches, facts by language, room left."""
    from langedit.cli.show_workspace import show_status
    from langedit.workspace.ledger import Ledger
    from langedit.workspace.lock import read_owner
    from langedit.workspace.queries import status_of

    with Ledger.open(folder) as ledger:
        found, profile = status_of(ledger), ledger.creation_profile()
        show_status(found, read_owner(folder), profile, as_json=as_json)


def find(
    folder: Folder,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A subject, or part of one.")],
    as_json: AsJson = False,
) -> None:
    """Say which batches changed what is said of a subject."""
    from langedit.cli.show_ledger import show_found
    from langedit.workspace.ledger import Ledger

    with Ledger.open(folder) as ledger:
        rows = ledger.find(subject)
        events = {number: ledger.event(number) for number in dict.fromkeys(r.event for r in rows)}
        show_found(subject, rows, events, ledger.history().standing(), as_json=as_json)
