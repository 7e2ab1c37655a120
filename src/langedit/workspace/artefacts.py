"""Files named by the SHA-256 of their content: what is read is what was written, or refused."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from langedit.errors import WorkspaceError
from langedit.workspace.operations import TEMPORARY, FileOperations, place_file, refuse_writing

SUFFIX = ".safetensors"
_NAME = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 22


class ArtefactStore:
    """Artefacts of a workspace: `artefacts/ab/ab12….safetensors`.

    Names come from rows that anyone may have written, so they are checked before they become a
    path, links are not followed, and content is hashed before anything looks into it.
    """

    def __init__(self, folder: Path, operations: FileOperations) -> None:
        """Name the folder; it is made when the first artefact is put."""
        self.folder = folder
        self._operations = operations

    def path(self, sha256: str) -> Path:
        """Where an artefact is, or would be.

        Raises:
            WorkspaceError: the name is no SHA-256.
        """
        if not _NAME.fullmatch(sha256):
            raise WorkspaceError(
                f"artefact: expected 64 hexadecimal digits as its name, got {sha256[:80]!r}: the "
                "ledger is damaged or was tampered with; restore it from an archive"
            )
        return self.folder / sha256[:2] / (sha256 + SUFFIX)

    def put(self, content: bytes | Path) -> tuple[str, int]:
        """Store bytes, or the content of a file, and give its SHA-256 and size.

        What is there already and intact stays; what is damaged is written anew.

        Raises:
            WorkspaceError: it cannot be written.
        """
        if isinstance(content, Path):
            sha256, size = file_hash(content), content.stat().st_size
        else:
            sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        path = self.path(sha256)
        if self.problem(sha256) is not None:
            place_file(self._operations, path, content)
        return sha256, size

    def read(self, sha256: str) -> bytes:
        """The content of an artefact.

        Raises:
            WorkspaceError: it is missing, no plain file, or not what was written.
        """
        path = self.path(sha256)
        wrong = self.place_problem(path)
        if wrong is None:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
            wrong = "was altered since it was written"
        raise WorkspaceError(
            f"{path}: the artefact {wrong}: put back that file from a copy of the workspace, or "
            "restore an archive; langedit verify lists everything that is damaged"
        )

    def problem(self, sha256: str) -> str | None:
        """What is wrong with an artefact, in words that follow its name; `None` if nothing."""
        path = self.path(sha256)
        wrong = self.place_problem(path)
        if wrong is None and file_hash(path) != sha256:
            wrong = "was altered since it was written"
        return wrong

    def names(self) -> Iterator[str]:
        """Yield the SHA-256 in the name of every file of the store, whether a row names it or not.

        Files with other names are passed over.
        """
        for path in sorted(self.folder.glob(f"??/*{SUFFIX}")):
            if _NAME.fullmatch(path.stem) and not path.is_symlink():
                yield path.stem

    def remove_temporary(self) -> int:
        """Remove what interrupted runs left half written, and count it. Only the writer may.

        Raises:
            WorkspaceError: it cannot be removed.
        """
        left = [path for path in self.folder.glob(f"??/*{TEMPORARY}") if not path.is_symlink()]
        for path in left:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                refuse_writing(path, error)
        return len(left)

    def place_problem(self, path: Path) -> str | None:
        """Whether there is a plain file, in folders that are none of them links."""
        try:
            modes = [part.lstat().st_mode for part in (self.folder, path.parent, path)]
        except OSError:
            return "is missing"
        if not (stat.S_ISDIR(modes[0]) and stat.S_ISDIR(modes[1]) and stat.S_ISREG(modes[2])):
            return "is no plain file in the workspace but a link or a folder"
        return None if os.access(path, os.R_OK) else "cannot be read"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        WorkspaceError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise WorkspaceError(
            f"{path}: expected a file that can be read, got: {error.strerror}"
        ) from error
    return digest.hexdigest()
