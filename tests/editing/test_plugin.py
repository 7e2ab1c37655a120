"""The method that docs/methods.md shows, installed for real and used in another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EDIT = """
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable
from langedit.editing import Editor, method_names

assert method_names()[-1] == "plain-ridge", method_names()
model = tiny_editable("llama")
config = settings(method="plain-ridge", null_share=None)
editor = Editor(model, None, config, random_moments(model), PREFIXES)
start = model.read_weight(1)
editor.apply(FACTS)
first, keys = model.read_weight(1), editor.layer_states[1].history
report = editor.apply(LATER)
left, right = report.updates[1].left.double(), report.updates[1].right.double()
now = editor.layer_states[1].history[-2:].double()
system = now.T @ now + config.ridge * torch.eye(now.shape[1], dtype=torch.float64)
expected = torch.linalg.solve(system, now.T @ left.T).T
assert torch.allclose(left @ right, expected, rtol=1e-3, atol=1e-5)
assert report.independence_max > 0
editor.undo()
assert torch.equal(model.read_weight(1), first) and not torch.equal(first, start)
"""


def run_python(*arguments: str, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    inherited = os.environ.get("PYTHONPATH")
    search = [*map(str, path), *([inherited] if inherited else [])]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def written_plugin(folder: Path) -> Path:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for language, name in (("python", "plain_ridge.py"), ("toml", "pyproject.toml")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        (folder / name).write_text(block, encoding="utf-8")
    return folder


def test_the_method_of_the_page_is_installed_and_edits(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the example is built with hatchling")
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    install = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index")
    options = ("--no-deps", "--no-build-isolation", "--target", str(target))
    done = run_python(*install, *options, str(written_plugin(source)))
    assert done.returncode == 0, done.stderr
    assert (target / "plain_ridge.py").is_file()
    used = run_python("-W", "error", "-c", EDIT, path=(target, ROOT / "tests"))
    assert used.returncode == 0, used.stderr
    without = run_python("-c", EDIT, path=(ROOT / "tests",))  # control: only the plug-in has it
    assert without.returncode != 0
    assert "AssertionError" in without.stderr


def test_the_example_is_short() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
