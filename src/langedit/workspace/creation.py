"""Make the folder in which an edited model lasts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from langedit.editing import Editor, Prefixes
from langedit.editing.moment_files import layer_path
from langedit.errors import WorkspaceError
from langedit.profiler import timed
from langedit.workspace.artefacts import ArtefactStore, file_hash
from langedit.workspace.guards import GuardSettings
from langedit.workspace.ledger import LEDGER, Ledger
from langedit.workspace.lock import LOCK, writer_lock
from langedit.workspace.operations import FileOperations, refuse_writing
from langedit.workspace.probes import Baseline
from langedit.workspace.rows import Origin

ARTEFACTS = "artefacts"
_OWN = (ARTEFACTS, LOCK, LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", f"{LEDGER}-journal")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the model of a workspace comes from, as the user named it."""

    source: str
    revision: str | None = None
    dtype: str = "auto"
    device_map: str | None = None


def create_workspace(
    folder: Path,
    editor: Editor,
    source: ModelSource,
    moments: Path,
    *,
    keep_moments: bool = True,
    prefixes: Prefixes | None = None,
    guards: GuardSettings | None = None,
    texts: Sequence[str] = (),
    operations: FileOperations | None = None,
) -> None:
    """Make a workspace; the folder is one when the ledger is there, which is written last.

    Args:
        folder: new or empty, or left by an interrupted attempt.
        editor: of the unedited model; its config, weights and state are recorded.
        source: how to load the model again.
        moments: the folder from which the editor's moments were read.
        keep_moments: copy them into the workspace; else the folder is named, with hashes.
        prefixes: those given to the editor, if any.
        guards: limits for each batch.
        texts: running text for the perplexity's limit.
        operations: the steps of writing.

    Raises:
        WorkspaceError: the folder holds other things or cannot be written.
        ConfigError: the model does not give a canary's answer.
    """
    _require_room(folder)
    limits = guards or GuardSettings()
    with timed({}, "guards", editor.profiler):
        baseline = Baseline.of(editor.model, limits, texts)
    steps = operations or FileOperations()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse_writing(folder, error)
    with writer_lock(folder):
        store = ArtefactStore(folder / ARTEFACTS, steps)
        store.remove_temporary()
        with timed({}, "files", editor.profiler):
            files, kept = _moment_files(editor, moments, store if keep_moments else None)
        with timed({}, "hash", editor.profiler):
            base = editor.model.identity().weights_hash
        meta = {
            "model": asdict(
                Origin(
                    **asdict(source),
                    base=base,
                    weights=editor.weights_hash,
                    state=editor.state_hash,
                )
            ),
            "config": editor.config.model_dump(mode="json"),
            "moments": files,
            "prefixes": None if prefixes is None else dict(prefixes),
            "guards": {"settings": limits.model_dump(mode="json"), **asdict(baseline)},
            "software": software(editor),
        }
        if editor.profiler is not None:
            meta["profile"] = editor.profiler.to_dict()
        Ledger.create(folder, meta, kept, steps).close()


def _moment_files(
    editor: Editor, moments: Path, store: ArtefactStore | None
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, int]]]:
    """Layer -> what the ledger says of its moments' file; and the files copied into a store."""
    files: dict[str, dict[str, Any]] = {}
    kept = []
    for layer in editor.config.edited_layers:
        path = layer_path(moments, layer)
        if store is not None:
            sha256, size = store.put(path)
            kept.append((sha256, size))
        else:
            sha256, size = file_hash(path), path.stat().st_size
        file = None if store is not None else str(path.absolute())
        files[str(layer)] = {"sha256": sha256, "bytes": size, "file": file}
    return files, kept


def software(editor: Editor) -> dict[str, Any]:
    """What decides how sums are rounded."""
    names = {name: version(name) for name in ("langedit", "torch", "transformers")}
    return {
        **names,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(editor.model.device),
        "seed": editor.config.seed,
    }


def _require_room(folder: Path) -> None:
    """Take a new or empty folder, or what an interrupted `create` left of one."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise WorkspaceError(f"{folder}: expected a folder, got a link or a file: choose another")
    if not folder.is_dir():
        return
    others = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if others:
        raise WorkspaceError(
            f"{folder}: expected a new or empty folder, got one with {others[0]!r} in it: choose "
            "another"
        )
