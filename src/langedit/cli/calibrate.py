"""`langedit calibrate`: settings for a model, with the evidence for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langedit.cli.options import BatchSize, DeviceMap, Dtype, Model, Profile, Revision, Strict

EXAMPLES = """\b
Examples:
  langedit calibrate --model bundled --facts sample.jsonl --budget 10 --output ./calibrated
\b
  langedit calibrate --model ./my-model --facts sample.jsonl --moments ./moments \\
    --config llama3-8b --against mine.toml --trials 30 --output ./calibrated
"""


def run(
    model: Model,
    facts: Annotated[
        Path,
        typer.Option(
            help="A sample of what will be edited, 30 subjects or more in each language, and "
            "2.5 times as many facts as will be edited.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="New or empty folder for the result.", show_default=False)
    ],
    budget: Annotated[float, typer.Option(help="Minutes to spend.")] = 20.0,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Settings to try, instead of as many as the minutes allow: two runs are equal.",
            show_default=False,
        ),
    ] = None,
    moments: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by langedit stats: the layers in it may be edited. Not needed "
            "for the bundled model.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="Settings to begin with, as for langedit edit; those published for the nearest "
            "known model if not given.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Instead of the method in the settings.", show_default=False),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Settings to score beside on the facts held apart. Repeat it for more.",
            metavar="CONFIG",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = 25,
    strict: Strict = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and of the search.")] = 0,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    revision: Revision = None,
    profile: Profile = False,
) -> None:
    """Find settings for a model: where it keeps what it knows, where targets are reached, a search.

    Writes settings.toml, which langedit edit --config reads, report.md with figures, and
    calibration.json. The facts are split by subject into parts to look at, to search on, and to
    confirm on.
    """
    from langedit.cli.calibration_job import CalibrateOptions, calibrate_model
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.show_calibration import show_calibration

    options = CalibrateOptions(
        model=model,
        facts=facts,
        output=output,
        budget=budget,
        trials=trials,
        moments=moments,
        config=config,
        method=method,
        against=tuple(against or ()),
        batch_size=batch_size,
        strict=strict,
        seed=seed,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        profile=profile,
    )
    quiet_transformers()
    show_calibration(calibrate_model(options), output)
