"""Options that the commands of a workspace share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the workspace.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Write although another machine's lock says that it writes."),
]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model", help="Where the same model is now, if not where it was.", show_default=False
    ),
]
