"""Run settings over a stream on one loaded model, which has its own weights again afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from langedit.compare.figures_of import FIRST_BATCH, MEAN, OBJECTIVE, Record, columns_of
from langedit.editing import EditConfig, Editor, Moments, Prefixes, generate_prefixes
from langedit.editing.opening import require_identity
from langedit.errors import LangEditError
from langedit.evaluation import KINDS, Resampled, mean_or_none, resample, score_facts
from langedit.facts import Fact
from langedit.models import EditableModel, dequantise_projections
from langedit.profiler import Profiler, timed
from langedit.workspace import run_stream

Batches = Sequence[tuple[Fact, ...]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings and how they did.

    Attributes:
        config: the settings.
        record: scores of every fact at the end, as in a cell of a comparison; `None` if the run
            failed.
        error: why it failed.
        seconds: wall-clock time, with scoring.
    """

    config: EditConfig
    record: Record | None
    error: str | None
    seconds: float

    @property
    def scores(self) -> dict[str, float]:
        """Means of the scores that the facts have, and of these the mean."""
        if self.record is None:
            return {}
        found = {name: mean_or_none(own) for name, own in columns_of(self.record, KINDS).items()}
        known = {name: value for name, value in found.items() if value is not None}
        return {**known, MEAN: sum(known.values()) / len(known)}

    @property
    def objective(self) -> float:
        """Mean of the scores in `OBJECTIVE` that the facts have; below all if the run failed."""
        return self.scores.get(MEAN, -1.0)

    def resampled(self) -> Resampled:
        """The scores over resamples of the facts, with their mean.

        Raises:
            ValueError: the run failed.
        """
        if self.record is None:
            raise ValueError(f"expected a run with scores, got a failed one: {self.error}")
        columns = columns_of(self.record, KINDS)
        names = [name for name in OBJECTIVE if name in self.scores]
        return resample([columns], apart=FIRST_BATCH).with_mean(MEAN, names)


class Bench:
    """A model on which settings are tried, one after another."""

    def __init__(
        self, model: EditableModel, moments: Moments, profiler: Profiler | None = None
    ) -> None:
        """Take what all trials share.

        Args:
            model: the model, which is edited and put back.
            moments: of the layers that may be tried; with their spectra, so that these are not
                computed for every trial.
            profiler: is told of the stages of the trials.

        Raises:
            MomentsError: the moments are of other weights.
        """
        require_identity(model, moments)
        dequantise_projections(model, sorted(moments.layers))
        self._model = model
        # Plain projections have another hash than quantised ones; that they belong was seen above.
        self._moments = replace(moments, identity=model.identity())
        self._profiler = profiler
        self._prefixes: dict[tuple[Any, ...], Prefixes] = {}

    def run(self, config: EditConfig, batches: Batches) -> Trial:
        """Edit the batches, score all facts, and put the model's own weights back.

        Settings with which the model cannot be edited give a trial that failed.
        """
        begun = perf_counter()
        record: Record | None = None
        error = None
        try:
            record = self._record(config, batches)
        except LangEditError as failure:
            error = str(failure)
        return Trial(config=config, record=record, error=error, seconds=perf_counter() - begun)

    def prefixes(self, config: EditConfig, languages: Sequence[str]) -> Prefixes:
        """Context prefixes in some languages, written by the unedited model."""
        key = _prefix_key(config, languages)
        if key not in self._prefixes:
            with timed({}, "prefixes", self._profiler):
                self._prefixes[key] = generate_prefixes(
                    self._model,
                    languages,
                    count=config.prefix_count,
                    length=config.prefix_length,
                    seed=config.seed,
                    seed_words=config.seed_words,
                )
        return self._prefixes[key]

    def _record(self, config: EditConfig, batches: Batches) -> Record:
        facts = [fact for batch in batches for fact in batch]
        prefixes = self.prefixes(config, list(dict.fromkeys(fact.language for fact in facts)))
        editor = Editor(self._model, None, config, self._moments, prefixes, profiler=self._profiler)
        try:
            run_stream(editor, batches, retention=False)
            with timed({}, "scores", self._profiler):
                scores = score_facts(editor.model, facts)
        finally:
            editor.restore(())
        places = [number for number, batch in enumerate(batches) for _ in batch]
        return {
            "facts": [
                {"batch": place, **score.to_dict()}
                for place, score in zip(places, scores, strict=True)
            ]
        }


def _prefix_key(config: EditConfig, languages: Sequence[str]) -> tuple[Any, ...]:
    """What context prefixes depend on."""
    words = tuple(sorted((code, own) for code, own in config.seed_words.items()))
    return (config.prefix_count, config.prefix_length, config.seed, words, tuple(languages))
