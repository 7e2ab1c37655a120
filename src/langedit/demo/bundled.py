"""The bundled model, its second moments and its settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from langedit.demo.atlas import Atlas
from langedit.demo.training_text import prose_lines
from langedit.editing import EditConfig, Moments, collect_moments
from langedit.models import EditableModel, load_model
from langedit.profiler import Profiler

LAYERS = (0, 1, 2)
"""Edited layers: those in which the model gathers what it knows of a subject, and gives each its
own keys; `langedit calibrate` shows how far targets are reached at each layer."""

_OWN_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "langedit": {"null_share": 0.9, "relative_ridge": 0.02, "corpus_weight": 200.0},
        "alphaedit": {"null_share": 0.8, "relative_ridge": 0.2},
        "memit": {"moment_weight": 200.0},
        "memit-seq": {"moment_weight": 200.0},
    }
)

MOMENT_TOKENS = 60_000

PROSE_SEED = "held-out"
"""Seed of calendar prose that the model was not trained on."""


def bundled_folder() -> Path:
    """Folder of the bundled checkpoint."""
    return Path(str(resources.files("langedit.demo"))) / "model"


def load_bundled(folder: Path | None = None) -> EditableModel:
    """Load the bundled model in float32.

    Args:
        folder: another checkpoint of the same kind instead.

    Raises:
        ModelError: the checkpoint is missing or damaged.
    """
    return load_model(str(folder or bundled_folder()), dtype="float32")


def demo_config(method: str) -> EditConfig:
    """Settings that fit the bundled model's keys and residuals, by method.

    Chosen by hand, LangEdit's after some ten trials on a stream of another seed, which draws from
    the same atlas; those of the other methods had one or two, so the demo's table does not rank
    methods. The hidden states are about 300 long: Adam needs steps of 8.

    Raises:
        ConfigError: no such method.
    """
    return EditConfig(
        method=method,
        layers=LAYERS,
        norm_clamp=0.75,
        prefix_count=3,
        value_steps=20,
        value_lr=8.0,
        kl_weight=0.0625,
        value_weight_decay=0.5,
        **_OWN_SETTINGS.get(method, {}),
    )


def bundled_moments(
    model: EditableModel,
    atlas: Atlas,
    *,
    layers: Iterable[int] = LAYERS,
    tokens: int = MOMENT_TOKENS,
    progress: Callable[[int], None] | None = None,
    profiler: Profiler | None = None,
) -> Moments:
    """Second moments of the unedited bundled model over true sentences and calendar prose."""
    corpus = moment_corpus(atlas)
    return collect_moments(
        model, corpus, layers, max_tokens=tokens, progress=progress, profiler=profiler
    )


def perplexity_texts(language: str, count: int = 60) -> list[str]:
    """Calendar prose that the model was not trained on."""
    return prose_lines(language, count, PROSE_SEED)


def moment_corpus(atlas: Atlas) -> Iterator[tuple[str, str]]:
    """Short texts as the model was trained on, languages in turn, without end."""
    rng = random.Random("moments")
    prose = {language: prose_lines(language, 400, "moments") for language in atlas.languages}
    while True:
        for language in atlas.languages:
            sentences = [
                rng.choice(prose[language])
                if rng.random() < 0.2
                else _statement(atlas, language, rng)
                for _ in range(rng.choice((1, 2, 4)))
            ]
            yield language, ("" if language == "zh" else " ").join(sentences)


def _statement(atlas: Atlas, language: str, rng: random.Random) -> str:
    triple = rng.choice(atlas.triples)
    index = rng.randrange(len(atlas.templates(triple.relation, language)))
    return atlas.sentence(triple, language, index)
