"""Small workspaces of tiny models, and file operations that fail where a test wants it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edits import random_moments, settings
from tiny import tiny_editable

from langedit.editing import Editor, Prefixes
from langedit.evaluation import greedy_text
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.workspace import (
    GuardSettings,
    ModelSource,
    StreamStep,
    Workspace,
    apply_work,
    plan_work,
)
from langedit.workspace.ledger import LEDGER
from langedit.workspace.operations import FileOperations

PREFIXES = Prefixes({"en": ["The water is. "], "de": ["Wer ist. "], "zh": ["中国的。"]})
FACTS = (
    Fact("en", "The capital of {} is", "France", "Rome", id="france"),
    Fact("en", "{} is in", "Peru", "Paris", id="peru"),
    Fact("zh", "{}的首都是", "法国", "北京", id="zh-france"),
    Fact("en", "Who is the mother of {}", "Lily Müller", "Anna", id="mother"),
    Fact("de", "Die Hauptstadt von {} heißt", "Österreich", "Rom", id="austria"),
    Fact("zh", "{}的首都是", "德国", "巴黎", id="zh-germany"),
)

PROMPT = "The capital of Germany is"
"""Before `answer`."""


def model() -> EditableModel:
    """The same tiny model at each call."""
    return tiny_editable("llama")


def answer() -> str:
    """What the unedited model says right after the prompt, whatever it is."""
    said = greedy_text(model(), "zh", [PROMPT], max_new_tokens=1)[0]
    assert said
    return said


def canary() -> dict[str, str]:
    """In Chinese, as far as the tool knows: no space goes before the answer."""
    return {"language": "zh", "prompt": PROMPT, "answer": answer()}


def new_workspace(
    folder: Path,
    *,
    guards: GuardSettings | None = None,
    texts: Sequence[str] = (),
    keep_moments: bool = True,
    operations: FileOperations | None = None,
    prefixes: Prefixes | None = PREFIXES,
    **changes: Any,
) -> Path:
    """A workspace with no batch, in `folder / "ws"`; its moments are beside it."""
    config = settings(**{"value_steps": 2, **changes})
    fresh = model()
    moments = random_moments(fresh, config.layers)
    moments.save(folder / "moments")
    Workspace.create(
        folder / "ws",
        Editor(fresh, None, config, moments, prefixes),
        ModelSource(source="tiny"),
        folder / "moments",
        keep_moments=keep_moments,
        prefixes=prefixes,
        guards=guards,
        texts=texts,
        operations=operations,
    )
    return folder / "ws"


def apply(
    folder: Path,
    facts: Sequence[Fact] = FACTS,
    *,
    batch_size: int = 1,
    operations: FileOperations | None = None,
    **options: Any,
) -> tuple[StreamStep, ...]:
    """Edit facts into a workspace as `langedit apply` does, with a freshly loaded model."""
    with Workspace.open(folder, write=True, operations=operations) as workspace:
        supersede = options.get("supersede", False)
        work = plan_work(workspace, facts, batch_size=batch_size, supersede=supersede)
        return apply_work(workspace, workspace.load_editor(model()), work, **options)


def weights(folder: Path) -> str:
    """Hash of the weights as the model has them when the workspace is opened."""
    with Workspace.open(folder) as workspace:
        return workspace.load_editor(model()).weights_hash


@contextmanager
def without_triggers(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can change rows, as someone would make it who wants to do harm."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    triggers = list(found)
    connection.execute("BEGIN")
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield connection
    for _, sql in triggers:
        connection.execute(sql)
    connection.execute("COMMIT")
    connection.close()


class Died(BaseException):
    """Stands for `kill -9`: nothing in the package catches it to go on."""


class FailingOperations(FileOperations):
    """Counts the steps of writing, and fails at one of them.

    Args:
        at: number of the failing step, from 0; `None` for none.
        fail: called with the name of the step; raises.
        late: do the step before failing; writing is then done by half.
    """

    def __init__(
        self,
        at: int | None = None,
        fail: Callable[[str], None] | None = None,
        *,
        late: bool = False,
    ) -> None:
        self.steps: list[str] = []
        self._at = at
        self._fail = fail or die
        self._late = late

    def write(self, path: Path, data: bytes) -> None:
        self._step("write", lambda: path.write_bytes(data[: len(data) // 2]))
        super().write(path, data)

    def copy(self, source: Path, path: Path) -> None:
        self._step("copy", lambda: path.write_bytes(source.read_bytes()[:100]))
        super().copy(source, path)

    def sync(self, path: Path) -> None:
        self._step("sync", lambda: super(FailingOperations, self).sync(path))
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", lambda: super(FailingOperations, self).rename(source, target))
        super().rename(source, target)

    def commit(self, connection: sqlite3.Connection) -> None:
        self._step("commit", lambda: super(FailingOperations, self).commit(connection))
        super().commit(connection)

    def _step(self, name: str, half: Callable[[], object]) -> None:
        self.steps.append(name)
        if len(self.steps) - 1 == self._at:
            if self._late:
                half()
            self._fail(name)


def die(_step: str) -> None:
    raise Died


def contents(folder: Path) -> dict[str, Any]:
    """All that a workspace holds but times: the rows of its ledger, and its artefacts' bytes."""
    with closing(sqlite3.connect(f"file:{folder / LEDGER}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = {
            name: [_row(dict(row)) for row in connection.execute(f"SELECT * FROM {name}")]
            for (name,) in names
        }
    files = (folder / "artefacts").rglob("*")
    return {
        "tables": tables,
        "artefacts": {path.name: path.read_bytes() for path in files if path.is_file()},
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger, its JSON as what it stands for."""
    told = {name: json.loads(value) if name in _JSON else value for name, value in row.items()}
    found: dict[str, Any] = without_times(told)
    return found


def without_times(value: Any) -> Any:
    """Figures without what a clock said."""
    if isinstance(value, dict):
        told = {name: own for name, own in value.items() if name not in ("created", "seconds")}
        return {name: without_times(own) for name, own in told.items()}
    return [without_times(own) for own in value] if isinstance(value, list) else value


_JSON = ("value", "taken", "removed", "superseded", "summary", "figures", "record")
