"""Second moments in another place: a folder, a Hub repository, or any URL that fsspec opens.

A store holds the files of `Moments.save` and `moments.json`, which is written last and says of
which model, corpus and layers they are, with the checksum of each file. It is read first: what does
not fit is refused before anything large is fetched.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from langedit.editing.moment_files import find_layers, layer_path
from langedit.editing.moments import Moments
from langedit.errors import MomentsError, OutputError
from langedit.models import ModelIdentity

INDEX = "moments.json"
_FORMAT = "langedit-moment-store-1"
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """What a store holds.

    Attributes:
        weights_hash: of the model whose keys these are.
        revision: revision of the model asked for, if any.
        source: hub id or folder of the model; for people.
        corpus: fingerprint of the texts.
        tokens: tokens behind the moments.
        languages: tokens by language.
        files: name -> SHA-256 of each layer's file, by layer.
    """

    weights_hash: str
    revision: str | None
    source: str
    corpus: str
    tokens: int
    languages: Mapping[str, int]
    files: Mapping[str, str]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that the store holds, rising."""
        return tuple(sorted(map(int, self.files)))


def push_moments(
    folder: str | Path, target: str, *, expect: ModelIdentity | None = None
) -> StoreIndex:
    """Copy second moments into a store, after reading and checking all of them.

    A store of the same model and corpus is completed or replaced; any other is left alone.

    Args:
        folder: as written by `Moments.save`.
        target: folder or URL: `hf://datasets/owner/name`, `s3://bucket/folder`, `file:///data`.
        expect: the model that they should be of.

    Raises:
        MomentsError: the folder's moments are damaged or of another model, or the store's are of
            another model or corpus.
        OutputError: the store cannot be written.
    """
    root = Path(folder)
    moments = Moments.load(root, expect)
    some = next(iter(moments.layers.values()))
    index = StoreIndex(
        **asdict(moments.identity),
        corpus=moments.corpus,
        tokens=some.moment.count,
        languages=dict(some.counts),
        files={str(layer): _sha256(layer_path(root, layer)) for layer in find_layers(root)},
    )
    store = _Store(target)
    before = store.index()
    if before is not None:
        if (before.weights_hash, before.corpus) != (index.weights_hash, index.corpus):
            raise MomentsError(
                f"{target}: expected an empty place or moments of {index.source} (weights "
                f"{index.weights_hash[:12]}, corpus {index.corpus[:12]}), got those of "
                f"{before.source} (weights {before.weights_hash[:12]}, corpus "
                f"{before.corpus[:12]}); choose another place"
            )
        index = StoreIndex(**{**asdict(index), "files": {**before.files, **index.files}})
    for layer in moments.layers:
        store.put(layer_path(root, layer))
    store.put_index(index)
    return index


def read_store(source: str) -> StoreIndex:
    """What a store holds, without fetching it.

    Raises:
        MomentsError: there is none, or it cannot be read.
    """
    index = _Store(source).index()
    if index is None:
        raise MomentsError(
            f"{source}: expected a store of second moments with {INDEX}, found none; give the "
            "place that langedit stats push wrote"
        )
    return index


def pull_moments(
    source: str,
    folder: str | Path,
    *,
    layers: Iterable[int] | None = None,
    expect: ModelIdentity | None = None,
) -> Moments:
    """Fetch second moments from a store into a folder, and check every file.

    Args:
        source: as for `push_moments`.
        folder: where the files go; made if missing.
        layers: those wanted; None takes all.
        expect: the model that will be edited. Another model's are refused before the download.

    Raises:
        MomentsError: there is no such store, a layer is missing, a file is damaged on the way, or
            they are of another model.
        OutputError: the folder cannot be written.
    """
    index = read_store(source)
    if expect is not None and expect.weights_hash != index.weights_hash:
        raise MomentsError(
            f"{source}: expected second moments of {expect.source} (weights "
            f"{expect.weights_hash[:12]}), got those of {index.source} (weights "
            f"{index.weights_hash[:12]}); collect them for this model with langedit stats"
        )
    wanted = index.layers if layers is None else tuple(sorted(set(layers)))
    missing = [layer for layer in wanted if layer not in index.layers]
    if missing or not wanted:
        raise MomentsError(
            f"{source}: expected layers {missing or 'to fetch'}, got {list(index.layers)}; collect "
            "them with langedit stats"
        )
    root, store = Path(folder), _Store(source)
    for layer in wanted:
        path = layer_path(root, layer)
        store.get(path)
        came = _sha256(path)
        if came != index.files[str(layer)]:
            raise MomentsError(
                f"{source}: expected {path.name} with checksum {index.files[str(layer)][:12]}, got "
                f"{came[:12]}; it was damaged on the way or changed: fetch it again"
            )
    return Moments.load(root, expect, wanted)


class _Store:
    """A folder that fsspec opens."""

    def __init__(self, place: str) -> None:
        fsspec: Any = import_module("fsspec")
        self._place = place
        try:
            self._files, self._root = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError, OSError) as error:
            raise OutputError(
                f"{place}: cannot be opened ({error}); give a folder, hf://datasets/owner/name, or "
                "a URL whose fsspec package is installed"
            ) from error

    def index(self) -> StoreIndex | None:
        """The index; None where there is none."""
        try:
            found = json.loads(self._files.cat_file(self._path(INDEX)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise MomentsError(f"{self._place}: {INDEX} cannot be read ({error})") from error
        if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
            raise MomentsError(f"{self._place}: {INDEX} is not of format {_FORMAT}")
        try:
            return StoreIndex(**found)
        except TypeError as error:
            raise MomentsError(f"{self._place}: {INDEX} is damaged ({error})") from error

    def put(self, path: Path) -> None:
        self._write(lambda: self._files.put_file(str(path), self._path(path.name)))

    def put_index(self, index: StoreIndex) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(index)}, ensure_ascii=False, indent=2)
        self._write(lambda: self._files.pipe_file(self._path(INDEX), f"{text}\n".encode()))

    def get(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._path(path.name), str(path))
        except OSError as error:
            raise MomentsError(f"{self._place}: {path.name} cannot be fetched ({error})") from error

    def _write(self, action: Callable[[], None]) -> None:
        try:
            with suppress(NotImplementedError):  # object stores and the Hub have no folders
                self._files.makedirs(self._root, exist_ok=True)
            action()
        except (OSError, NotImplementedError, ValueError) as error:
            raise OutputError(
                f"{self._place}: cannot be written ({error}); see whether it exists and whether "
                "you may write there"
            ) from error

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
