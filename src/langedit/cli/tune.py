"""`langedit tune`: the same budget of runs for every method of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.compare import Comparison, Only, Output, Wait
from langedit.cli.options import Profile

EXAMPLES = """\b
Examples:
  langedit tune atlas --write atlas-chosen.toml
\b
  langedit tune my.toml --only langedit --only memit-seq
"""


def run(
    config: Comparison,
    output: Output = None,
    only: Only = None,
    write: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of the chosen settings; OUTPUT/chosen.toml if not given.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = True,
    profile: Profile = False,
) -> None:
    """Try settings of every method on facts that the comparison never evaluates.

    What to try is said by the table [tune] of the comparison. Can be stopped and started again.
    Name the file written as `chosen` in the comparison to use it. Exit code 1 if a run failed.
    """
    from langedit.cli.comparison import CompareOptions, tune
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_compare import show_tuning

    quiet_transformers()
    options = CompareOptions(
        config=config,
        output=output,
        only=tuple(only or ()),
        write=write,
        wait=wait,
        profile=profile,
    )
    tuning = tune(options)
    show_tuning(tuning)
    if any(result.error is not None for result in tuning.results):
        raise typer.Exit(1)
