"""What the benchmarks run on: the bundled model with facts, and simulated keys of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from langedit.demo.atlas import Atlas
from langedit.demo.bundled import bundled_moments, demo_config, load_bundled, moment_corpus
from langedit.demo.edits import choose_batches
from langedit.editing import (
    EditConfig,
    EditRequest,
    Moments,
    Prefixes,
    generate_prefixes,
    prepare_request,
)
from langedit.facts import Fact
from langedit.linalg import NullSpaceProjector, SecondMoment
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """The bundled model's facts, moments and prefixes, with the published numbers of steps."""

    batches: Sequence[tuple[Fact, ...]]
    moments: Moments
    prefixes: Prefixes
    config: EditConfig

    @classmethod
    def load(cls, folder: Path) -> World:
        """Make it, keeping second moments and prefixes in a folder for the next time."""
        atlas, model = Atlas.from_cldr(), load_bundled()
        # 150 facts in six languages, of which the first four batches make the 100 that are edited.
        batches = choose_batches(atlas, batches=6, batch_size=25, seed=0)[:4]
        if not (folder / "moments").is_dir():
            bundled_moments(model, atlas).save(folder / "moments")
        config = demo_config("langedit").replace(prefix_count=5, value_steps=25)
        file = folder / "prefixes.json"
        if not file.is_file():
            generate_prefixes(
                model,
                atlas.languages,
                count=config.prefix_count,
                length=config.prefix_length,
                seed=0,
            ).save(file)
        return cls(
            batches=batches,
            moments=Moments.load(folder / "moments", model.identity()),
            prefixes=Prefixes.load(file),
            config=config,
        )

    def first(self, batches: int, facts: int) -> World:
        """Some facts of some batches only."""
        return replace(self, batches=[own[:facts] for own in self.batches[:batches]])

    def requests(self, model: EditableModel, facts: Sequence[Fact]) -> list[EditRequest]:
        """Encoded facts."""
        return [
            prepare_request(model, fact, self.prefixes.of(fact.language), self.config)
            for fact in facts
        ]


def corpus(texts: int) -> list[tuple[str, str]]:
    """Languages and texts as the bundled model's moments are made from."""
    return list(islice(moment_corpus(Atlas.from_cldr()), texts))


class SimulatedKeys:
    """Keys with a spectrum that falls like a power, in directions that are no axes."""

    def __init__(self, d_in: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.scale = torch.arange(1, d_in + 1, dtype=torch.float32).pow(-0.5)
        mirrors = torch.randn(8, d_in, generator=self.generator)
        self.mirrors = torch.nn.functional.normalize(mirrors, dim=1)

    def draw(self, count: int) -> Tensor:
        """(count, d_in) float32."""
        rows = torch.randn(count, len(self.scale), generator=self.generator) * self.scale
        return self.turn(rows)

    def turn(self, rows: Tensor) -> Tensor:
        """Reflect rows at eight planes, an orthogonal map."""
        for mirror in torch.nn.functional.normalize(self.mirrors.to(rows), dim=1):
            rows = rows - 2 * torch.outer(rows @ mirror, mirror)
        return rows

    def moment(self, times: int = 3) -> SecondMoment:
        """Second moment of `times` as many keys as they are wide."""
        d = len(self.scale)
        total = torch.zeros(d, d)
        for _ in range(times):
            rows = self.draw(d)
            total += rows.T @ rows
        mean = (total + total.T).double() / (2 * times * d)
        return SecondMoment(count=times * d, mean=mean)

    def projector(self, rank: int) -> NullSpaceProjector:
        """One that forbids `rank` directions, without a decomposition."""
        rows = torch.zeros(rank, len(self.scale), dtype=torch.float64)
        rows[torch.arange(rank), torch.arange(rank)] = 1.0
        mirrors = self.mirrors.double()
        for mirror in torch.nn.functional.normalize(mirrors, dim=1):
            rows -= 2 * torch.outer(rows @ mirror, mirror)
        return NullSpaceProjector(basis=rows.T)
