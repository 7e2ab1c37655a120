"""`langedit edit`: from a file of facts to an edited checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import BatchSize, DeviceMap, Dtype, Model, Profile, Revision, Strict
from langedit.method_points import method_names

METHODS = ", ".join(method_names())

EXAMPLES = """\b
Examples:
  langedit edit --model ./my-model --facts facts.jsonl \\
    --moments ./moments --output ./edited
\b
  langedit edit --model ./my-model --facts facts.csv --moments ./moments \\
    --config edit.toml --method alphaedit --batch-size 50 --strict --output ./edited
\b
  langedit edit --model meta-llama/Meta-Llama-3-8B --facts facts.jsonl \\
    --moments ./moments --config llama3-8b --dtype bfloat16 --device-map cuda \\
    --output ./edited
\b
  torchrun --nproc-per-node 4 -m langedit edit --model ./my-model --facts facts.jsonl \\
    --moments ./moments --device-map cuda --output ./edited
"""


def run(
    model: Model,
    facts: Annotated[
        Path, typer.Option(help="Facts: .jsonl or .csv, see docs/facts.md.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(help="New or empty folder for the result.", show_default=False)
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help=f"Settings of a method ({METHODS}): a .toml file, published hyperparameters "
            "(.json), or the name of a shipped file.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"{METHODS}; instead of the one in the settings.", show_default=False),
    ] = None,
    moments: Annotated[
        Path | None,
        typer.Option(help="Folder written by langedit stats.", show_default=False),
    ] = None,
    prefixes: Annotated[
        Path | None,
        typer.Option(
            help="JSON: language to context prefixes, instead of those the model writes.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = 100,
    strict: Strict = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Instead of the seed in the settings.")
    ] = None,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    revision: Revision = None,
    profile: Profile = False,
) -> None:
    """Edit facts inside a model, batch by batch, one language after another.

    The output is a checkpoint that plain transformers loads, with langedit.json (settings, facts,
    and what each batch did to earlier ones) and report.json (scores before and after).
    """
    from langedit.cli.job import edit_model
    from langedit.cli.plan import EditOptions
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show import show_outcome
    from langedit.parallel import join_processes

    options = EditOptions(
        model=model,
        facts=facts,
        output=output,
        config=config,
        method=method,
        moments=moments,
        prefixes=prefixes,
        batch_size=batch_size,
        strict=strict,
        seed=seed,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        profile=profile,
    )
    quiet_transformers()
    with join_processes() as processes:
        outcome = edit_model(options, processes)
    if processes.is_first:
        show_outcome(outcome)
