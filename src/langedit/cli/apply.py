"""`langedit apply`: edit facts into a workspace, and go on where an earlier run stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import BatchSize, Profile, Strict
from langedit.cli.workspace_options import AsJson, Folder, OtherModel, TakeOver

EXAMPLES = """\b
Examples:
  langedit apply ./atlas facts.jsonl
\b
  langedit apply ./atlas facts.csv --batch-size 50 --on-breach split
\b
  langedit apply ./atlas corrections.jsonl --supersede --json
\b
  torchrun --nproc-per-node 4 -m langedit apply ./atlas facts.jsonl
"""


def run(
    folder: Folder,
    facts: Annotated[
        Path,
        typer.Argument(
            metavar="FACTS", help="Facts: .jsonl or .csv, see docs/facts.md.", show_default=False
        ),
    ],
    batch_size: BatchSize = 100,
    on_breach: Annotated[
        str,
        typer.Option(
            metavar="stop|skip|split",
            help="After a batch that breaks a guard rail: stop, leave it out, or edit its halves.",
        ),
    ] = "stop",
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Replace earlier facts that these contradict.")
    ] = False,
    strict: Strict = False,
    model: OtherModel = None,
    take_over: TakeOver = False,
    profile: Profile = False,
    as_json: AsJson = False,
) -> None:
    """Edit facts, batch by batch; each batch is recorded before the next begins.

    Killed at any time, the same command goes on with the first batch that is not recorded, and
    ends with the same weights. Facts that are in the model already are not edited again. Ends with
    exit code 2 if a batch broke a guard rail and the run stopped.
    """
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_workspace import show_applied
    from langedit.cli.workspace_job import ApplyOptions, apply_file
    from langedit.errors import ConfigError
    from langedit.parallel import join_processes
    from langedit.workspace.recorder import ON_BREACH

    if on_breach not in ON_BREACH:
        wrong = ConfigError(
            f"--on-breach: expected one of {', '.join(ON_BREACH)}, got {on_breach!r}"
        )
        wrong.everywhere = True  # an option is the same in all processes
        raise wrong
    quiet_transformers()
    options = ApplyOptions(
        folder=folder,
        facts=facts,
        batch_size=batch_size,
        on_breach=on_breach,
        supersede=supersede,
        strict=strict,
        model=model,
        take_over=take_over,
        profile=profile,
    )

    def show() -> None:
        show_applied(outcome, as_json=as_json)
        sys.stdout.flush()

    with join_processes() as processes:
        outcome = apply_file(options, processes)
        processes.only_first(show)  # a launcher stops all at the first that ends with an error
    if outcome.stopped:
        raise typer.Exit(2)
