"""One file for another machine; what does not belong into it is refused without harm."""

from __future__ import annotations

import json
import shutil
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from workspaces import FACTS, Died, FailingOperations, apply, model, new_workspace, weights

from langedit.errors import WorkspaceError
from langedit.workspace import Ledger
from langedit.workspace.archive import archive, restore
from langedit.workspace.verify import verify

SHA = "a" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = new_workspace(tmp_path_factory.mktemp("archive"))
    apply(folder, FACTS[:2])
    return folder


@pytest.fixture(scope="module")
def good(folder):
    archive(folder, folder.parent / "good.zip")
    return folder.parent / "good.zip"


def test_there_and_back(folder, good, tmp_path):
    done = restore(good, tmp_path / "back")
    assert (done.events, done.artefacts) == (2, 4)
    assert weights(tmp_path / "back") == weights(folder)
    assert verify(tmp_path / "back", model()).problems == ()
    apply(tmp_path / "back", FACTS[2:3])
    apply(other := Path(shutil.copytree(folder, tmp_path / "copy")), FACTS[2:3])
    assert weights(tmp_path / "back") == weights(other)


def test_moments_that_are_kept_elsewhere_go_in_too(tmp_path):
    origin = new_workspace(tmp_path, keep_moments=False)
    apply(origin, FACTS[:1])
    wanted = weights(origin)
    archive(origin, tmp_path / "a.zip")
    shutil.rmtree(tmp_path / "moments")
    restore(tmp_path / "a.zip", tmp_path / "back")
    assert weights(tmp_path / "back") == wanted


def test_an_archive_is_whole_or_not_there(folder, tmp_path):
    counted = FailingOperations()
    archive(folder, tmp_path / "counted.zip", operations=counted)
    assert counted.steps == ["write", "sync", "rename", "sync"]
    for at in range(3):
        with pytest.raises(Died):
            archive(folder, tmp_path / f"{at}.zip", operations=FailingOperations(at))
        assert not (tmp_path / f"{at}.zip").exists()


def test_a_restore_that_dies_makes_no_workspace(good, tmp_path):
    counted = FailingOperations()
    restore(good, tmp_path / "counted", operations=counted)
    for at in range(len(counted.steps) - 1):
        with pytest.raises(Died):
            restore(good, tmp_path / str(at), operations=FailingOperations(at))
        if "rename" in counted.steps[at:]:
            with pytest.raises(WorkspaceError, match="expected the ledger"):
                Ledger.open(tmp_path / str(at))


def test_nothing_is_overwritten(folder, good, tmp_path):
    with pytest.raises(WorkspaceError, match="expected a new file"):
        archive(folder, good)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(WorkspaceError, match="expected a new or empty folder"):
        restore(good, tmp_path)
    with pytest.raises(WorkspaceError, match="no such file"):
        restore(tmp_path / "none.zip", tmp_path / "back")


def test_a_damaged_workspace_is_not_archived(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    next(copy.rglob("*.safetensors")).write_bytes(b"rubbish")
    with pytest.raises(WorkspaceError, match="was altered"):
        archive(copy, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def rewritten(good: Path, path: Path, change) -> Path:
    """A copy of the archive, member by member, after `change(members)`."""
    with zipfile.ZipFile(good) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    members = change(members) or members
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        warnings.simplefilter("ignore")  # a member that comes twice
        for name, content in members.items() if isinstance(members, dict) else members:
            if isinstance(content, zipfile.ZipInfo):
                target.writestr(content, name)
            else:
                target.writestr(name, content)
    return path


def with_manifest(members, name, sha256):
    said = json.loads(members["manifest.json"])
    said["members"][name] = sha256
    return json.dumps(said).encode()


def traversal(members):
    members["../../evil"] = b"evil"


def absolute(members):
    members["/tmp/evil"] = b"evil"


def unlisted(members):
    members[f"artefacts/{SHA}"] = b"evil"


def wrong_hash(members):
    members["manifest.json"] = with_manifest(members, f"artefacts/{SHA}", SHA)
    members[f"artefacts/{SHA}"] = b"evil"


def other_name(members):
    members["manifest.json"] = with_manifest(members, f"artefacts/{SHA}", "b" * 64)
    members[f"artefacts/{SHA}"] = b"evil"


def twice(members):
    return [*members.items(), ("ledger.sqlite", b"evil")]


def no_ledger(members):
    del members["ledger.sqlite"]


def other_ledger(members):
    members["ledger.sqlite"] = members["ledger.sqlite"][:-1] + b"x"


def no_manifest(members):
    members["manifest.json"] = b"[" * 10_000


def missing_artefact(members):
    name = next(name for name in members if name.startswith("artefacts/"))
    del members[name]
    said = json.loads(members["manifest.json"])
    del said["members"][name]
    members["manifest.json"] = json.dumps(said).encode()


@pytest.mark.parametrize(
    "change",
    [
        traversal, absolute, unlisted, wrong_hash, other_name, twice, no_ledger, other_ledger,
        no_manifest, missing_artefact,
    ],
)  # fmt: skip
def test_what_does_not_belong_is_refused(good, tmp_path, change):
    bad = rewritten(good, tmp_path / "bad.zip", change)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(WorkspaceError, match=r"archive"):
        restore(bad, tmp_path / "inner" / "back")
    left = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert left == set()


def test_a_link_is_refused(good, tmp_path):
    info = zipfile.ZipInfo(f"artefacts/{SHA}")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "bad.zip", "w") as target:
        for own in source.infolist():
            target.writestr(own, source.read(own))
        target.writestr(info, "/etc/passwd")
    with pytest.raises(WorkspaceError, match="which is a link"):
        restore(tmp_path / "bad.zip", tmp_path / "back")


def test_a_bomb_is_refused_before_it_grows(good, tmp_path):
    shutil.copy(good, tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "a", zipfile.ZIP_DEFLATED) as target:
        target.writestr(f"artefacts/{SHA}", bytes(50_000_000))
    assert (tmp_path / "bad.zip").stat().st_size < 1_000_000
    with pytest.raises(WorkspaceError, match="compressed member"):
        restore(tmp_path / "bad.zip", tmp_path / "back")
    assert not list((tmp_path / "back").rglob("*"))


def test_a_workspace_that_is_too_large(good, tmp_path):
    with pytest.raises(WorkspaceError, match="more than the 1000 there is room for"):
        restore(good, tmp_path / "back", largest=1000)


@pytest.mark.parametrize("at", [0, 10, 0.3, 0.6, 0.9, 1.0])
def test_a_damaged_file_is_refused(good, tmp_path, at):
    content = bytearray(good.read_bytes())
    place = min(int(at * len(content)) if isinstance(at, float) else at, len(content) - 30)
    content[place : place + 20] = bytes(255 - own for own in content[place : place + 20])
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(WorkspaceError):
        restore(tmp_path / "bad.zip", tmp_path / "back")
    with pytest.raises(WorkspaceError):
        Ledger.open(tmp_path / "back")
