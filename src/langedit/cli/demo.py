"""`langedit demo`: the bundled model, edited in six languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import Profile

EXAMPLES = """\b
Examples:
  langedit demo
  langedit demo --output ./demo --seed 1
"""


def run(
    output: Annotated[Path, typer.Option(help="Folder for results.json and the figure.")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the whole run.")] = 0,
    profile: Profile = False,
) -> None:
    """Edit hundreds of facts in a bundled model in six languages, and compare three methods.

    Needs no network and a few minutes on two processor cores. Files in the folder are replaced.
    """
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_demo import show_demo
    from langedit.console import note
    from langedit.demo.run import run_demo

    quiet_transformers()
    show_demo(run_demo(output, seed=seed, profile=profile, on_progress=note))
