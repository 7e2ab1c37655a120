"""Edit the bundled model and measure the processor time of each stage, beside what is planned.

    python tests/measured_times.py [--repeats N] [--method NAME]    prints tables of docs/memory.md

One thread, and processor time instead of the clock, so that other programs on the machine count
little; the least of some repeats, for the same reason.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from time import process_time
from unittest.mock import patch

import torch

from langedit.demo.atlas import Atlas
from langedit.demo.bundled import bundled_folder, demo_config, load_bundled, moment_corpus
from langedit.demo.edits import choose_batches
from langedit.editing import EditConfig, Editor, Prefixes, collect_moments, generate_prefixes
from langedit.editing import editor as editor_module
from langedit.editing.batch import BatchJob
from langedit.editing.planning import (
    Workload,
    measure_rates,
    plan_memory,
    read_shape,
    shaped_model,
)
from langedit.editing.planning.stages import STAGES
from langedit.editing.requests import prepare_request
from langedit.facts import Fact

TOKENS = 60_000
SEED = 2  # of the facts; with some others a key is zero, which ROME cannot edit


@dataclass(frozen=True)
class World:
    """What is edited: batches of one language each, every fact for all of the steps."""

    batches: Sequence[Sequence[Fact]]
    corpus: Sequence[tuple[str, str]]
    prefixes: Prefixes
    config: EditConfig
    work: Workload

    @classmethod
    def of(
        cls, batches: int, size: int, steps: int, tokens: int, method: str = "langedit"
    ) -> World:
        atlas, model = Atlas.from_cldr(), load_bundled()
        stream = choose_batches(atlas, batches=6, batch_size=size, seed=SEED)[:batches]
        config = demo_config("langedit").replace(
            prefix_count=5, value_steps=steps, stop_loss=0.0, ft_steps=steps, ft_stop_loss=0.0
        )
        layers = config.layers[-1:] if method == "rome" else config.layers
        config = config.replace(method=method, layers=layers)
        languages = [batch[0].language for batch in stream]
        written = generate_prefixes(model, languages, count=5, length=config.prefix_length, seed=0)
        facts = [fact for batch in stream for fact in batch]
        requests = [prepare_request(model, f, written.of(f.language), config) for f in facts]
        work = Workload(
            edits=len(facts),
            batch_size=size,
            prompt_tokens=round(mean(len(request.prompts[0].ids) for request in requests)),
            target_tokens=round(mean(len(request.target_ids) for request in requests)),
            moment_tokens=tokens,
        )
        corpus = list(islice(moment_corpus(atlas), tokens))  # far more than enough
        return cls(stream, corpus, written, config, work)


def planned(world: World) -> dict[str, float]:
    """Seconds of the stages at rates measured now."""
    shape = shaped_model(read_shape(str(bundled_folder())), torch.float32)
    plan = plan_memory(shape, world.config, world.work, cpu=True)
    rates = measure_rates(torch.device("cpu"), torch.float32, process_time)
    return {stage.name: rates.seconds(stage) for stage in plan.stages}


def measured(world: World) -> dict[str, float]:
    """Seconds of processor time of each stage of one run."""
    seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def clocked(stage: str) -> Iterator[None]:
        start = process_time()
        yield
        seconds[stage] += process_time() - start

    @contextmanager
    def timed(job: BatchJob, stage: str) -> Iterator[None]:
        with clocked("solve" if stage == "keys" else stage):
            yield
        job.seconds[stage] = 0.0

    def report(_seconds: object, stage: str, _profiler: object) -> AbstractContextManager[None]:
        return clocked(stage if stage == "report" else "other")

    model = load_bundled()
    with clocked("stats"):
        moments = collect_moments(
            model, world.corpus, world.config.layers, max_tokens=world.work.moment_tokens
        )
    with clocked("open"):
        editor = Editor(model, None, world.config, moments, world.prefixes)
    with patch.object(BatchJob, "timed", timed), patch.object(editor_module, "timed", report):
        for batch in world.batches:
            editor.apply(batch)
    return seconds


def least(world: World, repeats: int) -> dict[str, float]:
    """The least of some runs, stage by stage."""
    runs = [measured(world) for _ in range(repeats)]
    return {stage: min(run[stage] for run in runs) for stage in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", default="langedit", choices=STAGES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = World.of(4, 25, 25, TOKENS, options.method)
    found = least(world, options.repeats)
    seconds = planned(world)
    print(world.work)
    print("| stage | planned | measured | planned / measured |\n|---|---|---|---|")
    for stage in seconds:
        own, real = seconds[stage], found[stage]
        print(f"| {stage} | {own:.2f} s | {real:.2f} s | {own / real:.2f} |")


if __name__ == "__main__":
    main()
