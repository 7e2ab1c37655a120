"""A folder that holds an edited model as what was done to it: settings, ledger, artefacts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from langedit.editing import BatchReport, EditConfig, Editor, Moments, Prefixes
from langedit.editing.moment_files import layer_path
from langedit.errors import WorkspaceError
from langedit.models import EditableModel
from langedit.profiler import Profiler
from langedit.workspace.artefacts import ArtefactStore, file_hash
from langedit.workspace.database import reading
from langedit.workspace.guards import GuardSettings
from langedit.workspace.history import Standing
from langedit.workspace.ledger import LEDGER, Ledger
from langedit.workspace.lock import LOCK, writer_lock
from langedit.workspace.operations import FileOperations, refuse_writing
from langedit.workspace.probes import Baseline
from langedit.workspace.record import read_report, without_facts
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


class Workspace:
    """What was done to one model, and what is needed to do it again, or undo it.

    Attributes:
        folder: where it is.
        ledger: its rows.
        store: its artefacts.
        source: where the model comes from.
        base: hash of the unedited model's weights.
        config: settings of the edits.
        guards: limits for each batch.
        baseline: what the limits compare with.
    """

    def __init__(self, folder: Path, ledger: Ledger, store: ArtefactStore) -> None:
        """Read what the ledger says of the workspace as such; `open` and `create` make one.

        Raises:
            WorkspaceError: it says nothing sensible.
            ConfigError: a setting is unknown to this version.
        """
        self.folder = folder
        self.ledger = ledger
        self.store = store
        origin = ledger.origin()
        self.source = ModelSource(
            source=origin.source,
            revision=origin.revision,
            dtype=origin.dtype,
            device_map=origin.device_map,
        )
        self.base = origin.base
        guards = ledger.table("guards")
        with reading(ledger.path):
            self.guards = GuardSettings.of(guards["settings"])
            self.baseline = Baseline(
                texts=tuple(map(str, guards["texts"])), perplexity=guards["perplexity"]
            )
            self.config = EditConfig(**ledger.table("config"))

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: Path,
        *,
        write: bool = False,
        take_over: bool = False,
        operations: FileOperations | None = None,
    ) -> Iterator[Workspace]:
        """Open a workspace; a writer holds its lock while the body runs.

        Args:
            folder: made by `create`.
            write: whether anything will be added.
            take_over: as for `writer_lock`.
            operations: the steps of writing.

        Raises:
            WorkspaceError: there is none, it is damaged, or another process writes.
        """
        steps = operations or FileOperations()
        with ExitStack() as stack:
            if write:
                Ledger.open(folder).close()  # no lock file where there is no workspace
                stack.enter_context(writer_lock(folder, take_over=take_over))
            ledger = stack.enter_context(Ledger.open(folder, write=write, operations=steps))
            store = ArtefactStore(folder / ARTEFACTS, steps)
            if write:
                store.remove_temporary()
            yield cls(folder, ledger, store)

    @classmethod
    def create(
        cls,
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
        baseline = Baseline.of(editor.model, limits, texts)
        steps = operations or FileOperations()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refuse_writing(folder, error)
        with writer_lock(folder):
            store = ArtefactStore(folder / ARTEFACTS, steps)
            store.remove_temporary()
            files: dict[str, dict[str, Any]] = {}
            kept = []
            for layer in editor.config.edited_layers:
                path = layer_path(moments, layer)
                if keep_moments:
                    sha256, size = store.put(path)
                    kept.append((sha256, size))
                else:
                    sha256, size = file_hash(path), path.stat().st_size
                file = None if keep_moments else str(path.absolute())
                files[str(layer)] = {"sha256": sha256, "bytes": size, "file": file}
            meta = {
                "model": asdict(
                    Origin(
                        **asdict(source),
                        base=editor.model.identity().weights_hash,
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
            Ledger.create(folder, meta, kept, steps).close()

    def load_editor(self, model: EditableModel, profiler: Profiler | None = None) -> Editor:
        """An editor with every batch that is in the ledger's model, and nothing else.

        Args:
            model: the unedited model, freshly loaded; it is changed in place.
            profiler: is told of the editor's stages.

        Raises:
            WorkspaceError: it is another model, an artefact is damaged, or the weights or the
                method's memory come out differently from what was recorded.
            MomentsError: the moments are damaged or of another model.
        """
        editor = self.fresh_editor(model, profiler)
        self.restore(editor)
        return editor

    def fresh_editor(self, model: EditableModel, profiler: Profiler | None = None) -> Editor:
        """An editor of the unedited model; raises as `load_editor`."""
        own = model.identity().weights_hash
        if own != self.base:
            raise WorkspaceError(
                f"{self.folder}: expected the model {self.source.source} as it was when the "
                f"workspace was made (weights {self.base[:12]}), got weights {own[:12]}: give "
                "that checkpoint"
            )
        paths = {layer: path for layer, (path, _, _) in self.moment_files().items()}
        given = self.prefixes()
        moments = Moments.load_files({layer: paths[layer] for layer in self.config.edited_layers})
        editor = Editor(model, None, self.config, moments, given, profiler=profiler)
        origin = self.ledger.origin()
        self._require(editor, (origin.weights, origin.state), self.ledger.table("software"))
        return editor

    def restore(self, editor: Editor) -> None:
        """Bring an editor of this workspace to what the ledger says; raises as `load_editor`."""
        editor.restore(self.reports(self.ledger.history().standing()))
        count = self.ledger.count()
        made_with = self.ledger.software(count) if count else {}
        self._require(editor, self.ledger.head(), made_with)

    def reports(
        self, standing: Sequence[Standing], known: Mapping[Standing, BatchReport] | None = None
    ) -> list[BatchReport]:
        """Reports of batches, without the facts that others replaced.

        Args:
            standing: the batches, in order. One that has no fact left is left out.
            known: reports that are loaded already.

        Raises:
            WorkspaceError: an artefact is damaged or of another model.
        """
        return [(known or {}).get(item) or self.report(item) for item in self.present(standing)]

    def present(self, standing: Sequence[Standing]) -> list[Standing]:
        """The batches that have a fact left: those whose reports an editor holds, in order."""
        return [
            item
            for item in standing
            if not item.dropped or len(item.dropped) < self.ledger.size(item.batch)
        ]

    def report(self, item: Standing) -> BatchReport:
        """The report of one batch; raises as `reports`."""
        report = read_report(
            self.artefact(item.batch),
            self.ledger.figures(item.batch),
            [row.fact for row in self.ledger.facts(item.batch)],
            self.base,
        )
        return without_facts(report, item.dropped) if item.dropped else report

    def artefact(self, batch: int) -> bytes:
        """The file of a batch's tensors.

        Raises:
            WorkspaceError: it is missing or damaged, or the event is no batch in the model's past.
        """
        event = self.ledger.event(batch)
        if event.artefact is None:
            raise WorkspaceError(f"expected an event with tensors, got {event.kind} {batch}")
        return self.store.read(event.artefact)

    def prefixes(self) -> Prefixes | None:
        """The prefixes given when the workspace was made, if any."""
        if self.ledger.meta("prefixes") is None:
            return None
        said = self.ledger.table("prefixes")
        with reading(self.ledger.path):
            return Prefixes(said)

    def moment_files(self) -> dict[int, tuple[Path, str, int]]:
        """Layer -> file of its second moment, its SHA-256 and its size.

        Raises:
            WorkspaceError: the ledger says nothing sensible about them, or one is missing.
        """
        said = self.ledger.table("moments")
        with reading(self.ledger.path):
            files = {int(layer): (str(own["sha256"]), own["file"]) for layer, own in said.items()}
            sizes = {int(layer): int(own["bytes"]) for layer, own in said.items()}
        found = {}
        for layer, (sha256, file) in files.items():
            path = self.store.path(sha256)
            wrong = self.store.place_problem(path)
            if wrong is not None and file is not None:
                path, wrong = Path(file), None if Path(file).is_file() else "is missing"
            if wrong is not None:
                raise WorkspaceError(
                    f"{path}: the second moment of layer {layer} {wrong}: put the file back"
                )
            found[layer] = (path, sha256, sizes[layer])
        return found

    def _require(
        self, editor: Editor, recorded: tuple[str, str], made_with: Mapping[str, Any]
    ) -> None:
        """Refuse weights or state that are not what was recorded."""
        came = editor.weights_hash, editor.state_hash
        if came == recorded:
            return
        part = "weights" if came[0] != recorded[0] else "memory of the method"
        here = software(editor)
        changed = [
            f"{name} {made_with[name]} then, {own} now"
            for name, own in here.items()
            if name in made_with and made_with[name] != own
        ]
        raise WorkspaceError(
            f"{self.folder}: expected the {part} bit for bit as recorded, got others. "
            + (f"What differs: {'; '.join(changed)}. " if changed else "")
            + "Sums are rounded alike only with the same software, number of threads and kind of "
            "processor: use what the workspace was made with"
        )


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
