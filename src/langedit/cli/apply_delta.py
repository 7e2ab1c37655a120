"""`langedit apply-delta`: a checkpoint of a base model and a delta."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import DeviceMap, Revision

EXAMPLES = """\b
Examples:
  langedit apply-delta ./my-model ./delta ./edited
\b
  langedit apply-delta meta-llama/Meta-Llama-3-8B delta.safetensors ./edited
"""


def run(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="Folder or hub id of the base model, or bundled: the model of the demo.",
            show_default=False,
        ),
    ],
    delta: Annotated[
        Path,
        typer.Argument(
            metavar="DELTA",
            help="Folder written by langedit export --as delta, or the file in it.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="New or empty folder for the result.", show_default=False
        ),
    ],
    revision: Revision = None,
    device_map: DeviceMap = None,
) -> None:
    """Make a checkpoint of a base model and a delta; a base with other weights is refused."""
    from langedit.cli.load import named_source
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_export import show_export
    from langedit.folders import check_output
    from langedit.workspace.export import BaseSource, apply_delta

    quiet_transformers()
    check_output(output)
    place = BaseSource(source=named_source(base), revision=revision, device_map=device_map)
    show_export(apply_delta(place, delta, output))
