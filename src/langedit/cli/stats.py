"""`langedit stats`: second moments of a model's layers, which editing needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langedit.cli.options import DeviceMap, Dtype, Model, Revision

if TYPE_CHECKING:
    from langedit.editing import Moments

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
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    revision: Revision = None,
) -> None:
    """Collect the second moments of the keys of some layers from a corpus.

    Needed once for each model and choice of layers. Give text in all languages that will be edited
    or should stay as they are; they take turns. langedit stats push and langedit stats pull copy
    the result to and from other places.
    """
    from langedit.cli.collect import CollectOptions, collect
    from langedit.cli.options import parse_numbers, parse_structure
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
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        structure=parse_structure(structure or ()),
    )
    with join_processes() as processes:
        moments = collect(options, processes)
    if processes.is_first:
        typer.echo(_summary(moments, output))


def _summary(moments: Moments, output: Path) -> str:
    from langedit.cli.options import layers_text

    some = next(iter(moments.layers.values()))
    languages = ", ".join(f"{name} {count:,}" for name, count in some.counts.items())
    return (
        f"Second moments of layers {layers_text(list(moments.layers))} over "
        f"{some.moment.count:,} tokens ({languages}) are in {output}"
    )
