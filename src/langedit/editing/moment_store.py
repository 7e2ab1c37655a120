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
from langedit.errors import LangEditError, MomentsError, OutputError
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
            another model or corpus, or cannot be read.
        OutputError: the store cannot be opened or written.
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
    before = store.index_if_any()
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
        OutputError: the address cannot be opened.
    """
    return _Store(source).index()


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
        OutputError: the address cannot be opened, or the folder cannot be written.
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


class _NoStoreError(MomentsError):
    """There is nothing at a place."""


class _Store:
    """A folder that fsspec opens.

    File systems raise what their libraries raise: those of the Hub and of the web have errors of
    their own, which are no `OSError`. So every error of a call into one is taken for a failure of
    the place, and is named with its kind.
    """

    def __init__(self, place: str) -> None:
        fsspec: Any = import_module("fsspec")
        self._place = place
        try:
            self._files, self._root = fsspec.core.url_to_fs(place)
        except Exception as error:
            raise self._failure(
                OutputError,
                "to open this address",
                error,
                "give a folder, hf://datasets/OWNER/NAME, or a URL whose fsspec package is "
                "installed",
            ) from error

    def index(self) -> StoreIndex:
        """The index.

        Raises:
            MomentsError: there is none (`_NoStoreError`), or it cannot be read.
        """
        try:
            content = self._files.cat_file(self._path(INDEX))
        except Exception as error:
            if type(error) is FileNotFoundError:  # others, as of an offline cache, say less
                raise _NoStoreError(
                    f"{self._place}: expected a store of second moments with {INDEX}, found none "
                    f"({_named(error)}); give the place that langedit stats push wrote"
                ) from error
            raise self._failure(
                MomentsError, f"to read {INDEX} there", error, self._advice("read")
            ) from error
        return self._parsed(content)

    def index_if_any(self) -> StoreIndex | None:
        """The index; None where there is none."""
        try:
            return self.index()
        except _NoStoreError:
            return None

    def put(self, path: Path) -> None:
        self._write(path.name, lambda: self._files.put_file(str(path), self._path(path.name)))

    def put_index(self, index: StoreIndex) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(index)}, ensure_ascii=False, indent=2)
        content = f"{text}\n".encode()
        self._write(INDEX, lambda: self._files.pipe_file(self._path(INDEX), content))

    def get(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path.parent}: expected a folder that can be made, got {_named(error)}; give "
                "another one"
            ) from error
        try:
            self._files.get_file(self._path(path.name), str(path))
        except Exception as error:
            raise self._failure(
                MomentsError, f"to fetch {path.name} from there", error, self._advice("read")
            ) from error

    def _parsed(self, content: bytes) -> StoreIndex:
        again = "push the moments again to an empty place"
        try:
            found = json.loads(content)
        except ValueError as error:
            raise MomentsError(
                f"{self._place}: {INDEX} cannot be read ({error}); {again}"
            ) from error
        if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
            raise MomentsError(f"{self._place}: {INDEX} is not of format {_FORMAT}; {again}")
        try:
            index = StoreIndex(**found)
        except TypeError as error:
            raise MomentsError(f"{self._place}: {INDEX} is damaged ({error}); {again}") from error
        if not _is_whole(index):
            raise MomentsError(
                f"{self._place}: {INDEX} is damaged: expected files as a table from layer numbers "
                f"to hashes, and languages as one to numbers of tokens; {again}"
            )
        return index

    def _write(self, name: str, action: Callable[[], None]) -> None:
        try:
            with suppress(NotImplementedError):  # object stores and the Hub have no folders
                self._files.makedirs(self._root, exist_ok=True)
            action()
        except Exception as error:
            raise self._failure(
                OutputError, f"to write {name} there", error, self._advice("write")
            ) from error

    def _failure(
        self, kind: type[LangEditError], expected: str, error: Exception, advice: str
    ) -> LangEditError:
        return kind(f"{self._place}: expected {expected}, got {_named(error)}; {advice}")

    def _advice(self, what: str) -> str:
        advice = f"see whether the address is right, the network is up, and you may {what} there"
        if self._place.startswith("hf://"):
            advice += " (the repository must exist; for a private one, `hf auth login` first)"
        return advice

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)


def _is_whole(index: StoreIndex) -> bool:
    """Whether an index has values of the kinds that it should have."""
    texts = (index.weights_hash, index.source, index.corpus)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(index.tokens, int)
        and isinstance(index.languages, dict)
        and all(isinstance(count, int) for count in index.languages.values())
        and isinstance(index.files, dict)
        and all(layer.isdecimal() for layer in index.files)
        and all(isinstance(digest, str) for digest in index.files.values())
    )


def _named(error: Exception) -> str:
    """An error on one line, with its kind."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
