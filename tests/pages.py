"""The blocks of code on a page of documentation, and how to run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks_of(page: str, heading: str | None = None) -> list[tuple[str, str]]:
    """(language, text) of each block of a page, or of its section of this heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading is not None:
        _, _, rest = text.partition(f"\n## {heading}\n")
        text = rest.partition("\n## ")[0]
    return BLOCK.findall(text)


def run_blocks(
    blocks: list[tuple[str, str]], folder: Path, as_tried: Callable[[str], str] = str
) -> str:
    """Run blocks of sh and python in order and in one folder; all that they printed."""
    printed = ""
    for language, text in blocks:
        if language == "sh":
            printed += _run(["bash", "-euo", "pipefail", "-s"], as_tried(text), folder)
        else:
            printed += _run([sys.executable, "-W", "error", "-"], text, folder)
    return printed


def _run(arguments: list[str], text: str, folder: Path) -> str:
    result = subprocess.run(
        arguments,
        input=text,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
    return result.stdout
