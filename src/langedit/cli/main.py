"""The command `langedit`, and how its errors reach the user.

Nothing heavy is imported here: `langedit --help` answers before torch would be loaded.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from langedit.cli import demo, edit, memory_plan, stats, stats_store, validate
from langedit.errors import LangEditError

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stats_app = typer.Typer(
    cls=stats_store.StatsGroup, rich_markup_mode=None, pretty_exceptions_enable=False
)
stats_app.command(stats_store.COLLECT, epilog=stats.EXAMPLES)(stats.run)
stats_app.command("push", epilog=stats_store.PUSH_EXAMPLES)(stats_store.push)
stats_app.command("pull", epilog=stats_store.PULL_EXAMPLES)(stats_store.pull)
app.add_typer(
    stats_app,
    name="stats",
    short_help="Collect second moments, which editing needs; push and pull them.",
)
app.command("edit", short_help="Edit a file of facts into a model.", epilog=edit.EXAMPLES)(edit.run)
app.command("demo", short_help="Edit a bundled model in six languages.", epilog=demo.EXAMPLES)(
    demo.run
)
app.command(
    "validate", short_help="Say what of a data set can be edited.", epilog=validate.EXAMPLES
)(validate.run)
app.command(
    "plan", short_help="Say what a run needs in memory and time.", epilog=memory_plan.EXAMPLES
)(memory_plan.run)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"langedit {version('langedit')}")
        raise typer.Exit


@app.callback()
def options(
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


def main() -> None:
    """Run the command line: a user's mistake ends with one message and exit code 2."""
    try:
        app()
    except LangEditError as error:
        print(f"langedit: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("langedit: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
