"""A workspace as one file, and back: what comes from elsewhere is read with suspicion.

The file is a ZIP without compression: `manifest.json`, `ledger.sqlite`, and one member for each
artefact, named by its SHA-256. Nothing in it can say where it would like to be written, and nothing
can grow: a member that is compressed, twice there, of another name or not of its hash is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from langedit.errors import WorkspaceError
from langedit.workspace.artefacts import ArtefactStore, file_hash
from langedit.workspace.creation import ARTEFACTS
from langedit.workspace.ledger import LEDGER, Ledger
from langedit.workspace.operations import TEMPORARY, FileOperations, place_file, refuse_writing
from langedit.workspace.workspace import Workspace

FORMAT = "langedit-archive-1"
MANIFEST = "manifest.json"
_ARTEFACT = re.compile(r"artefacts/([0-9a-f]{64})")
_LARGEST_MANIFEST = 64 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Archived:
    """What went into an archive or came out of it."""

    events: int
    artefacts: int
    bytes: int


def archive(folder: Path, file: Path, *, operations: FileOperations | None = None) -> Archived:
    """Write a workspace into one file, which is there whole or not at all.

    Moments that are kept elsewhere go in too; the model does not. A writer may go on meanwhile.

    Raises:
        WorkspaceError: an artefact is damaged, the file exists, or cannot be written.
    """
    if file.exists() or file.is_symlink():
        raise WorkspaceError(f"{file}: expected a new file, got one that exists: choose a name")
    steps = operations or FileOperations()
    temporary = file.with_name(f".{file.name}.{os.getpid()}{TEMPORARY}")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / LEDGER
            with Workspace.open(folder) as workspace:
                workspace.ledger.copy_to(copy)
                members = _members(workspace, copy)
            with Ledger.open(Path(scratch)) as ledger:
                events = ledger.count()
            steps.write(temporary, b"")
            _write_zip(temporary, members)
        steps.sync(temporary)
        steps.rename(temporary, file)
        steps.sync(file.absolute().parent)
    except OSError as error:
        refuse_writing(file, error)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Archived(events=events, artefacts=len(members) - 1, bytes=file.stat().st_size)


def restore(
    file: Path,
    folder: Path,
    *,
    largest: int | None = None,
    operations: FileOperations | None = None,
) -> Archived:
    """Make a workspace from an archive. The ledger is put in its place last.

    Args:
        file: written by `archive`.
        folder: new or empty.
        largest: bytes the workspace may have; `None` for the room there is on the disk.
        operations: the steps of writing.

    Raises:
        WorkspaceError: the file is no archive, holds anything that does not belong into one, or is
            damaged; or the folder cannot be written. The folder is then no workspace.
    """
    if not file.is_file():
        raise WorkspaceError(f"{file}: expected an archive, found no such file")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise WorkspaceError(f"{folder}: expected a new or empty folder, got another: choose one")
    steps = operations or FileOperations()
    try:
        return _restore(file, folder, largest, steps)
    except (WorkspaceError, OSError) as error:
        shutil.rmtree(folder / ARTEFACTS, ignore_errors=True)
        if isinstance(error, OSError):
            refuse_writing(folder, error)
        raise


def _restore(file: Path, folder: Path, largest: int | None, steps: FileOperations) -> Archived:
    folder.mkdir(parents=True, exist_ok=True)
    limit = shutil.disk_usage(folder).free if largest is None else largest
    with _opened(file, limit) as (source, hashes):
        store = ArtefactStore(folder / ARTEFACTS, steps)
        for name, sha256 in hashes.items():
            if name != LEDGER:
                with source.open(name) as member:
                    _put(store, name, sha256, member, steps)
        with tempfile.TemporaryDirectory(dir=folder, suffix=TEMPORARY) as scratch:
            copy = Path(scratch) / LEDGER
            with source.open(LEDGER) as member, copy.open("wb") as target:
                shutil.copyfileobj(member, target, _CHUNK)
            events = _check_ledger(file, copy, hashes)
            place_file(steps, folder / LEDGER, copy)
    return Archived(events=events, artefacts=len(hashes) - 1, bytes=file.stat().st_size)


def _members(workspace: Workspace, ledger: Path) -> dict[str, tuple[Path, str]]:
    """Member -> its file and SHA-256."""
    members = {LEDGER: (ledger, file_hash(ledger))}
    paths = {sha256: workspace.store.path(sha256) for sha256, _ in workspace.ledger.artefacts()}
    for sha256, path in paths.items():
        wrong = workspace.store.problem(sha256)
        if wrong is not None:
            raise WorkspaceError(f"{path}: the artefact {wrong}: run langedit verify")
    for path, sha256, _ in workspace.moment_files().values():
        if sha256 not in paths and file_hash(path) != sha256:
            raise WorkspaceError(f"{path}: the second moment was altered: run langedit verify")
        paths.setdefault(sha256, path)
    members |= {f"{ARTEFACTS}/{sha256}": (path, sha256) for sha256, path in paths.items()}
    return members


def _write_zip(path: Path, members: Mapping[str, tuple[Path, str]]) -> None:
    manifest = {
        "format": FORMAT,
        "members": {name: sha256 for name, (_, sha256) in members.items()},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as target:
        target.writestr(MANIFEST, json.dumps(manifest))
        for name, (source, _) in members.items():
            target.write(source, name)


@contextmanager
def _opened(file: Path, limit: int) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """An archive of which everything was checked that can be without reading its members.

    Yields:
        The archive, and member -> SHA-256 that its content must have.
    """
    try:
        with zipfile.ZipFile(file) as source:
            yield source, _checked(file, source, limit)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise _refused(file, f"got: {error}") from error


def _checked(file: Path, source: zipfile.ZipFile, limit: int) -> dict[str, str]:
    """Refuse members that do not belong, before a byte of them is written."""
    infos = source.infolist()
    names = [info.filename for info in infos]
    for info in infos:
        name = info.filename
        mode = info.external_attr >> 16
        if name not in (MANIFEST, LEDGER) and not _ARTEFACT.fullmatch(name):
            raise _refused(file, f"got a member named {name[:80]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _refused(file, f"got the compressed member {name!r}")
        if info.flag_bits & 1 or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
            raise _refused(file, f"got {name!r}, which is a link, encrypted, or no plain file")
    if len(set(names)) != len(names) or not {MANIFEST, LEDGER} <= set(names):
        raise _refused(file, "got members twice, or none of the two that must be there")
    total = sum(info.file_size for info in infos)
    if total > limit or total > file.stat().st_size:
        raise _refused(file, f"got {total} bytes, more than the {limit} there is room for")
    hashes = _manifest(file, source)
    if set(hashes) != set(names) - {MANIFEST}:
        raise _refused(file, "got other members than the manifest lists")
    return hashes


def _manifest(file: Path, source: zipfile.ZipFile) -> dict[str, str]:
    if source.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
        raise _refused(file, "got a manifest that is too large")
    try:
        said: Any = json.loads(source.read(MANIFEST))
        members = said["members"]
        good = said["format"] == FORMAT and all(
            isinstance(name, str) and isinstance(sha256, str) for name, sha256 in members.items()
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _refused(file, f"got a manifest that says nothing: {error}") from error
    if not good:
        raise _refused(file, "got a manifest of another format")
    for name, sha256 in members.items():
        found = _ARTEFACT.fullmatch(name)
        if found and found[1] != sha256:
            raise _refused(file, f"got {name!r} with another hash than its name")
    return dict(members)


def _put(
    store: ArtefactStore, name: str, sha256: str, member: IO[bytes], steps: FileOperations
) -> None:
    """Copy a member to a temporary file, hash it, and give it its name if it is right."""
    path = store.path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as target:
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            raise WorkspaceError(
                f"{name}: expected content with the hash in its name, got other content: the "
                "archive is damaged, copy it again"
            )
        steps.sync(temporary)
        steps.rename(temporary, path)
        steps.sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check_ledger(file: Path, copy: Path, hashes: Mapping[str, str]) -> int:
    """See that the ledger is a ledger, and that all it names is there; gives its events."""
    if file_hash(copy) != hashes[LEDGER]:
        raise _refused(file, "got a ledger with another hash than the manifest says")
    with Ledger.open(copy.parent) as ledger:
        problems = ledger.problems()
        if problems:
            raise _refused(file, f"got a damaged ledger: {problems[0]}")
        there = {name.removeprefix(f"{ARTEFACTS}/") for name in hashes}
        missing = [sha256 for sha256, _ in ledger.artefacts() if sha256 not in there]
        if missing:
            raise _refused(file, f"got no artefact {missing[0][:80]!r}, which its ledger names")
        return ledger.count()


def _refused(file: Path, came: str) -> WorkspaceError:
    return WorkspaceError(
        f"{file}: expected an archive of a workspace, {came}; nothing of it is used. Write it "
        "again with langedit archive"
    )
