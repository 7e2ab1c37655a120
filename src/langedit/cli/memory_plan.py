"""`langedit plan`: what a run needs in memory and time, from the model's configuration alone."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from langedit.cli.options import BatchSize, Dtype, Revision
from langedit.errors import ConfigError

EXAMPLES = """\b
Examples:
  langedit plan --model llama3-8b --edits 2400 --config llama3-8b --device-memory 80GB
\b
  langedit plan --model ./my-model --edits 500 --layers 4-8 --device cpu
"""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def run(
    model: Annotated[
        str,
        typer.Option(
            help="Folder with a config.json, a hub id, or a shipped shape: gpt-j-6b, llama3-8b, "
            "llama3-8b-nf4, llama3-70b, llama3-70b-nf4, qwen2.5-7b, qwen3-32b. No weights are "
            "read.",
            show_default=False,
        ),
    ],
    edits: Annotated[int, typer.Option(min=1, help="Facts in all.", show_default=False)],
    config: Annotated[
        str | None,
        typer.Option(help="Settings, as for langedit edit.", show_default=False),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Edited layers where no settings say: 4-8.", show_default=False),
    ] = None,
    device_memory: Annotated[
        str | None,
        typer.Option(help="Memory where the model computes: 24GB, 640MB.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    batch_size: BatchSize = 100,
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a prompt.")] = 16,
    target_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a target.")] = 4,
    moment_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens for second moments.")
    ] = 1_000_000,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="10^12 operations a second of the device; measured on this machine if not given.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Say what a run will need, stage by stage, and what to change where it does not fit."""
    import torch

    from langedit.cli.options import parse_numbers
    from langedit.cli.quiet import quiet_transformers
    from langedit.cli.settings import read_settings
    from langedit.cli.show_plan import show_plan
    from langedit.editing import EditConfig
    from langedit.editing.planning import (
        Choice,
        Planner,
        Rates,
        Workload,
        dtype_of,
        measure_rates,
        quantisation_of,
        read_shape,
    )

    quiet_transformers()
    if device not in ("cuda", "cpu"):
        raise ConfigError(f"--device: expected cuda or cpu, got {device!r}")
    limit = None if device_memory is None else parse_bytes(device_memory)
    if config is not None:
        settings = read_settings(config, None, None, None)
    elif layers is not None:
        settings = EditConfig(layers=parse_numbers(layers), null_share=0.5)
    else:
        raise ConfigError("expected --config or --layers, which say what is edited, got neither")
    shape = read_shape(model, revision)
    work = Workload(
        edits=edits,
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        target_tokens=target_tokens,
        moment_tokens=moment_tokens,
    )
    asked = Choice(dtype=dtype_of(dtype, shape), config=settings, work=work)
    planner = Planner(shape, cpu=device == "cpu")
    plan = planner.plan(asked)
    here = torch.device("cuda" if device == "cuda" and torch.cuda.is_available() else "cpu")
    quantised = quantisation_of(model, shape)
    if tflops is None:
        precision = asked.dtype if quantised is None else quantised.products(asked.dtype)
        rates = measure_rates(here, precision)
    else:
        rates = Rates.of_accelerator(tflops * 1e12)
    advice = None
    if limit is not None and plan.peak > limit:
        advice = planner.advise(asked, limit)
    measured_on = None if tflops is not None else str(here)
    show_plan(
        plan,
        asked,
        rates,
        limit=limit,
        advice=advice,
        measured_on=measured_on,
        quantised=quantised,
    )


def parse_bytes(text: str) -> int:
    """Read an amount of memory: `24GB`, `640 MB`, `80G` in powers of ten, `24GiB` in those of two.

    Raises:
        ConfigError: the text is no such amount.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT]?)B?|([KMGT])iB)\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--device-memory: expected an amount such as 24GB, got {text!r}")
    if found[3]:
        return int(float(found[1]) * 1024 ** "KMGT".index(found[3].upper()) * 1024)
    return int(float(found[1]) * _UNITS[found[2].upper()])
