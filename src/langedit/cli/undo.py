"""`langedit undo`: take a batch back."""

from __future__ import annotations

from typing import Annotated

import typer

from langedit.cli.options import Profile
from langedit.cli.workspace_options import AsJson, Folder, OtherModel, TakeOver

EXAMPLES = """\b
Examples:
  langedit undo ./atlas last
\b
  langedit undo ./atlas 3 --by removal
\b
  langedit undo ./atlas 3 --by replay --json
\b
  langedit undo ./atlas all
"""


def run(
    folder: Folder,
    batch: Annotated[
        str,
        typer.Argument(
            metavar="BATCH", help="A number of langedit log, last, or all.", show_default=False
        ),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="removal|replay",
            help="For an earlier batch: leave the later updates as they are, or edit the later "
            "facts again.",
            show_default=False,
        ),
    ] = None,
    model: OtherModel = None,
    take_over: TakeOver = False,
    profile: Profile = False,
    as_json: AsJson = False,
) -> None:
    """Take a batch back, and note that in a new row.

    The last batch goes exactly: the weights are, bit for bit, those from before it. With all
    batches taken back they are the original ones. The report says what became of later facts.
    """
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_workspace import show_undone
    from langedit.cli.workspace_job import UndoOptions, undo_batch
    from langedit.parallel import join_processes

    quiet_transformers()
    options = UndoOptions(
        folder=folder, batch=batch, by=by, model=model, take_over=take_over, profile=profile
    )
    with join_processes() as processes:
        undone, costs = undo_batch(options, processes)
    if processes.is_first:
        show_undone(undone, costs, as_json=as_json)
