"""Cells of a grid: one method on one stream of facts on one model, and the name of its result.

A cell's key is a hash of everything that decides its figures: weights and precision of the model,
corpus of the second moments, all settings, the facts and what is asked beside them, what is
measured, and the version of this package. Names of models, methods and data sets are no part of
it: two entries that mean the same share a result, and what is changed is another cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import langedit
from langedit.compare.config import OWN, UNEDITED, CompareConfig
from langedit.compare.ground import Ground, Say
from langedit.compare.nearest import require_name
from langedit.compare.reading import edit_config, prefix_language
from langedit.compare.streams import Stream, Streams, plans_of
from langedit.editing import EditConfig

FORMAT = 2
"""Of the result files; raised when the same settings would give other figures."""

Group = Literal["control", "methods", "ablations"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One run.

    Attributes:
        model, method, dataset: names in the comparison; the method of the control is `unedited`.
        seed: of the stream.
        group: which table the method is in.
        settings: of the editor; `None` for the control.
        prefixes_in: `own`, or the language of all context prefixes.
        stream: the facts.
        ground: the model.
        measures: what is asked, by name.
    """

    model: str
    method: str
    dataset: str
    seed: int
    group: Group
    settings: EditConfig | None
    prefixes_in: str
    stream: Stream
    ground: Ground
    measures: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} / {self.method} / {self.dataset} / seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the figures."""
        settings = None if self.settings is None else self.settings.model_dump(mode="json")
        corpus = None if self.settings is None else self.ground.moments.corpus
        content = {
            "format": FORMAT,
            "version": langedit.__version__,
            "weights": self.ground.identity.weights_hash,
            "dtype": self.ground.entry.dtype,
            "corpus": corpus,
            "settings": settings,
            "prefixes_in": self.prefixes_in,
            "stream": self.stream.fingerprint,
            "measures": dict(self.measures),
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_cells(
    config: CompareConfig, folder: Path, *, only: Collection[str] = (), say: Say = lambda _: None
) -> tuple[Cell, ...]:
    """All cells of a comparison, those of one model and one stream side by side.

    Everything that can be wrong with names, settings and facts shows here, before the first run.

    Args:
        config: the comparison.
        folder: of results.
        only: methods and ablations to keep; the control always stays. All if empty.
        say: told what takes long.

    Raises:
        LangEditError: a setting is wrong, a data set cannot be read, or a model cannot be loaded.
    """
    groups: dict[str, Group] = dict.fromkeys(config.all_methods(), "methods")
    groups |= dict.fromkeys(config.ablations, "ablations")
    for label in only:
        require_name("method", label, groups)
    labels = [label for label in groups if not only or label in only]
    wanted = {
        model: {label: edit_config(config, label, model) for label in labels}
        for model in config.models
    }
    streams = Streams(config)
    cells: list[Cell] = []
    for model, settings in wanted.items():
        ground = make_ground(config, model, settings.values(), folder, say)
        for dataset in config.datasets:
            for name, plan in plans_of(config, dataset).items():
                for seed in config.seeds:
                    some = _of_seed(config, settings, seed)
                    cells += _cells_of(
                        config,
                        ground,
                        name,
                        seed,
                        streams.stream(dataset, plan, seed),
                        some,
                        groups,
                    )
    return tuple(cells)


def make_ground(
    config: CompareConfig,
    model: str,
    settings: Collection[EditConfig],
    folder: Path,
    say: Say,
) -> Ground:
    """What the cells of a model share."""
    layers = tuple(sorted({layer for own in settings for layer in own.edited_layers}))
    return Ground(config=config, name=model, layers=layers, folder=folder, say=say)


def measures_of(config: CompareConfig, stream: Stream) -> dict[str, Any]:
    """What is asked of a cell: metrics, and when earlier facts are asked again."""
    batches = len(stream.batches)
    return {
        "metrics": list(config.metrics),
        "retention": list(retention_points(config.retention, batches)),
        "interference_sample": config.interference_sample,
    }


def retention_points(wanted: int | Sequence[int], batches: int) -> tuple[int, ...]:
    """Numbers of the batches, from 1, after which all earlier ones are scored.

    A number of points is spread evenly. The first batch and the last are always among them.
    """
    if isinstance(wanted, int):
        steps = max(1, min(wanted, batches))
        spread = {round(batches * (step + 1) / steps) for step in range(steps)}
    else:
        spread = {point for point in wanted if point <= batches}
    return tuple(sorted(spread | {1, batches}))


def _of_seed(
    config: CompareConfig, settings: Mapping[str, EditConfig], seed: int
) -> dict[str, EditConfig]:
    """The methods that run with a seed: ablations may have fewer."""
    fewer = config.ablation_seeds
    skipped = config.ablations if fewer is not None and seed not in fewer else ()
    return {label: own for label, own in settings.items() if label not in skipped}


def _cells_of(
    config: CompareConfig,
    ground: Ground,
    dataset: str,
    seed: int,
    stream: Stream,
    settings: Mapping[str, EditConfig],
    groups: Mapping[str, Group],
) -> list[Cell]:
    rows: list[tuple[str, Group, EditConfig | None, str]] = [(UNEDITED, "control", None, OWN)]
    rows += [
        (label, groups[label], own, prefix_language(config, label))
        for label, own in settings.items()
    ]
    return [
        Cell(
            model=ground.name,
            method=label,
            dataset=dataset,
            seed=seed,
            group=group,
            settings=own,
            prefixes_in=prefixes_in,
            stream=stream,
            ground=ground,
            measures=measures_of(config, stream),
        )
        for label, group, own, prefixes_in in rows
    ]
