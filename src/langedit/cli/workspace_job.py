"""What the commands of a workspace do, as functions: load the model, and work on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from langedit.cli.fitting import require_fitting
from langedit.cli.load import load_named
from langedit.cli.moments import read_moments
from langedit.cli.plan import require_prefixes
from langedit.cli.settings import read_guards, read_settings
from langedit.console import note, progress
from langedit.editing import Editor, Prefixes
from langedit.errors import ConfigError
from langedit.facts import RejectedRow, read_facts
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profile, Profiler
from langedit.workspace.applying import Work, apply_work, plan_work
from langedit.workspace.creation import ModelSource
from langedit.workspace.ledger import Ledger
from langedit.workspace.recorder import OnBreach
from langedit.workspace.rows import Event
from langedit.workspace.stream import StreamStep
from langedit.workspace.undo import How, Undone, undo
from langedit.workspace.verify import Verified, verify
from langedit.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """The options of `langedit init`."""

    folder: Path
    source: ModelSource
    moments: Path
    config: str | None
    method: str | None
    prefixes: Path | None
    reference_moments: bool
    seed: int | None
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """The options of `langedit apply`."""

    folder: Path
    facts: Path
    batch_size: int
    on_breach: OnBreach
    supersede: bool
    strict: bool
    model: str | None
    take_over: bool
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class UndoOptions:
    """The options of `langedit undo`."""

    folder: Path
    batch: str
    by: str | None
    model: str | None
    take_over: bool
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What `langedit apply` did.

    Attributes:
        folder: The workspace.
        work: What was left to do.
        events: What was added to the ledger.
        rejected: Rows of the file that are no facts.
        weights: Hash of the weights now.
        stopped: Whether a guard rail ended the run.
        profile: What the stages cost, if that was asked for and anything was done.
    """

    folder: Path
    work: Work
    events: tuple[Event, ...]
    rejected: tuple[RejectedRow, ...]
    weights: str
    stopped: bool
    profile: Profile | None = None


def init_workspace(options: InitOptions) -> Profile | None:
    """Make a workspace; gives what its stages cost, if that is asked for.

    Raises:
        LangEditError: Something cannot be used or written.
    """
    config = read_settings(
        options.config, options.moments, options.method, options.seed, guarded=True
    )
    guards, texts = read_guards(options.config)
    source = options.source
    moments = read_moments(
        options.moments, config.edited_layers, model=source.source, revision=source.revision
    )
    # A kept decomposition may be of another machine; later runs make theirs from the moments alone.
    moments = replace(moments, folder=None)
    prefixes = None if options.prefixes is None else Prefixes.load(options.prefixes)
    model = _load(source, config.structure)
    profiler = Profiler(model.device) if options.profile else None
    with progress("measuring the unedited model"):
        Workspace.create(
            options.folder,
            Editor(model, None, config, moments, prefixes, profiler=profiler),
            source,
            options.moments,
            keep_moments=not options.reference_moments,
            prefixes=prefixes,
            guards=guards,
            texts=texts,
        )
    return _figures(profiler)


def apply_file(options: ApplyOptions, processes: Processes = ALONE) -> Applied:
    """Edit a file of facts into a workspace.

    Of several processes all make this call; the first one alone reads the file and the workspace,
    and writes.

    Raises:
        LangEditError: Something cannot be used, or fails; what is recorded stays.
    """
    shown = processes.is_first
    file = processes.first(lambda: read_facts(options.facts, strict=options.strict))
    for row in file.rejected if shown else ():
        note(f"rejected {row}")
    with Workspace.open(
        options.folder, write=True, take_over=options.take_over, processes=processes
    ) as workspace:
        given = workspace.prefixes()
        processes.together(lambda: require_prefixes(given, file.facts, workspace.config))
        count = workspace.ask(Ledger.count)
        work = plan_work(
            workspace, file.facts, batch_size=options.batch_size, supersede=options.supersede
        )
        steps: tuple[StreamStep, ...] = ()
        profiler = None
        if work.run is not None:
            editor = _open_editor(workspace, options.model, profile=options.profile)
            profiler = editor.profiler
            left = [fact for _, batch in work.batches for fact in batch]
            processes.together(
                lambda: require_fitting(editor.model, file, left, editor.config, editor.prefixes)
            )
            with progress("editing batches", len(work.batches), shown=shown) as done:
                steps = apply_work(
                    workspace,
                    editor,
                    work,
                    on_breach=options.on_breach,
                    supersede=options.supersede,
                    on_step=lambda step: done(step.index + 1),
                )
        events, head = workspace.ask(
            lambda ledger: (ledger.events(last=ledger.count() - count), ledger.head())
        )
        return Applied(
            folder=options.folder,
            work=work,
            events=tuple(events) if len(steps) else (),
            rejected=file.rejected,
            weights=head[0],
            stopped=options.on_breach == "stop" and any(not step.kept for step in steps),
            profile=_figures(profiler),
        )


def undo_batch(options: UndoOptions, processes: Processes = ALONE) -> tuple[Undone, Profile | None]:
    """Take a batch of a workspace back; of several processes all make this call.

    Returns:
        What was done, and what its stages cost, if that is asked for.

    Raises:
        LangEditError: There is no such batch, or something fails; nothing has changed then.
    """
    number, how = processes.together(lambda: _which(options.batch, options.by))
    with (
        Workspace.open(
            options.folder, write=True, take_over=options.take_over, processes=processes
        ) as workspace,
        progress("taking back", shown=processes.is_first) as done,
    ):
        editor = _open_editor(workspace, options.model, profile=options.profile)
        undone = undo(workspace, editor, number, how, on_step=lambda step: done(step.index + 1))
    return undone, _figures(editor.profiler)


def verify_workspace(
    folder: Path, model: str | None, *, files_only: bool, profile: bool = False
) -> tuple[Verified, Profile | None]:
    """Check a workspace, with its model unless only files are wanted.

    Returns:
        What was found, and what the stages cost, if that is asked for.

    Raises:
        LangEditError: There is no workspace, or its model cannot be loaded.
    """
    loaded = None
    if not files_only:
        with Workspace.open(folder) as workspace:
            loaded = _load(_source(workspace, model), workspace.config.structure)
    profiler = Profiler("cpu" if loaded is None else loaded.device) if profile else None
    with progress("summing again") as done:
        found = verify(folder, loaded, on_event=done, profiler=profiler)
    return found, _figures(profiler)


def _figures(profiler: Profiler | None) -> Profile | None:
    return None if profiler is None else profiler.to_dict()


def _open_editor(workspace: Workspace, model: str | None, *, profile: bool = False) -> Editor:
    processes = workspace.processes
    source = _source(workspace, model)
    place = processes.place(source.device_map)
    loaded = processes.together(
        lambda: _load(replace(source, device_map=place), workspace.config.structure)
    )
    with progress("bringing the model to where the ledger stands", shown=processes.is_first):
        return workspace.load_editor(loaded, Profiler(loaded.device) if profile else None)


def _source(workspace: Workspace, model: str | None) -> ModelSource:
    own = workspace.source
    if model is None:
        return own
    return ModelSource(
        source=model, revision=own.revision, dtype=own.dtype, device_map=own.device_map
    )


def _load(source: ModelSource, structure: object) -> EditableModel:
    return load_named(
        source.source,
        revision=source.revision,
        dtype=source.dtype,
        device_map=source.device_map,
        structure=structure if isinstance(structure, dict) else None,
    )


def _which(batch: str, by: str | None) -> tuple[int | None, How]:
    """Number of the batch, and how it goes."""
    if by not in (None, "removal", "replay"):
        raise ConfigError(f"--by: expected removal or replay, got {by!r}")
    if batch in ("last", "all"):
        if by is not None:
            raise ConfigError(f"--by: expected none with {batch}, which goes exactly: leave it out")
        return None, "last" if batch == "last" else "all"
    if not batch.isascii() or not batch.isdigit():
        raise ConfigError(f"BATCH: expected a number, last or all, got {batch!r}")
    if by == "removal":
        return int(batch), "removal"
    return int(batch), "replay" if by == "replay" else "last"
