"""The demo: a stream of edits in six languages, by three methods, on the bundled model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from langedit.demo.atlas import Atlas
from langedit.demo.bundled import bundled_moments, demo_config, load_bundled, perplexity_texts
from langedit.demo.edits import EDITING_TEMPLATE, choose_batches, shown_edits, subject_kinds
from langedit.editing import EditConfig, Editor, Moments, Prefixes, generate_prefixes
from langedit.evaluation import (
    KINDS,
    FactScore,
    Scores,
    by_language,
    definitions,
    greedy_text,
    perplexity,
    score_facts,
)
from langedit.facts import Fact
from langedit.models import EditableModel
from langedit.profiler import Profiler, timed
from langedit.reporting import retention_figure
from langedit.workspace import StreamStep, run_stream

METHODS = ("langedit", "alphaedit", "memit")

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A generated answer to a shown prompt, before and after the edits."""

    language: str
    prompt: str
    target: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """How one method did over the stream; scores in [0, 1] on the model at the end.

    Attributes:
        scores: over all edits.
        languages: the same by language.
        first_batch: efficacy of the first batch.
        first_batches: language -> efficacy of its first batch.
        subjects: kind of subject, as `subject_kinds` has it -> scores of such edits.
        perplexity: language -> ratio of perplexities, after / before, on held-out prose.
        perplexity_ratio: the same over all languages' prose.
        independence_max: largest |dW k| / |W k| over all batches and the keys of earlier ones.
        seconds: wall-clock time of the edits, without scoring.
        profiler: what the stages cost, if that was asked for.
        retention: for each step the efficacies of the batches so far.
        answers: shown facts; of the first method only.
    """

    scores: Scores
    languages: Mapping[str, Scores]
    first_batch: float
    first_batches: Mapping[str, float]
    subjects: Mapping[str, Scores]
    perplexity: Mapping[str, float]
    perplexity_ratio: float
    independence_max: float
    seconds: float
    retention: tuple[tuple[float, ...], ...]
    profiler: Profiler | None = None
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DemoResults:
    """Everything the demo found; `before` are the scores of the unedited model."""

    methods: Mapping[str, MethodResult]
    before: Scores
    facts: int
    batches: int
    model: str
    figure: Path
    file: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """What all methods share: facts, moments, prefixes and the state before."""

    atlas: Atlas
    batches: Sequence[tuple[Fact, ...]]
    moments: Moments
    prefixes: Prefixes
    prose: Mapping[str, Sequence[str]]
    perplexity: Mapping[str, float]
    perplexity_all: float

    @property
    def facts(self) -> list[Fact]:
        return [fact for batch in self.batches for fact in batch]


def run_demo(
    output: Path,
    *,
    methods: Sequence[str] = METHODS,
    batches: int = 24,
    batch_size: int = 25,
    seed: int = 0,
    model_folder: Path | None = None,
    settings: Mapping[str, EditConfig] | None = None,
    profile: bool = False,
    on_progress: Progress = lambda _message: None,
) -> DemoResults:
    """Edit the bundled model with each method in turn; write `results.json` and `retention.png`.

    Args:
        output: folder for the results; made if missing, results of an earlier run are replaced.
        methods: registered methods; the first one's answers are shown.
        batches: how many, a multiple of the six languages.
        batch_size: facts a batch.
        seed: of the choice of facts.
        model_folder: another checkpoint trained by `langedit.demo.train`.
        settings: method -> settings, in place of `demo_config(method)`.
        profile: whether to measure what each stage of the edits costs.
        on_progress: called with a line of text after each stage and batch.
    """
    atlas = Atlas.from_cldr()
    model = load_bundled(model_folder)
    on_progress(f"bundled model: {model.identity().weights_hash[:12]}")
    stream = choose_batches(atlas, batches=batches, batch_size=batch_size, seed=seed)
    ground = _prepare(model, atlas, stream, on_progress)
    before = Scores.of(score_facts(model, ground.facts))
    questions = _shown_prompts(atlas)
    answers_before = _answers(model, questions)
    found: dict[str, MethodResult] = {}
    for method in methods:
        fresh = load_bundled(model_folder)
        show = questions if method == methods[0] else ()
        found[method] = _run_method(
            fresh,
            (settings or {}).get(method) or demo_config(method),
            ground,
            show,
            answers_before,
            on_progress,
            Profiler(fresh.device) if profile else None,
        )
    output.mkdir(parents=True, exist_ok=True)
    results = DemoResults(
        methods=found,
        before=before,
        facts=len(ground.facts),
        batches=len(stream),
        model=model.identity().weights_hash,
        figure=output / "retention.png",
        file=output / "results.json",
    )
    languages = [batch[0].language for batch in stream]
    retention_figure({m: r.retention for m, r in found.items()}, languages, results.figure)
    text = json.dumps(to_json(results), indent=2, ensure_ascii=False) + "\n"
    results.file.write_text(text, encoding="utf-8")
    return results


def to_json(results: DemoResults) -> dict[str, Any]:
    """The content of `results.json`; scores in percent."""
    return {
        "definitions": definitions(KINDS),
        "methods": {name: _method_json(own) for name, own in results.methods.items()},
        "before": _percent(results.before),
        "facts": results.facts,
        "batches": results.batches,
        "model": results.model,
    }


def _method_json(own: MethodResult) -> dict[str, Any]:
    return {
        **_percent(own.scores),
        "first_batch": 100 * own.first_batch,
        "perplexity_ratio": own.perplexity_ratio,
        "independence_max": own.independence_max,
        "seconds": own.seconds,
        **({"profile": own.profiler.to_dict()} if own.profiler is not None else {}),
        "by_language": {
            language: {
                **_percent(scores),
                "first_batch": 100 * own.first_batches[language],
                "perplexity_ratio": own.perplexity[language],
            }
            for language, scores in own.languages.items()
        },
        "by_subject": {
            kind: {"facts": scores.facts, **_percent(scores)}
            for kind, scores in own.subjects.items()
        },
        "retention": [[100 * value for value in step] for step in own.retention],
        "answers": [asdict(answer) for answer in own.answers],
    }


def _percent(scores: Scores) -> dict[str, float | None]:
    return {
        name: None if value is None else 100 * value
        for name, value in scores.to_dict().items()
        if name != "facts"
    }


def _prepare(
    model: EditableModel, atlas: Atlas, stream: Sequence[tuple[Fact, ...]], say: Progress
) -> _Ground:
    begun = perf_counter()
    moments = bundled_moments(model, atlas)
    say(f"second moments: {perf_counter() - begun:.0f} s")
    config = demo_config("memit")
    prefixes = generate_prefixes(
        model, atlas.languages, count=config.prefix_count, length=config.prefix_length, seed=0
    )
    prose = {language: perplexity_texts(language) for language in atlas.languages}
    return _Ground(
        atlas=atlas,
        batches=stream,
        moments=moments,
        prefixes=prefixes,
        prose=prose,
        perplexity={language: perplexity(model, texts) for language, texts in prose.items()},
        perplexity_all=perplexity(model, [text for texts in prose.values() for text in texts]),
    )


def _run_method(
    model: EditableModel,
    config: EditConfig,
    ground: _Ground,
    questions: Sequence[tuple[str, str, str]],
    answers_before: Sequence[str],
    say: Progress,
    profiler: Profiler | None,
) -> MethodResult:
    """Run the stream on a fresh model and score the model at its end."""
    editor = Editor(model, None, config, ground.moments, ground.prefixes, profiler=profiler)

    def on_step(step: StreamStep) -> None:
        language = ground.batches[step.index][0].language
        say(
            f"{config.method}: batch {step.index + 1}/{len(ground.batches)} {language}  "
            f"{step.seconds:.1f} s  efficacy of this batch {100 * step.retention[-1]:.0f}, "
            f"of the first {100 * step.retention[0]:.0f}"
        )

    steps = run_stream(editor, ground.batches, on_step=on_step)
    with timed({}, "scores", profiler):
        scores = score_facts(model, ground.facts)
    per_batch = _first_batches(ground.batches, steps[-1].retention)
    after = {language: perplexity(model, texts) for language, texts in ground.prose.items()}
    together = perplexity(model, [text for texts in ground.prose.values() for text in texts])
    answers = _answers(model, questions)
    return MethodResult(
        scores=Scores.of(scores),
        languages=by_language(scores),
        first_batch=steps[-1].retention[0],
        first_batches=per_batch,
        subjects=_by_subject(ground.batches, scores),
        perplexity={code: value / ground.perplexity[code] for code, value in after.items()},
        perplexity_ratio=together / ground.perplexity_all,
        independence_max=max(step.report.independence_max or 0.0 for step in steps),
        seconds=sum(step.seconds for step in steps),
        retention=tuple(step.retention for step in steps),
        profiler=profiler,
        answers=tuple(
            Answer(language=language, prompt=prompt, target=target, before=old, after=new)
            for (language, prompt, target), old, new in zip(
                questions, answers_before if questions else (), answers, strict=True
            )
        ),
    )


def _by_subject(
    batches: Sequence[Sequence[Fact]], scores: Sequence[FactScore]
) -> dict[str, Scores]:
    """Means over the edits of each kind of subject, kinds in order of their first appearance."""
    kinds = subject_kinds(batches)
    return {
        kind: Scores.of([score for score, own in zip(scores, kinds, strict=True) if own == kind])
        for kind in dict.fromkeys(kinds)
    }


def _first_batches(
    batches: Sequence[Sequence[Fact]], efficacies: Sequence[float]
) -> dict[str, float]:
    """Language -> efficacy at the end of the first batch in that language."""
    found: dict[str, float] = {}
    for batch, value in zip(batches, efficacies, strict=True):
        found.setdefault(batch[0].language, value)
    return found


def _shown_prompts(atlas: Atlas) -> list[tuple[str, str, str]]:
    """(language, prompt, new answer) of the shown facts, fact by fact."""
    prompts = []
    for edit in shown_edits(atlas):
        for language in atlas.languages:
            template, subject, _ = atlas.statement(edit.triple, language, EDITING_TEMPLATE)
            target = atlas.object_label(edit.triple.relation, edit.new_object, language)
            prompts.append((language, template.replace("{}", subject, 1), target))
    return prompts


def _answers(model: EditableModel, questions: Sequence[tuple[str, str, str]]) -> list[str]:
    return [greedy_text(model, language, [prompt])[0] for language, prompt, _ in questions]
