"""The command `langedit`, and how its errors reach the user.

Nothing heavy is imported here: `langedit --help` answers before torch would be loaded.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from langedit.cli import demo, edit, stats, validate
from langedit.errors import ConfigError, LangEditError
from langedit.parallel import is_first_process

USER_ERROR = 2
INTERRUPTED = 130
TOGETHER = ("stats", "edit")
"""Commands that several processes run together."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    "stats", short_help="Collect second moments, which editing needs.", epilog=stats.EXAMPLES
)(stats.run)
app.command("edit", short_help="Edit a file of facts into a model.", epilog=edit.EXAMPLES)(edit.run)
app.command("demo", short_help="Edit a bundled model in six languages.", epilog=demo.EXAMPLES)(
    demo.run
)
app.command(
    "validate", short_help="Say what of a data set can be edited.", epilog=validate.EXAMPLES
)(validate.run)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"langedit {version('langedit')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Edit facts in multilingual language models, one language after another.

    A first look, with the bundled model: langedit demo

    Your own model: collect its second moments once with langedit stats, then edit with langedit
    edit. The --help of each command has examples.
    """
    name = context.invoked_subcommand
    if name not in TOGETHER and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"langedit {name} runs as one process, but a launcher has started "
            f"{os.environ['WORLD_SIZE']}; start it without one ({' and '.join(TOGETHER)} take "
            "several)"
        )


def main() -> None:
    """Run the command line: a user's mistake ends with one message and exit code 2.

    Of several processes the first one speaks where all raise the same error.
    """
    try:
        app()
    except LangEditError as error:
        if error.everywhere and not is_first_process():
            raise SystemExit(USER_ERROR) from None
        print(f"langedit: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("langedit: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
