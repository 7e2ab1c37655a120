"""Everything that an editor computes or hashes is in a stage, and in one stage only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from tiny import tiny_editable
from torch.utils._python_dispatch import TorchDispatchMode

from langedit.editing import Editor, Prefixes
from langedit.profiler import Profiler

METHODS: dict[str, dict[str, Any]] = {
    "langedit": {},
    "released": {"method": "langedit", "projection": "released"},
    "weighed": {"method": "langedit", "corpus_weight": 2.0},
    "merged": {"method": "langedit", "merge_shared": True},
    "alphaedit": {"method": "alphaedit"},
    "memit": {"method": "memit"},
    "memit-seq": {"method": "memit-seq"},
    "rect": {"method": "rect"},
    "prune": {"method": "prune"},
    "rome": {"method": "rome", "layers": (1,)},
    "ft": {"method": "ft", "ft_steps": 2},
    "ft-l": {"method": "ft-l", "ft_steps": 2},
}
_ROWS = 40  # entries of a tensor, beneath which it is rows of a table or a number


class StageWatch(Profiler):
    """Knows which stage runs, and refuses one within another."""

    def __init__(self) -> None:
        super().__init__()
        self.now: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        assert self.now is None, f"{name} within {self.now}"
        self.now = name
        try:
            with super().stage(name):
                yield
        finally:
            self.now = None


class Operations(TorchDispatchMode):
    """Notes the operations on tensors that run outside of all stages."""

    def __init__(self, watch: StageWatch) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.inside = 0
        self._watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._watch.now is not None:
            self.inside += 1
        elif not func.is_view and any(_is_large(own) for own in (*args, out)):
            self.outside.append(str(func))
        return out


def _is_large(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > _ROWS


class Digests:
    """Stands for hashlib's SHA-256, and notes in which stage how many bytes go into it."""

    def __init__(self, watch: StageWatch) -> None:
        self.bytes: dict[str | None, int] = {}
        self._watch = watch

    def sha256(self, first: bytes = b"") -> Digests._One:
        one = self._One(self)
        one.update(first)
        return one

    class _One:
        def __init__(self, owner: Digests) -> None:
            self._owner = owner
            self._inner = hashlib.sha256()

        def update(self, data: Any) -> None:
            stage = self._owner._watch.now
            self._owner.bytes[stage] = self._owner.bytes.get(stage, 0) + memoryview(data).nbytes
            self._inner.update(data)

        def hexdigest(self) -> str:
            return self._inner.hexdigest()


def opened(watch: StageWatch, prefixes: Prefixes | None = PREFIXES, **changes: Any) -> Editor:
    model = tiny_editable("llama")
    config = settings(**{"value_steps": 2, **changes})
    moments = random_moments(model, config.edited_layers)
    return Editor(model, None, config, moments, prefixes, profiler=watch)


@pytest.mark.parametrize("name", METHODS)
def test_all_that_is_computed_is_in_one_stage(name: str) -> None:
    watch = StageWatch()
    model = tiny_editable("llama")
    config = settings(**{"value_steps": 2, **METHODS[name]})
    moments = random_moments(model, config.edited_layers)
    operations = Operations(watch)
    with operations:
        editor = Editor(model, None, config, moments, None, profiler=watch)
        editor.apply(FACTS)
        editor.apply(LATER)
        first = editor.reports[:1]
        editor.undo()
        editor.restore(())
        editor.restore(first)
    assert operations.outside == []
    assert operations.inside > 1000
    said = set(watch.costs) - {"targets", "keys"}  # ft has no targets, and keys within its solve
    assert said == {"open", "hash", "prepare", "solve", "advance", "report", "undo", "restore"}
    assert set(first[0].seconds) == set(watch.costs) - {"open", "undo", "restore"}


def test_all_that_is_hashed_is_in_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = StageWatch()
    digests = Digests(watch)
    monkeypatch.setattr("langedit.editing.state.hashlib", digests)
    editor = opened(watch)
    editor.apply(FACTS)
    editor.undo()
    weights = sum(4 * editor.model.read_weight(layer).numel() for layer in (0, 1))
    assert None not in digests.bytes
    assert digests.bytes["hash"] >= weights
    assert digests.bytes["undo"] == weights
    _ = editor.weights_hash  # known from the undo
    assert None not in digests.bytes


def test_weights_are_hashed_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = StageWatch()
    editor = opened(watch)
    digests = Digests(watch)
    monkeypatch.setattr("langedit.editing.state.hashlib", digests)
    weights = sum(4 * editor.model.read_weight(layer).numel() for layer in (0, 1))
    before = editor.weights_hash
    assert digests.bytes == {"hash": weights}
    editor.apply(FACTS)  # what was there is known: keys, bases and names are hashed alone
    grown = digests.bytes["hash"] - weights
    assert 0 < grown < weights
    after = editor.weights_hash
    assert after != before
    assert digests.bytes["hash"] == grown + 2 * weights
    editor.restore(editor.reports)  # the same
    assert editor.weights_hash == after
    assert digests.bytes == {"hash": grown + 2 * weights}
    editor.apply(LATER)
    assert digests.bytes["hash"] < grown + 3 * weights
    assert editor.undo().facts == LATER
    seen = dict(digests.bytes)
    assert editor.weights_hash == after
    assert digests.bytes == seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_changed_from_outside_are_still_seen(dtype: torch.dtype) -> None:
    model = tiny_editable("gpt2", dtype=dtype)
    config = settings(value_steps=2)
    editor = Editor(model, None, config, random_moments(model, (0, 1)), PREFIXES)
    editor.apply(FACTS)
    assert editor.weights_hash
    with torch.no_grad():
        stored = model.projection(1).weight
        stored[3, 5] = torch.nextafter(stored[3, 5], stored[3, 5] + 1)
    editor.apply(LATER)
    with pytest.raises(Exception, match="changed from outside"):
        editor.undo()
    assert len(editor.reports) == 2
