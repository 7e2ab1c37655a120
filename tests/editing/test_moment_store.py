"""Second moments pushed to and pulled from a folder and from a file system of fsspec."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from edits import random_moments
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from tiny import tiny_editable

from langedit.editing import Moments
from langedit.editing.moment_store import INDEX, pull_moments, push_moments, read_store
from langedit.errors import MomentsError, OutputError


@pytest.fixture(params=["folder", "url", "memory"])
def place(request, tmp_path):
    """A plain folder, a URL of one, and a file system that is none."""
    if request.param != "memory":
        folder = tmp_path / "shared" / "llama"
        yield str(folder) if request.param == "folder" else f"file://{folder}"
        return
    yield "memory://moments/llama"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def model():
    return tiny_editable()


@pytest.fixture
def folder(model, tmp_path):
    random_moments(model).save(tmp_path / "moments")
    return tmp_path / "moments"


def same(one: Moments, other: Moments) -> bool:
    return (
        one.identity == other.identity
        and one.corpus == other.corpus
        and one.layers.keys() == other.layers.keys()
        and all(
            torch.equal(own.moment.mean, other.layers[layer].moment.mean)
            and torch.equal(own.sample, other.layers[layer].sample)
            for layer, own in one.layers.items()
        )
    )


def spoil(place: str, name: str) -> None:
    files, root = fsspec.core.url_to_fs(place)
    content = bytearray(files.cat_file(f"{root}/{name}"))
    content[-1] ^= 1
    files.pipe_file(f"{root}/{name}", bytes(content))


def test_what_is_pushed_is_pulled(place, folder, model, tmp_path):
    index = push_moments(folder, place, expect=model.identity())
    assert read_store(place) == index
    assert (index.layers, index.tokens) == ((0, 1), 300)
    pulled = pull_moments(place, tmp_path / "here", expect=model.identity())
    assert same(pulled, Moments.load(folder))
    assert same(Moments.load(tmp_path / "here", model.identity()), pulled)


def test_some_layers_can_be_pulled_and_others_added(place, folder, model, tmp_path):
    whole = Moments.load(folder)
    part = replace(whole, layers={1: whole.layers[1]})
    part.save(tmp_path / "part")
    assert push_moments(tmp_path / "part", place).layers == (1,)
    with pytest.raises(MomentsError, match=r"expected layers \[0\], got \[1\]"):
        pull_moments(place, tmp_path / "none", layers=(0, 1))
    assert push_moments(folder, place).layers == (0, 1)
    assert push_moments(tmp_path / "part", place).layers == (0, 1)
    pulled = pull_moments(place, tmp_path / "here", layers=(1,))
    assert list(pulled.layers) == [1]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["layer-001.safetensors"]


def test_moments_of_another_model_are_refused_before_they_are_fetched(place, folder, tmp_path):
    push_moments(folder, place)
    other = tiny_editable(seed=1).identity()
    with pytest.raises(MomentsError, match="got those of in memory"):
        pull_moments(place, tmp_path / "here", expect=other)
    assert not (tmp_path / "here").exists()
    with pytest.raises(MomentsError, match="expected second moments of"):
        push_moments(folder, place, expect=other)


@pytest.mark.parametrize("what", ["model", "corpus"])
def test_a_store_of_something_else_is_left_alone(place, folder, model, what, tmp_path):
    before = push_moments(folder, place)
    other = random_moments(tiny_editable(seed=1) if what == "model" else model)
    replace(other, corpus="random" if what == "model" else "other").save(tmp_path / "other")
    with pytest.raises(MomentsError, match="choose another place"):
        push_moments(tmp_path / "other", place)
    assert read_store(place) == before
    assert same(pull_moments(place, tmp_path / "here"), Moments.load(folder))


def test_damage_is_noticed_on_both_ways(place, folder, tmp_path):
    push_moments(folder, place)
    spoil(place, "layer-001.safetensors")
    with pytest.raises(
        MomentsError, match=r"layer-001.safetensors with checksum .* fetch it again"
    ):
        pull_moments(place, tmp_path / "here")
    spoil(str(folder), "layer-000.safetensors")
    with pytest.raises(MomentsError, match="layer-000"):
        push_moments(folder, place)


def test_what_is_no_store_is_an_error(place, folder, tmp_path):
    with pytest.raises(MomentsError, match="found none"):
        pull_moments(place, tmp_path / "here")
    push_moments(folder, place)
    files, root = fsspec.core.url_to_fs(place)
    files.pipe_file(f"{root}/{INDEX}", b"{")
    with pytest.raises(MomentsError, match="cannot be read"):
        read_store(place)
    files.pipe_file(f"{root}/{INDEX}", json.dumps({"format": "x"}).encode())
    with pytest.raises(MomentsError, match="not of format"):
        read_store(place)
    files.pipe_file(f"{root}/{INDEX}", b'{"format": "langedit-moment-store-1", "x": 1}')
    with pytest.raises(MomentsError, match="damaged"):
        read_store(place)


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": None},
        {"files": {"x": "y"}},
        {"files": {"0": 1}},
        {"languages": ["en"]},
        {"languages": {"en": "many"}},
        {"tokens": "all"},
        {"weights_hash": None},
    ],
    ids=str,
)
def test_values_of_other_kinds_are_damage(place, folder, tmp_path, wrong):
    push_moments(folder, place)
    files, root = fsspec.core.url_to_fs(place)
    whole = json.loads(files.cat_file(f"{root}/{INDEX}"))
    files.pipe_file(f"{root}/{INDEX}", json.dumps(whole | wrong).encode())
    with pytest.raises(MomentsError, match="damaged: expected files as a table"):
        pull_moments(place, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_places_that_cannot_be_opened_or_written_are_errors(folder, tmp_path):
    with pytest.raises(OutputError, match=r"nosuchscheme://x: expected to open .*Protocol not kn"):
        push_moments(folder, "nosuchscheme://x")
    (tmp_path / "store" / "layer-000.safetensors").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"expected to write layer-000.* got IsADirectoryError"):
        push_moments(folder, str(tmp_path / "store"))
    assert not (tmp_path / "store" / INDEX).exists()
    push_moments(folder, str(tmp_path / "whole"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a folder that can be made, got"):
        pull_moments(str(tmp_path / "whole"), tmp_path / "file" / "here")


class ConnectError(Exception):
    """As the web libraries have them: no `OSError`."""


REFUSED: Any = SimpleNamespace(headers={}, request=None)

FAILURES = {
    "no network": ConnectError("[Errno -2] Name or service not known"),
    "no repository": RepositoryNotFoundError("401 Client Error", response=REFUSED),
    "not allowed": HfHubHTTPError("403 Forbidden", response=REFUSED),
    "offline": OfflineModeIsEnabled("offline mode is enabled"),
    "not in the cache": LocalEntryNotFoundError("no file on the disk, and outgoing traffic off"),
}


@pytest.fixture(params=FAILURES)
def failing(request):
    """A file system whose calls fail with the errors of the Hub's library, but for those named."""
    error, works = FAILURES[request.param], set()

    class Failing(MemoryFileSystem):
        protocol = "failing"
        store: ClassVar[dict[str, object]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def __getattribute__(self, name):
            if name in {"cat_file", "put_file", "get_file", "pipe_file"} - works:
                raise error
            return super().__getattribute__(name)

    fsspec.register_implementation("failing", Failing, clobber=True)
    yield works, type(error).__name__
    _registry.pop("failing")


def test_errors_of_file_systems_are_ours_and_say_what_to_do(failing, folder, tmp_path):
    works, kind = failing
    place = "failing://moments"

    def refused(error, what, action):
        with pytest.raises(error, match=f"^{place}: expected to {what} .*{kind}.*; see whether"):
            action()

    refused(MomentsError, "read moments.json", lambda: read_store(place))
    refused(MomentsError, "read moments.json", lambda: push_moments(folder, place))
    works.add("cat_file")
    refused(OutputError, "write layer-000.safetensors", lambda: push_moments(folder, place))
    works.add("put_file")
    refused(OutputError, "write moments.json", lambda: push_moments(folder, place))
    with pytest.raises(MomentsError, match="found none"):
        read_store(place)
    works.add("pipe_file")
    push_moments(folder, place)
    refused(
        MomentsError, "fetch layer-000.safetensors", lambda: pull_moments(place, tmp_path / "here")
    )
    works.add("get_file")
    assert same(pull_moments(place, tmp_path / "here"), Moments.load(folder))


@pytest.fixture
def hub(monkeypatch):
    """Sets what the Hub's library raises when it is asked for a repository."""

    def fail(error):
        def ask(*_args, **_kwargs):
            raise error

        HfFileSystem.clear_instance_cache()  # it remembers which repositories there are
        monkeypatch.setattr(HfApi, "repo_info", ask)

    yield fail
    HfFileSystem.clear_instance_cache()


def test_the_hub_without_a_network_says_what_to_do(hub, folder, tmp_path):
    place = "hf://datasets/me/moments"
    hub(FAILURES["no network"])
    for action in (
        lambda: push_moments(folder, place),
        lambda: pull_moments(place, tmp_path / "here"),
    ):
        with pytest.raises(MomentsError, match=f"^{place}: .*ConnectError.*must exist.*auth login"):
            action()
    hub(FAILURES["no repository"])
    with pytest.raises(MomentsError, match=r"found none .*me/moments.* \(repository not found\)"):
        read_store(place)


@pytest.mark.hub
def test_a_repository_that_is_none_is_said(tmp_path):
    with pytest.raises(MomentsError, match="no-one-has-this/moments"):
        pull_moments("hf://datasets/no-one-has-this/moments", tmp_path / "here")


def test_the_hub_is_a_file_system_of_fsspec():
    assert "hf" in fsspec.available_protocols()
