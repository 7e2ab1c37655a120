"""`langedit stats push` and `langedit stats pull`: second moments to and from other places."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from langedit.cli.one_process import require_one_process
from langedit.cli.options import Revision

if TYPE_CHECKING:
    from langedit.models import ModelIdentity

PUSH_EXAMPLES = """\b
Examples:
  langedit stats push --moments ./moments --to hf://datasets/me/llama3-moments
  langedit stats push --moments ./moments --to s3://bucket/llama3
"""

PULL_EXAMPLES = """\b
Examples:
  langedit stats pull --from hf://datasets/me/llama3-moments --model ./my-model \\
    --output ./moments
"""

COLLECT = "collect"
"""What `langedit stats` does where neither push nor pull is named."""

Check = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model that they must be of: folder, hub id or bundled.", show_default=False
    ),
]


class StatsGroup(TyperGroup):
    """Commands under `langedit stats`; its own options are those of `collect`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front that is meant where none is named."""
        return super().parse_args(
            ctx, args if args[:1] and args[0] in self.commands else [COLLECT, *args]
        )


def only_collecting_together(context: typer.Context) -> None:
    """Several processes collect together; one pushes or pulls."""
    if context.invoked_subcommand != COLLECT:
        require_one_process(f"stats {context.invoked_subcommand}")


def push(
    moments: Annotated[
        Path, typer.Option(help="Folder written by langedit stats.", show_default=False)
    ],
    to: Annotated[
        str, typer.Option(help="Folder, hf://datasets/OWNER/NAME, or URL.", show_default=False)
    ],
    model: Check = None,
    revision: Revision = None,
) -> None:
    """Copy second moments to a Hub repository, a folder, or any URL that fsspec opens."""
    from langedit.editing.moment_store import push_moments

    index = push_moments(moments, to, expect=_identity(model, revision))
    typer.echo(f"Second moments of {len(index.files)} layers of {index.source} are in {to}")


def pull(
    source: Annotated[
        str,
        typer.Option("--from", help="Place that langedit stats push wrote.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="New or empty folder.", show_default=False)],
    layers: Annotated[
        str | None, typer.Option(help="Layers to fetch: 4-8; all if not given.")
    ] = None,
    model: Check = None,
    revision: Revision = None,
) -> None:
    """Fetch second moments, and check them file by file and against the model if it is named."""
    from langedit.cli.options import parse_numbers
    from langedit.editing.moment_store import pull_moments
    from langedit.folders import whole_folder

    wanted = None if layers is None else parse_numbers(layers)
    expect = _identity(model, revision)
    with whole_folder(output) as folder:
        moments = pull_moments(source, folder, layers=wanted, expect=expect)
    checked = "checked against the model" if expect is not None else "of the model named there"
    typer.echo(
        f"Second moments of {len(moments.layers)} layers, {checked} ({moments.identity.source}), "
        f"are in {output}"
    )


def _identity(model: str | None, revision: str | None) -> ModelIdentity | None:
    from langedit.cli.load import load_named
    from langedit.cli.quiet import quiet_transformers

    quiet_transformers()
    if model is None:
        return None
    return load_named(model, revision=revision, dtype="auto", device_map=None).identity()
