"""The command `langedit`, and how its errors reach the user.

Nothing heavy is imported here: `langedit --help` answers before torch would be loaded.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from langedit.cli import (
    apply,
    apply_delta,
    calibrate,
    compare,
    demo,
    edit,
    export,
    init,
    inspect,
    keeping,
    memory_plan,
    stats,
    stats_store,
    tune,
    undo,
    validate,
)
from langedit.cli.one_process import TOGETHER, require_one_process
from langedit.errors import LangEditError
from langedit.parallel import is_first_process

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
stats_app.callback()(stats_store.only_collecting_together)
app.add_typer(
    stats_app,
    name="stats",
    short_help="Collect second moments, which editing needs; push and pull them.",
)
app.command("edit", short_help="Edit a file of facts into a model.", epilog=edit.EXAMPLES)(edit.run)
app.command("export", short_help="Write an edited model in other forms.", epilog=export.EXAMPLES)(
    export.run
)
app.command(
    "apply-delta",
    short_help="Make a checkpoint of a base model and a delta.",
    epilog=apply_delta.EXAMPLES,
)(apply_delta.run)
app.command("demo", short_help="Edit a bundled model in six languages.", epilog=demo.EXAMPLES)(
    demo.run
)
app.command(
    "validate", short_help="Say what of a data set can be edited.", epilog=validate.EXAMPLES
)(validate.run)
app.command(
    "plan", short_help="Say what a run needs in memory and time.", epilog=memory_plan.EXAMPLES
)(memory_plan.run)

app.command("calibrate", short_help="Find settings for a model.", epilog=calibrate.EXAMPLES)(
    calibrate.run
)
app.command(
    "compare", short_help="Compare methods, models and data sets.", epilog=compare.EXAMPLES
)(compare.run)
app.command(
    "tune", short_help="Choose the settings of the methods compared.", epilog=tune.EXAMPLES
)(tune.run)
app.command("init", short_help="Make a workspace for a model.", epilog=init.EXAMPLES)(init.run)
app.command("apply", short_help="Edit facts into a workspace, or go on.", epilog=apply.EXAMPLES)(
    apply.run
)
app.command("undo", short_help="Take a batch back.", epilog=undo.EXAMPLES)(undo.run)
for _name, _body, _help in (
    ("log", inspect.log, "List what happened in a workspace."),
    ("show", inspect.show, "Show one batch."),
    ("diff", inspect.diff, "Compare the model after two events."),
    ("status", inspect.status, "Say which weights a workspace holds."),
    ("find", inspect.find, "Find what was changed about a subject."),
):
    app.command(_name, short_help=_help, epilog=inspect.EXAMPLES[_name])(_body)
for _name, _keep, _help in (
    ("verify", keeping.verify, "Check files, rows and weights of a workspace."),
    ("archive", keeping.archive, "Write a workspace into one file."),
    ("restore", keeping.restore, "Make a workspace from an archive."),
):
    app.command(_name, short_help=_help, epilog=keeping.EXAMPLES[_name])(_keep)


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
    if context.invoked_subcommand not in TOGETHER:
        require_one_process(str(context.invoked_subcommand))


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
