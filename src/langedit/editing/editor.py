"""Edit a model batch by batch, take the last batch back, and save the result."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langedit.editing.batch import BatchEdit, BatchJob, solve_device, sum_updates
from langedit.editing.config import EditConfig
from langedit.editing.export import make_record, save_edited
from langedit.editing.independence import KnownKeys
from langedit.editing.measure import measure_batch
from langedit.editing.methods import LayerState, find_method
from langedit.editing.moments import Moments
from langedit.editing.opening import (
    first_layer_states,
    known_moments,
    require_identity,
    wrap_model,
)
from langedit.editing.prefixes import Prefixes, generate_prefixes
from langedit.editing.record import EditedModelRecord, Score
from langedit.editing.report import BatchReport
from langedit.editing.requests import merge_shared, prepare_request, row_languages
from langedit.editing.state import EditorState, stored_digest, weights_digest
from langedit.errors import FactError, LangEditError, NumericalError
from langedit.facts import Fact, check_batch
from langedit.models import (
    DeviceMap,
    EditableModel,
    ModelIdentity,
    dequantise_projections,
    load_model,
)
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler, timed


class Editor:
    """Edits facts inside a model, batch after batch.

    Attributes:
        dequantised: layer -> what its projection was, where that was quantised: the edited
            projections of such a model are made plain, its other weights stay as they are.

    The model given is changed in place. A run is a function of model, config, moments, prefixes
    and facts: two runs give identical weights on the same machine.

    Of several processes each has a model and an editor, and all make the same calls. Targets are
    found in shares; process 0 solves, keeps what the method remembers, and writes checkpoints. It
    alone needs the moments.
    """

    def __init__(
        self,
        model: PreTrainedModel | EditableModel,
        tokenizer: PreTrainedTokenizerBase | None,
        config: EditConfig,
        moments: Moments | None,
        prefixes: Prefixes | None = None,
        *,
        profiler: Profiler | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """Prepare a model for editing.

        Args:
            model: a causal language model of transformers in evaluation mode, or one already
                wrapped.
            tokenizer: its fast tokenizer; `None` with a wrapped model, which has it.
            config: the settings.
            moments: second moments of this very model at the edited layers; `None` in processes
                other than the first.
            prefixes: context prefixes of every language to be edited. `None`: the model writes
                those of a language when its first fact comes, from `config.seed`.
            profiler: is told of every stage of this process.
            processes: that edit together, from `join_processes`.

        Raises:
            ConfigError: a layer is out of range, or no tokenizer is given.
            ProcessError: processes have other models, moments or settings, or one ended.
            MomentsError: moments are missing or of other weights.
            StructureError: a part of the model is not found.
            ModelError: the model is in training mode.
        """
        self.config = config
        self.processes = processes
        self._profiler = profiler
        with timed({}, "open", profiler):
            self._open(model, tokenizer, known_moments(moments, processes), prefixes)

    def _open(
        self,
        model: PreTrainedModel | EditableModel,
        tokenizer: PreTrainedTokenizerBase | None,
        moments: Moments,
        prefixes: Prefixes | None,
    ) -> None:
        config, processes = self.config, self.processes
        self.model, self._identity, self.dequantised = processes.together(
            lambda: _opened(model, tokenizer, config, moments)
        )
        processes.agree(
            "model, moments and settings", (moments.identity.weights_hash, moments.corpus, config)
        )
        self._method = find_method(config.method).from_config(config)
        states = processes.only_first(
            lambda: first_layer_states(self.model, self._method, moments, config)
        )
        self._start = EditorState.first(
            states or {}, prefixes if prefixes is not None else Prefixes({})
        )
        self._state = self._start
        self._prefixes_given = prefixes is not None
        self._base = {layer: self.model.read_weight(layer) for layer in config.edited_layers}
        self._samples = {
            layer: KnownKeys.of(self._base[layer], moments.layers[layer].sample)
            for layer in states or ()
        }
        self._weights: Mapping[int, Tensor] = self._base
        self._weights_hash: str | None = None
        self._reports: tuple[BatchReport, ...] = ()
        self._earlier: tuple[EditorState, str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        config: EditConfig,
        moments: Moments | str | Path,
        *,
        prefixes: Prefixes | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device_map: DeviceMap | None = None,
        profiler: Profiler | None = None,
        processes: Processes = ALONE,
    ) -> Self:
        """Load a model and prepare it for editing.

        Args:
            source: folder or hub id of a checkpoint.
            config: the settings; `structure` names modules that are not found.
            moments: second moments, or the folder they were saved in, which the first process
                alone reads.
            prefixes: as for the constructor.
            revision: of a hub model.
            dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
            device_map: as for `load_model`.
            profiler: as for the constructor.
            processes: as for the constructor.

        Raises:
            ModelError: the checkpoint cannot be loaded.
            LangEditError: as for the constructor.
        """
        model = load_model(
            source,
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            structure_overrides=config.structure or None,
        )
        config.check_depth(model.structure.n_layers)
        if isinstance(moments, Moments):
            given: Moments | None = moments
        else:
            folder, layers = moments, config.edited_layers
            given = processes.only_first(lambda: Moments.load(folder, layers=layers))
        return cls(model, None, config, given, prefixes, profiler=profiler, processes=processes)

    @property
    def profiler(self) -> Profiler | None:
        """What is told of every stage, if anything is."""
        return self._profiler

    @property
    def reports(self) -> tuple[BatchReport, ...]:
        """Reports of the batches in the model, oldest first."""
        return self._reports

    @property
    def prefixes(self) -> Prefixes:
        """Context prefixes given, or written by the model so far."""
        return self._state.prefixes

    @property
    def layer_states(self) -> Mapping[int, LayerState]:
        """Layer -> what the method remembers; the histories hold the keys of all edits.

        Empty in all processes but the first.
        """
        return self._state.layers

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the edited layers' weights, summed and not rounded to the model's precision.

        The weights in the model follow from these by rounding. Hashed once after each change.
        """
        if self._weights_hash is None:
            with timed({}, "hash", self._profiler):
                return self._hashed()
        return self._weights_hash

    @property
    def state_hash(self) -> str:
        """SHA-256 over what the method remembers: keys of all edits, bases, prefixes.

        Of several processes that of the first one counts: the others remember prefixes only.
        """
        return self._state.digest

    @property
    def earlier_layer_states(self) -> Mapping[int, LayerState]:
        """Layer -> what the method remembered before the last batch applied.

        Raises:
            LangEditError: no batch was applied since the editor was made, restored or undone.
        """
        if self._earlier is None:
            raise LangEditError("expected a batch that was just applied, got none: apply one")
        return self._earlier[0].layers

    def apply(self, facts: Sequence[Fact], *, target_hidden: Tensor | None = None) -> BatchReport:
        """Edit a batch of facts, of one language or of several.

        When anything fails, or is interrupted, weights and state are as before.

        Args:
            facts: one or more facts that do not contradict one another.
            target_hidden: (facts, d_model) target hidden states at the last edited layer (`rome`:
                target outputs of the edited projection), where they are known from an earlier run;
                `None` optimises them. Facts that `merge_shared` puts together have one row.

        Raises:
            FactError: no fact, duplicates, or contradictions.
            TokenError: a lookup token is not found, or a text is too long.
            ConfigError: a language has no prefixes, or targets are given to a method without any.
            NumericalError: a value is not finite.
            ProcessError: processes have other facts or weights, or one ended.
        """
        batch = tuple(facts)
        if not batch:
            raise FactError("expected at least one fact in a batch, got none")
        seconds: dict[str, float] = {}
        with timed(seconds, "hash", self._profiler):
            check_batch(batch)
            digest = self._present_digest()
            self.processes.agree("facts and edited weights", (batch, digest, target_hidden is None))
        try:
            prefixes, job, rows = self._prepare(batch, target_hidden, seconds)
            edit = self._method.edit(job)
            used = {fact.language: prefixes.of(fact.language) for fact in batch}
            weights = {layer: own.after for layer, own in edit.layers.items()}
            languages = row_languages(batch, rows)
            with timed(seconds, "hash", self._profiler):
                after = self._state.next_digest(edit.states, languages, used)
            with timed(seconds, "report", self._profiler):
                state = self._state.after(edit.states, languages, used, weights, after)
                report = self._measured(batch, rows, edit, state)
        except BaseException:
            self._write(self._weights)
            raise
        with timed(seconds, "advance", self._profiler):
            self._state.forget()
            self._earlier = self._state.sharing(state), digest
            self._start, self._state = self._start.sharing(state), state
        self._hold(weights)
        report = replace(report, seconds=seconds)
        self._reports = (*self._reports, report)
        return report

    def undo(self) -> BatchReport:
        """Take the last batch back: weights, bit for bit, and everything the method remembered.

        The weights are not kept but made again: base weights plus all earlier updates, summed in
        the order in which they came, rounded once, and compared with what was there.

        Returns:
            The report of the batch that was taken back.

        Raises:
            LangEditError: there is no batch, or the one before it was taken back already.
            NumericalError: the weights come out differently; the batch stays.
        """
        if self._earlier is None:
            raise LangEditError(
                "expected a batch to take back, got none: only the last batch applied can be "
                "taken back, and only once"
            )
        state, digest = self._earlier
        *kept, last = self._reports
        with timed({}, "undo", self._profiler):
            weights = {
                layer: sum_updates(base, [report.updates[layer] for report in kept])
                for layer, base in self._base.items()
            }
            same = weights_digest(weights.values()) == digest
            if same:
                self._write(weights)
                same = self._are_stored(weights)
            if not same:
                self._write(self._weights)
                raise NumericalError(
                    "undo: expected the weights from before the batch bit for bit, got others: "
                    "were they, or updates in a report, changed from outside? The batch stays "
                    "applied"
                )
        self._hold(weights)
        self._weights_hash = digest
        self._state, self._reports, self._earlier = state, tuple(kept), None
        return last

    def restore(self, reports: Sequence[BatchReport]) -> None:
        """Make these batches, in this order, the ones in the model, whatever is in it now.

        Weights are the base weights plus all updates, summed in order; what the method remembers
        follows from keys and updates. Both come out bit for bit as in the run that made the
        reports, on the same machine: compare `weights_hash` and `state_hash`. With no reports the
        weights are the original ones. Reports that go on from those in the model are put on top of
        them.

        Args:
            reports: of batches edited by an editor of the same model, config and moments.

        Raises:
            NumericalError: an update does not fit, or the method cannot go on from these batches
                alone; the model stays as it is.
        """
        with timed({}, "restore", self._profiler):
            self._restore(reports)

    def _restore(self, reports: Sequence[BatchReport]) -> None:
        self.processes.agree("batches to restore", [report.facts for report in reports])
        present = self._reports
        goes_on = len(reports) >= len(present) and all(map(operator.is_, reports, present))
        state = self._start
        weights: Mapping[int, Tensor] = self._base
        if goes_on:
            state, weights = self._state, self._weights
        more = reports[len(present) :] if goes_on else reports
        for report in more:
            weights = {
                layer: sum_updates(weight, [report.updates[layer]])
                for layer, weight in weights.items()
            }
            state = self._remembered(state, report, weights)
        try:
            self.processes.together(lambda: self._write(weights))
        except BaseException:
            self._write(self._weights)
            raise
        self._hold(weights)
        self._state, self._reports = state, tuple(reports)
        self._start, self._earlier = self._start.sharing(state), None

    def record(self, scores: Sequence[Score] | None = None) -> EditedModelRecord:
        """The base model and all updates in the model, from which it can be exported.

        Args:
            scores: of the facts of all batches, in order, measured on the model as it is now.

        Raises:
            RecordError: there is not one score for each fact.
        """
        return make_record(self, self._identity, scores)

    def save_pretrained(self, folder: str | Path, *, scores: Sequence[Score] | None = None) -> None:
        """Write a checkpoint that plain transformers loads, with the record of its edits.

        Only process 0 writes; the others go on at once.

        Args:
            folder: new or empty.
            scores: as for `record`; they go into it.

        Raises:
            OutputError: the folder is not empty, is a file, or cannot be written.
            RecordError: there is not one score for each fact.
            ModelError: a quantised module would be saved with other values.
        """
        if self.processes.is_first:
            save_edited(Path(folder), self, scores)

    def _prepare(
        self, facts: Sequence[Fact], given: Tensor | None, seconds: dict[str, float]
    ) -> tuple[Prefixes, BatchJob, tuple[int, ...]]:
        """Prefixes, the encoded batch, and for each fact its row in it."""
        with timed(seconds, "prepare", self._profiler):
            prefixes = self._prefixes_for(facts)
            requests = self.processes.together(
                lambda: [
                    prepare_request(self.model, fact, prefixes.of(fact.language), self.config)
                    for fact in facts
                ]
            )
            rows = tuple(range(len(requests)))
            if self.config.merge_shared:
                requests, rows = merge_shared(requests)
        job = BatchJob(
            model=self.model,
            config=self.config,
            requests=tuple(requests),
            states=self._state.layers,
            base=self._base,
            weights=self._weights,
            given=given,
            processes=self.processes,
            seconds=seconds,
            profiler=self._profiler,
        )
        return prefixes, job, rows

    def _measured(
        self, batch: Sequence[Fact], rows: Sequence[int], edit: BatchEdit, state: EditorState
    ) -> BatchReport:
        """The report of a batch, which process 0 measures; what all have is not sent."""

        def measure() -> BatchReport:
            report = measure_batch(batch, rows, edit, self._state, state, self._samples)
            return replace(report, updates={}, keys={}, targets=None)

        return replace(
            self.processes.first(measure),
            updates={layer: own.update for layer, own in edit.layers.items()},
            keys={layer: own.keys for layer, own in edit.layers.items()},
            targets=edit.targets,
        )

    def _remembered(
        self, state: EditorState, report: BatchReport, weights: Mapping[int, Tensor]
    ) -> EditorState:
        """The state after a batch that was edited before and left these weights."""

        def remember(layer: int, base: Tensor) -> LayerState:
            waiting = state.layers[layer]
            near = waiting.to(solve_device(base))
            keys, update = report.keys[layer], report.updates[layer]
            return self._method.remember(near, keys, update, base).beside(waiting, near)

        layers = self.processes.only_first(
            lambda: {layer: remember(layer, base) for layer, base in self._base.items()}
        )
        languages = row_languages(report.facts, report.rows)
        layers = layers or {}
        digest = state.next_digest(layers, languages, report.prefixes)
        return state.after(layers, languages, report.prefixes, weights, digest)

    def _prefixes_for(self, facts: Sequence[Fact]) -> Prefixes:
        """The prefixes so far, and those of languages that come for the first time."""
        known = self._state.prefixes
        new = [fact.language for fact in facts if fact.language not in known]
        if self._prefixes_given or not new:
            return known
        written = self.processes.first(
            lambda: dict(
                generate_prefixes(
                    self.model,
                    new,
                    count=self.config.prefix_count,
                    length=self.config.prefix_length,
                    seed=self.config.seed,
                    seed_words=self.config.seed_words,
                )
            )
        )
        return Prefixes({**known, **written})

    def _present_digest(self) -> str:
        """`weights_hash` where these are the weights in the model, else a hash of those."""
        if self._are_stored(self._weights):
            return self._hashed()
        return f"stored {stored_digest(self.model, self._weights)}"

    def _hashed(self) -> str:
        if self._weights_hash is None:
            self._weights_hash = weights_digest(self._weights.values())
        return self._weights_hash

    def _are_stored(self, weights: Mapping[int, Tensor]) -> bool:
        """Whether these are the weights in the model, rounded."""
        return all(self.model.stores(layer, weight) for layer, weight in weights.items())

    def _hold(self, weights: Mapping[int, Tensor]) -> None:
        """Take these for the weights, which are in the model already."""
        if weights is not self._weights:
            self._weights, self._weights_hash = weights, None

    def _write(self, weights: Mapping[int, Tensor]) -> None:
        for layer, weight in weights.items():
            self.model.write_weight(layer, weight)


def _opened(
    model: PreTrainedModel | EditableModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: EditConfig,
    moments: Moments,
) -> tuple[EditableModel, ModelIdentity, dict[int, str]]:
    """The model, if settings and moments fit it, its identity, and what was dequantised."""
    wrapped = wrap_model(model, tokenizer, config)
    config.check_depth(wrapped.structure.n_layers)
    identity = require_identity(wrapped, moments)
    return wrapped, identity, dequantise_projections(wrapped, config.edited_layers)
