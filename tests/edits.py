"""Facts, settings and moments for editing tiny random models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from langedit.editing import EditConfig, LayerMoment, Moments, Prefixes, compute_keys
from langedit.editing.methods import LayerState
from langedit.facts import Fact
from langedit.linalg import SecondMoment
from langedit.models import EditableModel, EncodedPrompt

FACTS = (
    Fact("en", "The capital of {} is", "France", "Berlin and Wien"),
    Fact("en", "{} is in", "Peru", "Paris"),
    Fact("zh", "{}的首都是", "法国", "北京"),
    Fact("en", "Who is the mother of {}", "Lily Müller", "Anna", id="mother"),
)
LATER = (
    Fact("de", "Die Hauptstadt von {} heißt", "Österreich", "Rom"),
    Fact("zh", "{}的首都是", "德国", "巴黎"),
)
PREFIXES = Prefixes(
    {
        "en": ["The water is. ", "Paris and the painter. "],
        "de": ["Wer ist. ", "Das Wasser an der Stadt. "],
        "zh": ["中国的。", "首都是北京。"],
    }
)


def settings(**changes: Any) -> EditConfig:
    """Settings that move a tiny random model."""
    standard: dict[str, Any] = {
        "layers": (0, 1),
        "null_share": 0.7,
        "ridge": 0.01,
        "moment_weight": 1.0,
        "value_steps": 6,
    }
    return EditConfig(**{**standard, **changes})


def random_moments(
    model: EditableModel, layers: tuple[int, ...] = (0, 1), *, tokens: int = 300, seed: int = 0
) -> Moments:
    """Moments of random single tokens after a random token, all layers in one pass."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(3, model.model.config.vocab_size, (tokens, 3), generator=generator)
    prompts = [
        [EncodedPrompt(ids=tuple(map(int, ids)), lookup=2, subject_start=2)] for ids in drawn
    ]
    keys = compute_keys(model, prompts, layers)
    return Moments(
        layers={
            layer: LayerMoment(
                moment=SecondMoment(count=tokens, mean=(rows.double().T @ rows.double()) / tokens),
                sample=rows[:20],
                counts={"und": tokens},
            )
            for layer, rows in keys.items()
        },
        identity=model.identity(),
        corpus="random",
    )


def same_states(some: Mapping[int, LayerState], others: Mapping[int, LayerState]) -> bool:
    """Whether all that methods remember has the same bits."""

    def parts(state: LayerState) -> list[Tensor]:
        found = [state.history, *state.further()]
        if state.projector is not None:
            found.append(state.projector.basis)
        if state.solver is not None:
            found += state.solver.tensors
            if state.solver.closed is not None:
                found.append(state.solver.closed.basis)
        if state.moment is not None:
            found.append(state.moment.mean)
        return found

    return set(some) == set(others) and all(
        own.batches == others[layer].batches
        and len(parts(own)) == len(parts(others[layer]))
        and all(map(torch.equal, parts(own), parts(others[layer])))
        for layer, own in some.items()
    )
