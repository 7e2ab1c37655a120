"""Run one cell: edit the stream, ask what is to be asked, and write everything down."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from langedit.compare.cells import FORMAT, Cell
from langedit.compare.ground import Say
from langedit.compare.resources import Stages, code_digest, hardware, versions
from langedit.editing import EditConfig, Editor, Prefixes
from langedit.evaluation import perplexity, score_facts
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.workspace import StreamStep, run_stream

OWN = "own"


def measure(cell: Cell, say: Say) -> dict[str, Any]:
    """Run a cell on a fresh copy of its model.

    Returns:
        The content of the cell's file, without its failure: see docs/compare.md.

    Raises:
        LangEditError: a batch cannot be edited.
    """
    stages = Stages()
    with stages.stage("load"):
        model = cell.ground.load()
    probes = _Probes(cell, model, stages, say)
    batches: list[dict[str, Any]] = []
    if cell.settings is not None:
        with stages.stage("moments and prefixes"):
            editor = _editor(cell, cell.settings, model)
        stages.begin()
        steps = run_stream(editor, cell.stream.batches, retention=False, on_step=probes.on_step)
        batches = [_batch_figures(step) for step in steps]
    with stages.stage("scores"):
        scores = score_facts(model, cell.stream.facts, kinds=tuple(cell.measures["metrics"]))
        probes.finish([score.efficacy for score in scores])
    with stages.stage("aligned facts"):
        asked = [fact for _, fact in cell.stream.aligned]
        aligned = score_facts(model, asked, kinds=("efficacy",)) if asked else []
    with stages.stage("perplexity"):
        perplexities = {
            language: _perplexity(model, texts) for language, texts in cell.stream.texts.items()
        }
    places = [n for n, batch in enumerate(cell.stream.batches) for _ in batch]
    return {
        **_origin(cell),
        "facts": [
            {"id": fact.id, "batch": place, **score.to_dict()}
            for fact, place, score in zip(cell.stream.facts, places, scores, strict=True)
        ],
        "batches": batches,
        "retention": probes.retention,
        "interference": probes.samples,
        "transfer": [
            {"fact": index, "language": fact.language, "efficacy": score.efficacy}
            for (index, fact), score in zip(cell.stream.aligned, aligned, strict=True)
        ],
        "perplexity": perplexities,
        "seconds": stages.seconds,
        "peak_bytes": stages.peak_bytes,
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
        "data": {
            "fingerprint": cell.stream.fingerprint,
            "facts": len(cell.stream.facts),
            "batches": len(cell.stream.batches),
            "rejected": cell.stream.rejected,
        },
        "corpus": None if cell.settings is None else cell.ground.moments.corpus,
        "versions": versions(),
        "code": code_digest(),
        "hardware": hardware(),
    }


def _editor(cell: Cell, config: EditConfig, model: EditableModel) -> Editor:
    languages = dict.fromkeys(fact.language for fact in cell.stream.facts)
    if cell.prefixes_in == OWN:
        prefixes = cell.ground.prefixes(config, languages)
    else:
        one = cell.ground.prefixes(config, [cell.prefixes_in]).of(cell.prefixes_in)
        prefixes = Prefixes(dict.fromkeys(languages, one))
    return Editor(model, None, config, cell.ground.moments, prefixes)


class _Probes:
    """Asks earlier facts again after a batch, some always and all now and then."""

    def __init__(self, cell: Cell, model: EditableModel, stages: Stages, say: Say) -> None:
        self.retention: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self._cell = cell
        self._model = model
        self._stages = stages
        self._say = say
        self._sampled = _sampled(cell.stream.batches, cell.measures["interference_sample"])

    def on_step(self, step: StreamStep) -> None:
        """Score after a batch; the time since the last one was editing."""
        self._stages.end("edit")
        self._stages.begin()
        done = step.index + 1
        if done < len(self._cell.stream.batches):  # the last is scored in full anyway
            facts = [fact for batch in self._cell.stream.batches[:done] for fact in batch]
            full = done in self._cell.measures["retention"]
            wanted = [n for n in range(len(facts)) if full or n in self._sampled]
            asked = _efficacies(self._model, [facts[index] for index in wanted])
            self._add(done, dict(zip(wanted, asked, strict=True)), full)
        self._stages.end("probe")
        self._say(
            f"{self._cell.name}: batch {done}/{len(self._cell.stream.batches)} {step.seconds:.1f} s"
        )
        self._stages.begin()

    def finish(self, efficacies: Sequence[float | None]) -> None:
        """Take the scores of all facts at the end for those after the last batch."""
        if self._cell.settings is not None:
            self._add(len(self._cell.stream.batches), dict(enumerate(efficacies)), True)

    def _add(self, done: int, found: Mapping[int, float | None], full: bool) -> None:
        if full:
            self.retention.append({"after": done, "efficacy": list(found.values())})
        sample = {str(index): found[index] for index in self._sampled if index in found}
        if sample:
            self.samples.append({"after": done, "efficacy": sample})


def _sampled(batches: Sequence[Sequence[Fact]], count: int) -> list[int]:
    """Numbers of the facts that are asked after every batch: some of each."""
    chosen, first = [], 0
    for number, batch in enumerate(batches):
        rng = random.Random(f"interference-{number}")
        chosen += [first + i for i in sorted(rng.sample(range(len(batch)), min(count, len(batch))))]
        first += len(batch)
    return chosen


def _efficacies(model: EditableModel, facts: Sequence[Fact]) -> list[float | None]:
    if not facts:
        return []
    return [score.efficacy for score in score_facts(model, facts, kinds=("efficacy",))]


def _perplexity(model: EditableModel, texts: Sequence[str]) -> float | None:
    """Perplexity; `None` where it is beyond all numbers, as after a collapse."""
    try:
        value = perplexity(model, texts)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _batch_figures(step: StreamStep) -> dict[str, Any]:
    return {"after": step.index + 1, "total_seconds": step.seconds, **step.report.to_dict()}
