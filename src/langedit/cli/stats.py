"""`langedit stats`: second moments of a model's layers, which editing needs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langedit.cli.options import DeviceMap, Dtype, Model, Profile, Revision

if TYPE_CHECKING:
    from langedit.cli.collect import CollectOptions, CollectOutcome
    from langedit.editing import Moments


class Precision(StrEnum):
    """Of products of keys."""

    float64 = "float64"
    float32 = "float32"


EXAMPLES = """\b
Examples:
  langedit stats --model ./my-model --text ./text --layers 4-8 --output ./moments
\b
  langedit stats --model ./my-model --text de=news.txt --text fr=presse.jsonl.gz \\
    --layers 4-8 --max-tokens 1000000 --output ./moments
\b
  langedit stats --model meta-llama/Meta-Llama-3-8B \\
    --text en=hf:wikimedia/wikipedia:20231101.en --layers 4-8 --dtype bfloat16 \\
    --device-map cuda --max-tokens 10000000 --output ./moments
\b
  torchrun --nproc-per-node 4 -m langedit stats --model ./my-model --text ./text \\
    --layers 4-8 --device-map cuda --output ./moments
"""


def run(
    model: Model,
    text: Annotated[
        list[str],
        typer.Option(
            help="Text file (.txt, .jsonl, also .gz), folder of such files, LANGUAGE=PATH, or "
            "LANGUAGE=hf:NAME[:CONFIG[:SPLIT]]. Repeat it for more.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    layers: Annotated[
        str, typer.Option(help="Layers to edit later, from 0: 4-8 or 3,5.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(help="New or empty folder for the result.", show_default=False)
    ],
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many tokens; all if not given.")
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in one pass; lower it when memory runs out.")
    ] = 4096,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Cut texts at so many tokens.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample of keys that is kept.")] = 0,
    structure: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a part that is not found: layers, projection, final_norm or head, as in "
            "projection=mlp.down_proj. Repeat it for more.",
            metavar="PART=MODULE",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of the products of keys. float32 is faster; what it loses is measured and kept, "
            "and an edit for which it is too much is refused.",
        ),
    ] = Precision.float64,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    revision: Revision = None,
    until_angle: Annotated[
        str | None,
        typer.Option(
            help="Stop as soon as the null spaces of two halves of the tokens are so near, as in "
            "5deg; needs one of the next two.",
            metavar="DEGREES",
            show_default=False,
        ),
    ] = None,
    null_share: Annotated[
        float | None,
        typer.Option(help="As in the settings of the edit.", show_default=False),
    ] = None,
    null_threshold: Annotated[
        float | None,
        typer.Option(help="As in the settings of the edit.", show_default=False),
    ] = None,
    profile: Profile = False,
) -> None:
    """Collect the second moments of the keys of some layers from a corpus.

    Needed once for each model and choice of layers. Give text in all languages that will be edited
    or should stay as they are; they take turns. langedit stats push and langedit stats pull copy
    the result to and from other places.
    """
    from langedit.cli.collect import CollectOptions, collect
    from langedit.cli.options import parse_degrees, parse_numbers, parse_structure
    from langedit.cli.quiet import quiet_transformers
    from langedit.parallel import join_processes

    quiet_transformers()
    options = CollectOptions(
        model=model,
        sources=tuple(text),
        layers=parse_numbers(layers),
        output=output,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        max_length=max_length,
        seed=seed,
        precision=precision.value,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        structure=parse_structure(structure or ()),
        until_angle=None if until_angle is None else parse_degrees(until_angle),
        null_share=null_share,
        null_threshold=null_threshold,
        profile=profile,
    )
    with join_processes() as processes:
        outcome = collect(options, processes)
    if processes.is_first:
        _show(outcome, options)


def _show(outcome: CollectOutcome, options: CollectOptions) -> None:
    if outcome.profiler is not None:
        from rich.console import Console

        from langedit.reporting import profile_table

        Console().print(profile_table(outcome.profiler.to_dict()))
    typer.echo(_summary(outcome.moments, options.output))
    if options.until_angle is not None:
        typer.echo(_angle_line(outcome.moments, options.until_angle))


def _summary(moments: Moments, output: Path) -> str:
    from langedit.cli.options import layers_text

    some = next(iter(moments.layers.values()))
    languages = ", ".join(f"{name} {count:,}" for name, count in some.counts.items())
    return (
        f"Second moments of layers {layers_text(list(moments.layers))} over "
        f"{some.moment.count:,} tokens ({languages}) are in {output}"
    )


def _angle_line(moments: Moments, wanted: float) -> str:
    """Whether the corpus was large enough."""
    angles = [layer.angle.degrees for layer in moments.layers.values() if layer.angle is not None]
    if not angles:
        return "The corpus is too small to compare two halves of it."
    verdict = "reached" if max(angles) < wanted else "NOT reached: give more text"
    return (
        f"Null spaces of two halves of the tokens: mean angle {max(angles):.1f} degrees, "
        f"{wanted:g} {verdict}"
    )
