"""What the cells of one model share: its identity, second moments and context prefixes.

Each is made once and kept in the folder of results, so that a run that goes on, and other processes
that work on the same grid, find it there.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from langedit.compare.config import CompareConfig
from langedit.compare.entries import ModelEntry
from langedit.compare.files import read_json, write_json
from langedit.compare.locks import wait_for_lock
from langedit.compare.reading import located
from langedit.demo.atlas import Atlas
from langedit.demo.bundled import MOMENT_TOKENS, bundled_folder, bundled_moments
from langedit.editing import EditConfig, Moments, Prefixes, collect_moments, generate_prefixes
from langedit.editing.corpus import read_corpus
from langedit.editing.moment_files import layer_path
from langedit.errors import ConfigError, ModelError, MomentsError
from langedit.models import EditableModel, ModelIdentity, load_model

BUNDLED = "bundled"
Say = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """A model of a comparison.

    Attributes:
        config: the comparison.
        name: of the model in it.
        layers: all layers that some method edits.
        folder: of results.
        say: told what takes long.
    """

    config: CompareConfig
    name: str
    layers: tuple[int, ...]
    folder: Path
    say: Say

    @property
    def entry(self) -> ModelEntry:
        """The model's table."""
        return self.config.models[self.name]

    def load(self) -> EditableModel:
        """A fresh copy of the unedited model.

        Raises:
            ModelError: it cannot be loaded, or its files changed since its identity was kept.
        """
        return self._checked(self._loaded())

    @property
    def identity(self) -> ModelIdentity:
        """Of the unedited weights; read from the folder of results where it is known.

        Raises:
            LangEditError: the model cannot be loaded; it is not tried again.
        """
        return _given(self._tried_identity)

    @property
    def moments(self) -> Moments:
        """Second moments of all edited layers that the model has.

        Raises:
            LangEditError: they are missing or of another model, or there is no text; nothing is
                tried again.
        """
        return _given(self._tried_moments)

    @cached_property
    def _tried_identity(self) -> ModelIdentity | Exception:
        return _tried(self._find_identity)

    @cached_property
    def _tried_moments(self) -> Moments | Exception:
        return _tried(self._find_moments)

    def _find_identity(self) -> ModelIdentity:
        kept = read_json(self._identity_path)
        if kept is not None:
            return ModelIdentity(**kept)
        self.say(f"{self.name}: reading the model")
        identity = self._loaded().identity()
        write_json(self._identity_path, asdict(identity))
        return identity

    def _find_moments(self) -> Moments:
        if self.entry.moments is not None:
            folder = Path(located(self.config, self.entry.moments))
        else:
            made_of = [self.identity.weights_hash, self.entry.dtype, self._corpus()]
            folder = self.folder / "moments" / _digest(made_of)
            with wait_for_lock(folder.with_name(f"{folder.name}.lock")):
                self._collect_missing(folder)
        there = [number for number in self.layers if layer_path(folder, number).exists()]
        if not there:
            layers = ", ".join(map(str, self.layers))
            raise MomentsError(
                f"{self.name}: expected second moments of layers {layers}, got none of them: the "
                f"model may have fewer layers, or {folder} has others"
            )
        return Moments.load(folder, expect=self.identity, layers=there)

    def prefixes(self, config: EditConfig, languages: Iterable[str]) -> Prefixes:
        """Context prefixes in some languages, written by the unedited model."""
        model: EditableModel | None = None
        found: dict[str, tuple[str, ...]] = {}
        for language in languages:
            words = config.seed_words.get(language)
            made_of = [config.prefix_count, config.prefix_length, config.seed, words]
            name = _digest([self.identity.weights_hash, self.entry.dtype, language, made_of])
            path = self.folder / "prefixes" / f"{name}.json"
            if not path.exists():
                model = model or self.load()
                written = generate_prefixes(
                    model,
                    [language],
                    count=config.prefix_count,
                    length=config.prefix_length,
                    seed=config.seed,
                    seed_words=config.seed_words,
                )
                write_json(path, {code: list(texts) for code, texts in written.items()})
            found |= Prefixes.load(path)
        return Prefixes(found)

    def _loaded(self) -> EditableModel:
        return load_model(
            self._source,
            revision=self.entry.revision,
            dtype=self.entry.dtype,
            device_map=self.entry.device_map,
            structure_overrides=self._settings.get("structure") or None,
        )

    def _checked(self, model: EditableModel) -> EditableModel:
        if model.identity().weights_hash != self.identity.weights_hash:
            raise ModelError(
                f"{self.name}: expected weights {self.identity.weights_hash[:12]}, got "
                f"{model.identity().weights_hash[:12]}: the model has changed; remove "
                f"{self._identity_path} and start again"
            )
        return model

    def _collect_missing(self, folder: Path) -> None:
        """Collect the layers that are not in the folder; a layer that is too deep has none."""
        missing = [n for n in self.layers if not layer_path(folder, n).exists()]
        if not missing:
            return
        model = self.load()
        missing = [layer for layer in missing if layer < model.structure.n_layers]
        if not missing:
            return
        self.say(f"{self.name}: second moments of layers {', '.join(map(str, missing))}")
        tokens = self.entry.moment_tokens
        if self.entry.text:
            moments = collect_moments(model, read_corpus(self._text), missing, max_tokens=tokens)
        else:
            moments = bundled_moments(
                model, Atlas.from_cldr(), layers=missing, tokens=tokens or MOMENT_TOKENS
            )
        moments.save(folder)

    def _corpus(self) -> list[Any]:
        """What the moments are collected from; files by name, size and time of change."""
        if not self.entry.text and self._is_bundled:
            return [BUNDLED, self.entry.moment_tokens or MOMENT_TOKENS]
        if not self.entry.text:
            raise ConfigError(
                f"models.{self.name}: expected text or moments, got neither: give text = [...] to "
                "collect second moments from, or moments = a folder written by langedit stats"
            )
        return [self.entry.moment_tokens, [_stamp(source) for source in self._text]]

    @property
    def _is_bundled(self) -> bool:
        return self.entry.source == BUNDLED

    @property
    def _source(self) -> str:
        if self._is_bundled:
            return str(bundled_folder())
        beside = self.config.folder / self.entry.source
        return str(beside) if beside.is_dir() else self.entry.source

    @property
    def _settings(self) -> Any:
        return {**self.config.common, **self.entry.settings}

    @property
    def _text(self) -> list[str]:
        return [_place(self.config, source) for source in self.entry.text]

    @property
    def _identity_path(self) -> Path:
        made_of = [self._source, self.entry.revision, self.entry.dtype, _stamp(self._source)]
        return self.folder / "models" / f"{_digest(made_of)}.json"


def _tried(make: Callable[[], _T]) -> _T | Exception:
    """What is made, or why it cannot be; the error keeps its trace, but no model alive."""
    try:
        return make()
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        return error


def _given(found: _T | Exception) -> _T:
    if isinstance(found, Exception):
        raise found
    return found


def _place(config: CompareConfig, source: str) -> str:
    """A source of text with its path located; `de=PATH` keeps its language."""
    language, sign, path = source.rpartition("=")
    return source if path.startswith("hf:") else f"{language}{sign}{located(config, path)}"


def _stamp(source: str) -> list[Any]:
    """Name, size and time of change of every file in a source; only the name of a hub id."""
    path = Path(source.rpartition("=")[2])
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()
    ]
    return [source, found]


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
