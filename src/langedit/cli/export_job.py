"""What `langedit export` does, as a function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from langedit.cli.load import load_named, named_source
from langedit.editing import EditedModelRecord, Moments
from langedit.errors import ConfigError
from langedit.folders import check_output
from langedit.workspace.export import (
    BaseSource,
    ExportOutcome,
    export_adapter,
    export_delta,
    export_merged,
    open_record,
    record_of_workspace,
)
from langedit.workspace.ledger import LEDGER
from langedit.workspace.workspace import Workspace

KINDS = ("merged", "adapter", "delta")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `langedit export`.

    Attributes:
        source: Folder of `langedit edit`, a workspace, or a delta.
        output: New or empty folder.
        kind: merged, adapter or delta.
        batches: Numbers of the batches to export; None for all.
        languages: Languages of the facts to export; None for all.
        max_rank: Largest rank of an adapter; None for an exact one.
        moments: Folder written by `langedit stats`.
        base: Where the base model is; None for where it was.
        revision: Of a hub model.
        device_map: Where the base model goes.
    """

    source: Path
    output: Path
    kind: str
    batches: tuple[int, ...] | None = None
    languages: tuple[str, ...] | None = None
    max_rank: int | None = None
    moments: Path | None = None
    base: str | None = None
    revision: str | None = None
    device_map: str | None = None


def export_edits(options: ExportOptions) -> ExportOutcome:
    """Export an edited model.

    Raises:
        LangEditError: An option cannot be used, or something fails; nothing is written.
    """
    if options.kind not in KINDS:
        raise ConfigError(f"--as: expected one of {', '.join(KINDS)}, got {options.kind!r}")
    for name, value in (("--max-rank", options.max_rank), ("--moments", options.moments)):
        if value is not None and options.kind != "adapter":
            raise ConfigError(f"{name}: is for adapters; leave it out, or give --as adapter")
    check_output(options.output)
    record = _record(options)
    base = _base(record, options)
    if options.kind == "adapter":
        return export_adapter(
            record,
            options.output,
            base=base,
            batches=options.batches,
            languages=options.languages,
            max_rank=options.max_rank,
            moments=_moments(record, options.moments),
        )
    export = export_merged if options.kind == "merged" else export_delta
    return export(
        record, options.output, base=base, batches=options.batches, languages=options.languages
    )


def _record(options: ExportOptions) -> EditedModelRecord:
    """What is in a workspace's model, or in the record of `langedit edit`."""
    if not (options.source / LEDGER).is_file():
        return open_record(options.source)
    with Workspace.open(options.source) as workspace:
        own = workspace.source
        model = load_named(
            options.base or own.source,
            revision=options.revision or own.revision,
            dtype=own.dtype,
            device_map=options.device_map or own.device_map,
            structure=workspace.config.structure,
        )
        return record_of_workspace(workspace, model)


def _base(record: EditedModelRecord, options: ExportOptions) -> BaseSource:
    if options.base is None:
        return BaseSource(
            source=record.base.source,
            revision=options.revision or record.base.revision,
            device_map=options.device_map,
        )
    return BaseSource(
        source=named_source(options.base),
        revision=options.revision,
        device_map=options.device_map,
    )


def _moments(record: EditedModelRecord, folder: Path | None) -> Moments | None:
    return None if folder is None else Moments.load(folder, record.base, record.layers)
