"""Run one cell: edit the stream, ask what is to be asked, and write everything down."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from langedit.compare.cells import FORMAT, Cell
from langedit.compare.config import OWN
from langedit.compare.figures_of import definitions_of
from langedit.compare.ground import Say
from langedit.compare.resources import Stages, code_digest, hardware, versions
from langedit.editing import EditConfig, Editor, Prefixes
from langedit.evaluation import (
    METRICS,
    Answers,
    FactScore,
    Questions,
    RetentionProbe,
    ask,
    fact_scores,
    perplexity,
    transfer_scores,
)
from langedit.evaluation.history import BatchValues
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.profiler import Profiler, timed
from langedit.workspace import StreamStep, run_stream

_T = TypeVar("_T")


def measure(cell: Cell, say: Say, *, profile: bool = False) -> dict[str, Any]:
    """Run a cell on a fresh copy of its model.

    Args:
        cell: what to run.
        say: told what happens.
        profile: whether to count, beside seconds and memory, what each stage computes.

    Returns:
        The content of the cell's file, without its failure: see docs/compare.md.

    Raises:
        LangEditError: a batch cannot be edited.
    """
    stages = Stages()
    with stages.stage("load"):
        model = cell.ground.load()
    profiler = Profiler(model.device) if profile else None
    if profiler is not None:
        stages.share_with(profiler)
    probes = _Probes(cell, model, stages, say, profiler)
    comparing = _Comparing.begin(cell, model, stages, profiler)
    batches: list[dict[str, Any]] = []
    if cell.settings is not None:
        with stages.stage("moments and prefixes"):
            editor = _editor(cell, cell.settings, model, profiler)
        stages.begin()
        steps = run_stream(editor, cell.stream.batches, retention=False, on_step=probes.on_step)
        batches = [_batch_figures(step) for step in steps]
    with stages.stage("scores"), timed({}, "scores", profiler):
        scores = _scores(cell, model, comparing)
        probes.finish([score.efficacy for score in scores])
    with stages.stage("aligned facts"), timed({}, "aligned facts", profiler):
        transfer = transfer_scores(model, cell.stream.aligned) if cell.stream.aligned else []
    with stages.stage("perplexity"), timed({}, "perplexity", profiler):
        perplexities = {
            language: _perplexity(model, texts) for language, texts in cell.stream.texts.items()
        }
    places = [n for n, batch in enumerate(cell.stream.batches) for _ in batch]
    return {
        **_origin(cell),
        "facts": [
            {"id": fact.id, "group": fact.group, "batch": place, **score.to_dict()}
            for fact, place, score in zip(cell.stream.facts, places, scores, strict=True)
        ],
        "batches": batches,
        "retention": probes.retention,
        "sampled": probes.sampled,
        "interference": probes.samples,
        "transfer": [asdict(score) for score in transfer],
        "perplexity": perplexities,
        "seconds": stages.seconds,
        "peak_bytes": stages.peak_bytes,
        **({} if profiler is None else {"profile": profiler.to_dict()}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _origin(cell: Cell) -> dict[str, Any]:
    """What ran, and on what."""
    settings = None if cell.settings is None else cell.settings.model_dump(mode="json")
    return {
        "format": FORMAT,
        "key": cell.key,
        "model": {
            "name": cell.model,
            **asdict(cell.ground.identity),
            "dtype": cell.ground.entry.dtype,
        },
        "method": cell.method,
        "dataset": cell.dataset,
        "seed": cell.seed,
        "settings": settings,
        "prefixes_in": cell.prefixes_in,
        "measures": dict(cell.measures),
        "definitions": definitions_of(cell.measures["metrics"]),
        "data": {
            "fingerprint": cell.stream.fingerprint,
            "facts": len(cell.stream.facts),
            "batches": len(cell.stream.batches),
            "rejected": cell.stream.rejected,
            "subjects": {code: dict(own) for code, own in cell.stream.subjects.items()},
        },
        "corpus": None if cell.settings is None else cell.ground.moments.corpus,
        "versions": versions(),
        "code": code_digest(),
        "hardware": hardware(),
    }


def _editor(
    cell: Cell, config: EditConfig, model: EditableModel, profiler: Profiler | None
) -> Editor:
    languages = dict.fromkeys(fact.language for fact in cell.stream.facts)
    with timed({}, "prefixes", profiler):
        if cell.prefixes_in == OWN:
            prefixes = cell.ground.prefixes(config, languages)
        else:
            one = cell.ground.prefixes(config, [cell.prefixes_in]).of(cell.prefixes_in)
            prefixes = Prefixes(dict.fromkeys(languages, one))
    return Editor(model, None, config, cell.ground.moments, prefixes, profiler=profiler)


@dataclass(frozen=True, kw_only=True)
class _Comparing:
    """What the unedited model said, for scores that compare with it."""

    before: Answers

    @classmethod
    def begin(
        cls, cell: Cell, model: EditableModel, stages: Stages, profiler: Profiler | None
    ) -> _Comparing | None:
        """Ask the model before it is edited; nothing, if no score needs that."""
        kinds = [kind for kind in cell.measures["metrics"] if METRICS[kind].needs_before]
        if not kinds:
            return None
        with stages.stage("scores before"), timed({}, "scores before", profiler):
            return cls(before=ask(model, Questions.of(model, cell.stream.facts, kinds)))

    def values(self, model: EditableModel) -> list[dict[str, float | None]]:
        """These scores of each fact on the model as it is now."""
        return ask(model, self.before.questions).values(self.before)


def _scores(cell: Cell, model: EditableModel, comparing: _Comparing | None) -> list[FactScore]:
    """All scores of the facts on the model as it is now."""
    facts = cell.stream.facts
    alone = [kind for kind in cell.measures["metrics"] if not METRICS[kind].needs_before]
    values = ask(model, Questions.of(model, facts, alone)).values()
    if comparing is not None:
        compared = comparing.values(model)
        values = [own | more for own, more in zip(values, compared, strict=True)]
    return fact_scores(facts, values)


class _Probes:
    """Asks earlier facts again after a batch, some always and all now and then."""

    def __init__(
        self,
        cell: Cell,
        model: EditableModel,
        stages: Stages,
        say: Say,
        profiler: Profiler | None,
    ) -> None:
        self.retention: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.sampled = _sampled(cell.stream.batches, cell.measures["interference_sample"])
        self._cell = cell
        self._model = model
        self._stages = stages
        self._say = say
        self._profiler = profiler

    @cached_property
    def _all(self) -> RetentionProbe:
        return RetentionProbe.of(self._model, self._cell.stream.batches)

    @cached_property
    def _some(self) -> RetentionProbe:
        return RetentionProbe.of(self._model, _picked(self._cell.stream.batches, self.sampled))

    def on_step(self, step: StreamStep) -> None:
        """Score after a batch; the time since the last one was editing."""
        self._stages.end("edit")
        self._stages.begin()
        done, count = step.index + 1, len(self._cell.stream.batches)
        with timed({}, "probe", self._profiler):
            if done == count:  # scored in full anyway, see `finish`
                pass
            elif done in self._cell.measures["retention"]:
                self._add(self._all.after(self._model, step.index))
            elif any(self.sampled):
                self._add_sample(self._some.after(self._model, step.index))
        self._stages.end("probe")
        self._say(f"{self._cell.name}: batch {done}/{count} {step.seconds:.1f} s")
        self._stages.begin()

    def finish(self, efficacies: Sequence[float | None]) -> None:
        """Take the scores of all facts at the end for those after the last batch."""
        if self._cell.settings is not None:
            rest = iter(efficacies)
            self._add([tuple(islice(rest, len(batch))) for batch in self._cell.stream.batches])

    def _add(self, values: Sequence[BatchValues]) -> None:
        """Keep the scores of all facts of some batches, and among them those of the sample."""
        self.retention.append({"after": len(values), "efficacy": [list(own) for own in values]})
        if any(self.sampled):
            self._add_sample(_picked(values, self.sampled))

    def _add_sample(self, values: Sequence[BatchValues]) -> None:
        self.samples.append({"after": len(values), "efficacy": [list(own) for own in values]})


def _sampled(batches: Sequence[Sequence[Fact]], count: int) -> list[list[int]]:
    """For each batch the places of its facts that are asked after every later batch."""
    chosen = []
    for number, batch in enumerate(batches):
        rng = random.Random(f"interference-{number}")
        chosen.append(sorted(rng.sample(range(len(batch)), min(count, len(batch)))))
    return chosen


def _picked(
    batches: Sequence[Sequence[_T]], places: Sequence[Sequence[int]]
) -> list[tuple[_T, ...]]:
    """What is in some places of each batch."""
    return [tuple(batch[i] for i in own) for batch, own in zip(batches, places, strict=False)]


def _perplexity(model: EditableModel, texts: Sequence[str]) -> float | None:
    """Perplexity; `None` where it is beyond all numbers, as after a collapse."""
    value = perplexity(model, texts)
    return value if math.isfinite(value) else None


def _batch_figures(step: StreamStep) -> dict[str, Any]:
    return {"after": step.index + 1, "total_seconds": step.seconds, **step.report.to_dict()}
