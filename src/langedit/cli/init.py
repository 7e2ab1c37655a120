"""`langedit init`: a folder in which an edited model lasts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import DeviceMap, Dtype, Model, Profile, Revision
from langedit.cli.workspace_options import Folder

EXAMPLES = """\b
Examples:
  langedit init ./atlas --model ./my-model --moments ./moments --config edit.toml
\b
  langedit init ./atlas --model meta-llama/Meta-Llama-3-8B --moments ./moments \\
    --config llama3-8b --dtype bfloat16 --device-map cuda --reference-moments
"""


def run(
    folder: Folder,
    model: Model,
    moments: Annotated[
        Path, typer.Option(help="Folder written by langedit stats.", show_default=False)
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help="Settings, and guard rails in a table [guards]: a .toml file, hyperparameters "
            "(.json), or the name of a shipped file.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Instead of the method in the settings.", show_default=False)
    ] = None,
    prefixes: Annotated[
        Path | None,
        typer.Option(
            help="JSON: language to context prefixes, instead of those the model writes.",
            show_default=False,
        ),
    ] = None,
    reference_moments: Annotated[
        bool,
        typer.Option(
            "--reference-moments", help="Leave the moments where they are; note their hashes."
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Instead of the seed in the settings.")
    ] = None,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    revision: Revision = None,
    profile: Profile = False,
) -> None:
    """Make a workspace: settings, a ledger, and the files that its rows name.

    The model is not copied; its hash is noted, and another model is refused. Edit with langedit
    apply, and see docs/workspace.md.
    """
    from langedit.cli.plain_text import say
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_workspace import show_profile
    from langedit.cli.workspace_job import InitOptions, init_workspace
    from langedit.workspace.creation import ModelSource

    quiet_transformers()
    place = Path(model)
    name = str(place.absolute()) if place.is_dir() else model  # so that any folder finds it
    source = ModelSource(source=name, revision=revision, dtype=dtype, device_map=device_map)
    costs = init_workspace(
        InitOptions(
            folder=folder,
            source=source,
            moments=moments,
            config=config,
            method=method,
            prefixes=prefixes,
            reference_moments=reference_moments,
            seed=seed,
            profile=profile,
        )
    )
    show_profile(costs)
    say(f"{folder} is a workspace now. Edit with: langedit apply {folder} FACTS")
