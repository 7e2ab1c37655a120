"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from langedit.errors import ConfigError

Model = Annotated[
    str,
    typer.Option(
        help="Folder of a transformers checkpoint, a hub id, or bundled: the model of the demo.",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a hub model.", show_default=False)
]
Dtype = Annotated[
    str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.", metavar="DTYPE")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Where the model goes: cuda, auto, ...; the CPU if not given."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Facts in a batch.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop if any row of the facts is rejected.")]

Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Print time, operations and memory of each stage; adds to the time."
    ),
]

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_numbers(text: str, option: str = "--layers") -> tuple[int, ...]:
    """Read numbers: `4-8`, `3,5` or `0-2,7` give them rising and once each.

    Raises:
        ConfigError: The text is no such list, or a range runs backwards.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(
                f"{option}: expected numbers counted from 0 and rising ranges, such as 4-8 or "
                f"3,5-6, got {text!r}"
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def layers_text(layers: Sequence[int]) -> str:
    """Write layer numbers so that `parse_numbers` reads them back: `(4, 5, 6, 9)` is `4-6,9`."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def parse_degrees(text: str) -> float:
    """Read an angle: `5deg` or `5`.

    Raises:
        ConfigError: The text is none.
    """
    try:
        return float(text.strip().removesuffix("deg"))
    except ValueError:
        raise ConfigError(f"expected an angle in degrees, such as 5deg, got {text!r}") from None


def parse_structure(pairs: Sequence[str]) -> dict[str, str]:
    """Read names of modules: `projection=mlp.down_proj`.

    Raises:
        ConfigError: A text is no such pair. Unknown parts are refused when the model is loaded.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        part, sign, module = pair.partition("=")
        if not (part and sign and module):
            raise ConfigError(
                f"--structure: expected PART=MODULE, such as projection=mlp.down_proj, got {pair!r}"
            )
        names[part] = module
    return names
