"""100 facts in 4 batches on the bundled model: the editor against the straightforward way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import (
    BaselineBatch,
    BaselineEditor,
    DenseLayer,
    baseline_answers,
    baseline_moments,
    baseline_target,
)
from benchmarks.world import World, corpus
from langedit.demo.bundled import LAYERS, load_bundled
from langedit.editing import BatchReport, Editor, collect_moments, optimise_targets
from langedit.errors import NumericalError
from langedit.evaluation import KINDS, Questions, Scores, forced_answers, score_facts
from langedit.models import EditableModel
from langedit.profiler import Profiler

STAGES = {
    "targets": (("targets",), ("targets",)),
    "keys and residuals": (("keys",), ("keys",)),
    "projector and solve": (("solve", "advance"), ("projector", "solve")),
}
"""Stage -> stages of the editor, stages of the baseline."""

TOLERANCES = {
    "targets from equal weights, median": 1e-3,
    "updates from equal targets": 1e-3,
    "log-probabilities of answers": 1e-3,
    "second moments": 1e-5,
    "second moments, float32": 1e-5,
}
"""Largest difference: relative, and absolute for log-probabilities. Both sides have float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Timed:
    """One side's batches, and wall-clock seconds around them.

    Attributes:
        opening: seconds before the first batch, decompositions included.
        batches: of each batch.
        found: what the batches gave.
        model: edited.
    """

    opening: float
    batches: Sequence[float]
    found: Sequence[Any]
    model: EditableModel


def run(folder: Path, *, batches: int = 4, facts: int = 25, texts: int = 1000) -> dict[str, Any]:
    """Edit both ways, from the same unedited model; compare results, then times.

    Raises:
        NumericalError: results differ by more than `TOLERANCES`.
    """
    world = World.load(folder).first(batches, facts)
    _warm_up(world)
    ours, kept = _ours(world)
    theirs = _theirs(world)
    stages = _stages(ours.found, theirs.found)
    stages["whole batches"] = _pair(sum(ours.batches), sum(theirs.batches))
    stages["opening and whole batches"] = _pair(
        ours.opening + sum(ours.batches), theirs.opening + sum(theirs.batches)
    )
    differences = _differences(world, theirs.found)
    stages["scores"], differences["log-probabilities of answers"] = _scoring(world, theirs.model)
    found = _moments(texts)
    stages |= {name: pair for name, (pair, _) in found.items()}
    differences |= {name: difference for name, (_, difference) in found.items()}
    require_equal(differences)
    return {
        "facts": sum(map(len, world.batches)),
        "batches": len(world.batches),
        "texts": texts,
        "threads": torch.get_num_threads(),
        "open_seconds": {"first": ours.opening, "with_kept_spectra": kept},
        "stages": stages,
        "differences": differences,
        "tolerances": TOLERANCES,
        "chaos": _chaos(world, ours.found[0], theirs.found[0]),
        "scores": {
            name: Scores.of(score_facts(side.model, _all_facts(world))).to_dict()
            for name, side in (("langedit", ours), ("baseline", theirs))
        },
        "profile": _profile(world),
        "target_gflop": _target_operations(world),
    }


def require_equal(differences: Mapping[str, float]) -> None:
    """Refuse times of results that differ.

    Raises:
        NumericalError: a difference is above its tolerance.
    """
    wrong = [
        f"{name}: {differences[name]:.2g} (expected at most {limit:g})"
        for name, limit in TOLERANCES.items()
        if not differences[name] <= limit
    ]
    if wrong:
        raise NumericalError(
            "end-to-end: expected equal results of both ways, got a difference in "
            + "; ".join(wrong)
            + ": the times cannot be compared"
        )


def _ours(world: World) -> tuple[Timed, float]:
    """The editor's batches, and the seconds of opening it where decompositions are kept."""
    begun = perf_counter()
    _editor(world)
    kept = perf_counter() - begun
    # Moments without a folder have no decompositions beside them: these are made now.
    moments = replace(world.moments, folder=None)
    begun = perf_counter()
    editor = Editor(load_bundled(), None, world.config, moments, world.prefixes)
    opening = perf_counter() - begun
    seconds, reports = [], []
    for facts in world.batches:
        begun = perf_counter()
        reports.append(editor.apply(facts))
        seconds.append(perf_counter() - begun)
    return Timed(opening=opening, batches=seconds, found=reports, model=editor.model), kept


def _theirs(world: World) -> Timed:
    """The straightforward way, with thresholds and ridges as the editor finds them."""
    settings = {}
    for layer, state in _editor(world).layer_states.items():
        assert state.projector is not None
        settings[layer] = (float(state.projector.threshold or 0), float(state.ridge or 0))
    begun = perf_counter()
    layers = {
        layer: DenseLayer(
            moment=world.moments.layers[layer].moment,
            threshold=threshold,
            ridge=ridge,
            corpus_weight=world.config.corpus_weight,
        )
        for layer, (threshold, ridge) in settings.items()
    }
    baseline = BaselineEditor(load_bundled(), world.config, layers)
    opening = perf_counter() - begun
    seconds, found = [], []
    for facts in world.batches:
        begun = perf_counter()
        batch = baseline.apply(world.requests(baseline.model, facts))
        seconds.append(perf_counter() - begun - batch.comparing)
        found.append(batch)
        print(f"  baseline: {seconds[-1]:.1f} s", flush=True)
    return Timed(opening=opening, batches=seconds, found=found, model=baseline.model)


def _editor(world: World, profiler: Profiler | None = None) -> Editor:
    return Editor(
        load_bundled(), None, world.config, world.moments, world.prefixes, profiler=profiler
    )


def _warm_up(world: World) -> None:
    """Whatever is slow only the first time, on both sides."""
    _editor(world).apply(world.batches[0][:2])
    model = load_bundled()
    model.model.requires_grad_(False)
    baseline_target(
        model, world.requests(model, world.batches[0][:1])[0], world.config.replace(value_steps=2)
    )


def _all_facts(world: World) -> list[Any]:
    return [fact for batch in world.batches for fact in batch]


def _pair(own: float, other: float) -> dict[str, float]:
    return {"langedit": own, "baseline": other, "ratio": other / own}


def _stages(
    reports: Sequence[BatchReport], batches: Sequence[BaselineBatch]
) -> dict[str, dict[str, float]]:
    found = {}
    for stage, (ours, theirs) in STAGES.items():
        own = sum(report.seconds[name] for report in reports for name in ours)
        other = sum(batch.seconds[name] for batch in batches for name in theirs)
        found[stage] = _pair(own, other)
    return found


def _differences(world: World, batches: Sequence[BaselineBatch]) -> dict[str, float]:
    """Relative differences over all batches, each begun from the baseline's targets so far.

    Given those, the editor's weights are the baseline's to rounding before every batch. So its own
    targets of the next one can be compared too.
    """
    editor = _editor(world)
    medians, updates = [], []
    for facts, batch in zip(world.batches, batches, strict=True):
        found = optimise_targets(editor.model, world.requests(editor.model, facts), world.config)
        medians.append(float(_row_distances(found.target_hidden, batch.targets).median()))
        report = editor.apply(facts, target_hidden=batch.targets)
        updates += [_distance(u.dense(), batch.updates[i]) for i, u in report.updates.items()]
    return {
        "targets from equal weights, median": max(medians),
        "updates from equal targets": max(updates),
    }


def _scoring(world: World, model: EditableModel) -> tuple[dict[str, float], float]:
    """Seconds of the answers that the paper's three scores need, and their largest difference."""
    questions = Questions.of(model, _all_facts(world), KINDS)
    items = [(question.prompt_ids, question.answer_ids) for question in questions.asked]
    forced_answers(model, items[:4])
    begun = perf_counter()
    ours = forced_answers(model, items)
    own = perf_counter() - begun
    begun = perf_counter()
    theirs = baseline_answers(model, items)
    other = perf_counter() - begun
    largest = max(
        abs(a - b)
        for mine, their in zip(ours, theirs, strict=True)
        for a, b in zip(mine.log_probabilities, their.log_probabilities, strict=True)
    )
    return _pair(own, other), largest


def _moments(count: int) -> dict[str, tuple[dict[str, float], float]]:
    """Seconds of the second moments of all edited layers, and their largest difference.

    With products in float64, as by default, and in float32; the baseline has float32.
    """
    texts, model = corpus(count), load_bundled()
    begun = perf_counter()
    theirs = baseline_moments(model, [text for _, text in texts], LAYERS)
    other = perf_counter() - begun
    found = {}
    for name, precision in (("", torch.float64), (", float32", torch.float32)):
        collect_moments(model, texts[:4], LAYERS, precision=precision)
        begun = perf_counter()
        ours = collect_moments(model, texts, LAYERS, precision=precision)
        own = perf_counter() - begun
        largest = max(_distance(ours.layers[i].moment.mean, mean) for i, mean in theirs.items())
        found[f"second moments{name}"] = _pair(own, other), largest
    return found


def _profile(world: World) -> dict[str, Any]:
    """Operations of the first batch; counted in a run of its own, since counting takes time."""
    profiler = Profiler()
    _editor(world, profiler).apply(world.batches[0])
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


def _chaos(world: World, report: BatchReport, batch: BaselineBatch) -> dict[str, float]:
    """Largest relative difference of a target of the first batch, and what it is worth.

    A trajectory can be chaotic: where a coordinate's gradient is near 0, Adam's first step goes one
    way or the other by rounding. So the straightforward way is compared with itself too, on weights
    that are changed by one part in ten million, for the fact where the difference is largest.
    """
    assert report.targets is not None
    ours, theirs = report.targets.target_hidden, batch.targets
    found = _row_distances(ours, theirs)
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
    return {"largest": float(found.max()), "baseline_on_changed_weights": max(own)}


def _row_distances(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).norm(dim=1) / theirs.norm(dim=1)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
