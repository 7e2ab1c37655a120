"""`langedit export`: an edited model as checkpoint, adapter or delta."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import DeviceMap, Revision

EXAMPLES = """\b
Examples:
  langedit export ./edited ./merged --as merged
\b
  langedit export ./edited ./adapter --as adapter
\b
  langedit export ./edited ./small --as adapter --max-rank 64 --moments ./moments
\b
  langedit export ./edited ./german --as delta --language de --batches 0-3
"""

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="Output folder of langedit edit, a workspace, or a delta.",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="New or empty folder for the result.", show_default=False),
]


def run(
    source: Source,
    output: Output,
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            help="merged (a plain checkpoint), adapter (a PEFT LoRA), or delta (the updates).",
            metavar="FORM",
            show_default=False,
        ),
    ],
    batches: Annotated[
        str | None,
        typer.Option(
            help="Numbers of the batches to export, from 0: 0-3 or 2,5; all if not given.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="Export only the facts of this language. Repeat it for more.", show_default=False
        ),
    ] = None,
    max_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Largest rank of an adapter; exact if not given."),
    ] = None,
    moments: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by langedit stats, which --max-rank needs.", show_default=False
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the base model, if it is no longer where it was.",
            show_default=False,
        ),
    ] = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
) -> None:
    """Write an edited model as a plain checkpoint, a LoRA adapter, or a delta.

    Each comes with a model card that lists what was changed, in which language, how it scored and
    how to undo it, and with the facts in full.
    """
    from langedit.cli.export_job import ExportOptions, export_edits
    from langedit.cli.options import parse_numbers
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_export import show_export

    quiet_transformers()
    show_export(
        export_edits(
            ExportOptions(
                source=source,
                output=output,
                kind=kind,
                batches=None if batches is None else parse_numbers(batches, "--batches"),
                languages=tuple(language) if language else None,
                max_rank=max_rank,
                moments=moments,
                base=base,
                revision=revision,
                device_map=device_map,
            )
        )
    )
