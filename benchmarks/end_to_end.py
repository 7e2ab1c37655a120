"""100 facts in 4 batches on the bundled model: the editor against the straightforward way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import BaselineBatch, BaselineEditor, DenseLayer, baseline_target
from benchmarks.world import World
from langedit.demo.bundled import load_bundled
from langedit.editing import BatchReport, Editor, optimise_targets
from langedit.evaluation import Scores, score_facts
from langedit.profiler import Profiler

STAGES = {
    "targets": (("targets",), ("targets",)),
    "keys and residuals": (("keys",), ("keys",)),
    "projector and solve": (("solve", "advance"), ("projector", "solve")),
}
"""Stage -> stages of the editor, stages of the baseline."""


def run(folder: Path) -> dict[str, Any]:
    """Edit both ways, from the same unedited model; compare results, then times."""
    world = World.load(folder)
    begun = perf_counter()
    first = Editor(load_bundled(), None, world.config, world.moments, world.prefixes)
    opened = perf_counter() - begun
    thresholds = {
        layer: (state.projector.threshold, state.ridge)
        for layer, state in first.layer_states.items()
        if state.projector is not None
    }
    _warm_up(world)
    begun = perf_counter()
    editor = Editor(load_bundled(), None, world.config, world.moments, world.prefixes)
    opened_again = perf_counter() - begun
    reports = [editor.apply(batch) for batch in world.batches]
    baseline = BaselineEditor(
        load_bundled(),
        world.config,
        {
            layer: DenseLayer(
                moment=world.moments.layers[layer].moment,
                threshold=float(threshold or 0),
                ridge=float(ridge or 0),
                corpus_weight=world.config.corpus_weight,
            )
            for layer, (threshold, ridge) in thresholds.items()
        },
    )
    batches = []
    for facts in world.batches:
        batches.append(baseline.apply(world.requests(baseline.model, facts)))
        print(f"  baseline: {sum(batches[-1].seconds.values()):.1f} s", flush=True)
    return {
        "facts": sum(map(len, world.batches)),
        "batches": len(world.batches),
        "threads": torch.get_num_threads(),
        "open_seconds": {"first": opened, "with_kept_spectra": opened_again},
        "stages": _stages(reports, batches),
        "differences": {
            **_target_differences(world, reports[0], batches[0]),
            **_update_differences(world, batches),
        },
        "scores": {
            name: Scores.of(score_facts(model, [f for b in world.batches for f in b])).to_dict()
            for name, model in (("langedit", editor.model), ("baseline", baseline.model))
        },
        "profile": _profile(world),
        "target_gflop": _target_operations(world),
    }


def _warm_up(world: World) -> None:
    """Whatever is slow only the first time."""
    editor = Editor(load_bundled(), None, world.config, world.moments, world.prefixes)
    editor.apply(world.batches[0][:2])


def _profile(world: World) -> dict[str, Any]:
    """Operations of the first batch; counted in a run of its own, since counting takes time."""
    profiler = Profiler()
    editor = Editor(
        load_bundled(), None, world.config, world.moments, world.prefixes, profiler=profiler
    )
    editor.apply(world.batches[0])
    return profiler.to_dict()


def _target_operations(world: World, facts: int = 4) -> dict[str, float]:
    """Operations of one evaluation of one fact's loss with its gradient, in GFLOP.

    Of the first batch; the baseline's over some of its facts, since all need about as many.
    """
    model = load_bundled()
    model.model.requires_grad_(False)
    requests = world.requests(model, world.batches[0])
    profiler = Profiler()
    with profiler.stage("langedit"):
        found = optimise_targets(model, requests, world.config)
    with profiler.stage("baseline"):
        others = [baseline_target(model, request, world.config) for request in requests[:facts]]
    evaluations = {"langedit": int(found.steps.sum()), "baseline": sum(o.steps for o in others)}
    return {name: profiler.costs[name].flops / count / 1e9 for name, count in evaluations.items()}


def _stages(
    reports: Sequence[BatchReport], batches: Sequence[BaselineBatch]
) -> dict[str, dict[str, float]]:
    found = {}
    for stage, (ours, theirs) in STAGES.items():
        own = sum(report.seconds[name] for report in reports for name in ours)
        other = sum(batch.seconds[name] for batch in batches for name in theirs)
        found[stage] = {"langedit": own, "baseline": other, "ratio": other / own}
    own = sum(sum(report.seconds.values()) for report in reports)
    other = sum(sum(batch.seconds.values()) for batch in batches)
    found["whole batches"] = {"langedit": own, "baseline": other, "ratio": other / own}
    return found


def _target_differences(
    world: World, report: BatchReport, batch: BaselineBatch
) -> dict[str, float]:
    """Relative differences of the targets of the first batch, from the same weights.

    A trajectory can be chaotic: where a coordinate's gradient is near 0, Adam's first step goes one
    way or the other by rounding. So the straightforward way is compared with itself too, on weights
    that are changed by one part in ten million, for the fact where the difference is largest.
    """
    assert report.targets is not None
    ours, theirs = report.targets.target_hidden, batch.targets
    found = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    worst = int(found.argmax())
    model = load_bundled()
    model.model.requires_grad_(False)
    request = world.requests(model, world.batches[0])[worst]
    own = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        changed = load_bundled()
        for parameter in changed.model.requires_grad_(False).parameters():
            parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=generator))
        own.append(_distance(baseline_target(changed, request, world.config).hidden, theirs[worst]))
    return {
        "targets, median": float(found.median()),
        "targets, largest": float(found.max()),
        "the same fact, baseline on weights changed by 1e-7": max(own),
    }


def _update_differences(world: World, batches: Sequence[BaselineBatch]) -> dict[str, float]:
    """Relative differences of updates where the editor is given the baseline's targets."""
    editor = Editor(load_bundled(), None, world.config, world.moments, world.prefixes)
    found = []
    for facts, batch in zip(world.batches, batches, strict=True):
        report = editor.apply(facts, target_hidden=batch.targets)
        found.append(
            max(_distance(u.dense(), batch.updates[layer]) for layer, u in report.updates.items())
        )
    return {"updates, given targets, first batch": found[0], "last batch": found[-1]}


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
