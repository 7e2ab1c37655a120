"""`langedit compare`: every method on every data set, by one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import Profile

EXAMPLES = """\b
Examples:
  langedit compare quick
\b
  langedit compare atlas --report docs/results.md
\b
  langedit compare my.toml --output ./results --only langedit --only memit-seq
\b
Several processes, also on several machines that share the folder, may run the same command.
"""

Comparison = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A .toml file, see docs/compare.md, or a shipped comparison: atlas, quick, "
        "atlas-streams, paper-mzsre, paper-bzsre.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder of results; out/compare/NAME if not given.", show_default=False),
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="A method to run; repeat it for more. All if not given.", show_default=False),
]
Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Stay until runs of other processes are done, too."),
]


def run(
    config: Comparison,
    output: Output = None,
    only: Only = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a report with figures: a .md file.", show_default=False),
    ] = None,
    wait: Wait = True,
    profile: Profile = False,
) -> None:
    """Run a grid of models, methods, data sets and seeds, and show who did how well.

    A run that is finished stays: start the same command again after a stop, and it goes on. Ends
    with exit code 1 if a run failed; the others are done all the same.
    """
    from langedit.cli.comparison import CompareOptions, compare
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_compare import show_comparison

    quiet_transformers()
    options = CompareOptions(
        config=config,
        output=output,
        only=tuple(only or ()),
        report=report,
        wait=wait,
        profile=profile,
    )
    comparison = compare(options)
    show_comparison(comparison)
    if any(outcome.error is not None for outcome in comparison.outcomes):
        raise typer.Exit(1)
