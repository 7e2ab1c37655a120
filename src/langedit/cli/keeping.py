"""`langedit verify`, `archive` and `restore`: whether a workspace is sound, and moving it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import Profile
from langedit.cli.workspace_options import AsJson, Folder, OtherModel

EXAMPLES = {
    "verify": """\b
Examples:
  langedit verify ./atlas
\b
  langedit verify ./atlas --files-only --json
""",
    "archive": """\b
Examples:
  langedit archive ./atlas atlas.langedit
\b
  langedit archive ./atlas /backup/atlas-2026-11.langedit --json
""",
    "restore": """\b
Examples:
  langedit restore atlas.langedit ./atlas
\b
  langedit restore atlas.langedit ./atlas --json
""",
}

File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.", show_default=False)]


def verify(
    folder: Folder,
    files_only: Annotated[
        bool,
        typer.Option("--files-only", help="Compare hashes of files; do not load the model."),
    ] = False,
    model: OtherModel = None,
    profile: Profile = False,
    as_json: AsJson = False,
) -> None:
    """Hash every file again, and sum all updates again, event by event.

    Ends with exit code 2 if anything is not as it was recorded.
    """
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_workspace import show_verified
    from langedit.cli.workspace_job import verify_workspace

    quiet_transformers()
    outcome, costs = verify_workspace(folder, model, files_only=files_only, profile=profile)
    show_verified(outcome, costs, as_json=as_json)
    if outcome.problems:
        raise typer.Exit(2)


def archive(folder: Folder, file: File, as_json: AsJson = False) -> None:
    """Write a workspace into one file, moments included and the model left out."""
    from langedit.cli.show_workspace import show_archived
    from langedit.workspace.archive import archive as write

    show_archived(write(folder, file), f"{folder} is in {file}", as_json=as_json)


def restore(file: File, folder: Folder, as_json: AsJson = False) -> None:
    """Make a workspace from an archive; what does not belong into one is refused.

    If the model is elsewhere on this machine, name it with --model in langedit apply, undo and
    verify.
    """
    from langedit.cli.show_workspace import show_archived
    from langedit.workspace.archive import restore as read

    show_archived(read(file, folder), f"{folder} is the workspace of {file}", as_json=as_json)
