"""A folder that holds an edited model as what was done to it: settings, ledger, artefacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from langedit.editing import BatchReport, EditConfig, Editor, Moments, Prefixes
from langedit.errors import LangEditError, ProcessError, WorkspaceError
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler, timed
from langedit.workspace.artefacts import ArtefactStore
from langedit.workspace.creation import ARTEFACTS, ModelSource, create_workspace, software
from langedit.workspace.database import reading
from langedit.workspace.guards import GuardSettings
from langedit.workspace.history import Standing
from langedit.workspace.ledger import Ledger
from langedit.workspace.lock import writer_lock
from langedit.workspace.operations import FileOperations
from langedit.workspace.probes import Baseline
from langedit.workspace.record import read_report, without_facts

T = TypeVar("T")


class Workspace:
    """What was done to one model, and what is needed to do it again, or undo it.

    Of several processes the first one alone opens the folder: it holds the lock, reads and writes.
    The others have the same object without ledger and files; what they need of them they are told
    (`ask`). Editors of such a workspace belong to all processes, which make the same calls.

    Attributes:
        folder: where it is.
        store: its artefacts; for the first process only.
        processes: that have it open together.
        source: where the model comes from.
        base: hash of the unedited model's weights.
        config: settings of the edits.
        guards: limits for each batch.
        baseline: what the limits compare with.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger | None,
        store: ArtefactStore,
        processes: Processes = ALONE,
    ) -> None:
        """Read what the ledger says of the workspace as such; `open` and `create` make one.

        Raises:
            WorkspaceError: it says nothing sensible.
            ConfigError: a setting is unknown to this version.
        """
        self.folder = folder
        self._ledger = ledger
        self.store = store
        self.processes = processes
        origin = self.ask(Ledger.origin)
        self.source = ModelSource(
            source=origin.source,
            revision=origin.revision,
            dtype=origin.dtype,
            device_map=origin.device_map,
        )
        self.base = origin.base
        self.guards, self.baseline, self.config = self.ask(_read_settings)

    @property
    def ledger(self) -> Ledger:
        """Its rows; for the first process only.

        Raises:
            ProcessError: this is another one.
        """
        if self._ledger is None:
            raise ProcessError(
                f"expected the first process to open {self.folder}, got process "
                f"{self.processes.rank}: ask with Workspace.ask, which all processes call"
            )
        return self._ledger

    def ask(self, question: Callable[[Ledger], T]) -> T:
        """Let the first process do something with the ledger, and tell all what came of it."""
        return self.processes.first(lambda: question(self.ledger))

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: Path,
        *,
        write: bool = False,
        take_over: bool = False,
        operations: FileOperations | None = None,
        processes: Processes = ALONE,
    ) -> Iterator[Workspace]:
        """Open a workspace; a writer holds its lock while the body runs.

        Args:
            folder: made by `create`.
            write: whether anything will be added.
            take_over: as for `writer_lock`.
            operations: the steps of writing.
            processes: that will work on it, all of which call this.

        Raises:
            WorkspaceError: there is none, it is damaged, or another process writes.
        """
        steps = operations or FileOperations()
        store = ArtefactStore(folder / ARTEFACTS, steps)

        def begin() -> Ledger:
            if write:
                Ledger.open(folder).close()  # no lock file where there is no workspace
                stack.enter_context(writer_lock(folder, take_over=take_over))
            ledger = stack.enter_context(Ledger.open(folder, write=write, operations=steps))
            if write:
                store.remove_temporary()
            return ledger

        try:
            with ExitStack() as stack:
                yield cls(folder, processes.only_first(begin), store, processes)
        except LangEditError as error:
            if processes.all_raise(error):
                # A launcher stops all at the first that ends: not before the writer has closed.
                processes.together(lambda: None)
            raise

    create = staticmethod(create_workspace)

    def load_editor(self, model: EditableModel, profiler: Profiler | None = None) -> Editor:
        """An editor with every batch that is in the ledger's model, and nothing else.

        All processes of the workspace call this, each with a model of its own.

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
        processes = self.processes
        with timed({}, "open", profiler):
            processes.together(lambda: self._require_base(model))
            moments = processes.only_first(self._moments)
        editor = Editor(
            model,
            None,
            self.config,
            moments,
            self.prefixes(),
            profiler=profiler,
            processes=processes,
        )

        def check() -> None:
            origin = self.ledger.origin()
            self._require(editor, (origin.weights, origin.state), self.ledger.table("software"))

        processes.only_first(check)
        return editor

    def restore(self, editor: Editor) -> None:
        """Bring an editor of this workspace to what the ledger says; raises as `load_editor`."""
        with timed({}, "read", editor.profiler):
            reports = self.reports(self.ask(Ledger.history).standing())
        editor.restore(reports)

        def check() -> None:
            count = self.ledger.count()
            made_with = self.ledger.software(count) if count else {}
            self._require(editor, self.ledger.head(), made_with)

        self.processes.only_first(check)

    def reports(
        self, standing: Sequence[Standing], known: Mapping[Standing, BatchReport] | None = None
    ) -> list[BatchReport]:
        """Reports of batches, without the facts that others replaced; all processes call this.

        Args:
            standing: the batches, in order. One that has no fact left is left out.
            known: reports that are loaded already.

        Raises:
            WorkspaceError: an artefact is damaged or of another model.
        """
        return [(known or {}).get(item) or self.report(item) for item in self.present(standing)]

    def present(self, standing: Sequence[Standing]) -> list[Standing]:
        """The batches that have a fact left: those whose reports an editor holds, in order.

        All processes call this.
        """
        partial = [item.batch for item in standing if item.dropped]
        sizes = (
            self.ask(lambda ledger: {batch: ledger.size(batch) for batch in partial})
            if partial
            else {}
        )
        return [
            item for item in standing if not item.dropped or len(item.dropped) < sizes[item.batch]
        ]

    def report(self, item: Standing) -> BatchReport:
        """The report of one batch; raises as `reports`."""
        batch = item.batch
        content, figures, rows = self.processes.first(
            lambda: (self.artefact(batch), self.ledger.figures(batch), self.ledger.facts(batch))
        )

        def make() -> BatchReport:
            report = read_report(content, figures, [row.fact for row in rows], self.base)
            return without_facts(report, item.dropped) if item.dropped else report

        return self.processes.together(make)

    def artefact(self, batch: int) -> bytes:
        """The file of a batch's tensors; for the first process only.

        Raises:
            WorkspaceError: it is missing or damaged, or the event is no batch in the model's past.
        """
        event = self.ledger.event(batch)
        if event.artefact is None:
            raise WorkspaceError(f"expected an event with tensors, got {event.kind} {batch}")
        return self.store.read(event.artefact)

    def prefixes(self) -> Prefixes | None:
        """The prefixes given when the workspace was made, if any; all processes call this."""
        said = self.ask(_read_prefixes)
        return None if said is None else Prefixes(said)

    def moment_files(self) -> dict[int, tuple[Path, str, int]]:
        """Layer -> file of its second moment, its SHA-256 and its size; for the first process only.

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

    def _moments(self) -> Moments:
        paths = {layer: path for layer, (path, _, _) in self.moment_files().items()}
        return Moments.load_files({layer: paths[layer] for layer in self.config.edited_layers})

    def _require_base(self, model: EditableModel) -> None:
        own = model.identity().weights_hash
        if own != self.base:
            raise WorkspaceError(
                f"{self.folder}: expected the model {self.source.source} as it was when the "
                f"workspace was made (weights {self.base[:12]}), got weights {own[:12]}: give "
                "that checkpoint"
            )

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


def _read_settings(ledger: Ledger) -> tuple[GuardSettings, Baseline, EditConfig]:
    """What the ledger says about guard rails and edits."""
    guards = ledger.table("guards")
    with reading(ledger.path):
        texts = tuple(map(str, guards["texts"]))
        return (
            GuardSettings.of(guards["settings"]),
            Baseline(texts=texts, perplexity=guards["perplexity"]),
            EditConfig(**ledger.table("config")),
        )


def _read_prefixes(ledger: Ledger) -> dict[str, tuple[str, ...]] | None:
    if ledger.meta("prefixes") is None:
        return None
    said = ledger.table("prefixes")
    with reading(ledger.path):
        return dict(Prefixes(said))
