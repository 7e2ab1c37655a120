"""Edit a model batch by batch, take the last batch back, and save the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Self

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langedit.editing.batch import LayerEdit, edit_layers, find_targets
from langedit.editing.config import EditConfig
from langedit.editing.export import save_edited
from langedit.editing.measure import measure_batch
from langedit.editing.methods import LayerState, find_method
from langedit.editing.moments import Moments
from langedit.editing.opening import first_layer_states, require_identity, wrap_model
from langedit.editing.prefixes import Prefixes, generate_prefixes
from langedit.editing.report import BatchReport
from langedit.editing.requests import prepare_request
from langedit.editing.state import EditorState, stored_digest, sum_updates
from langedit.errors import FactError, LangEditError, NumericalError
from langedit.facts import Fact, check_batch
from langedit.models import DeviceMap, EditableModel, load_model
from langedit.parallel import ALONE, Processes


class Editor:
    """Edits facts inside a model, batch after batch.

    The model given is changed in place. A run is a function of model, config, moments, prefixes
    and facts: two runs give identical weights on the same machine.

    Of several processes each has a model and an editor, and all make the same calls. Targets are
    found in shares; process 0 solves, keeps what the method remembers, and writes checkpoints.
    """

    def __init__(
        self,
        model: PreTrainedModel | EditableModel,
        tokenizer: PreTrainedTokenizerBase | None,
        config: EditConfig,
        moments: Moments,
        prefixes: Prefixes | None = None,
        *,
        processes: Processes = ALONE,
    ) -> None:
        """Prepare a model for editing.

        Args:
            model: a causal language model of transformers in evaluation mode, or one already
                wrapped.
            tokenizer: its fast tokenizer; `None` with a wrapped model, which has it.
            config: the settings.
            moments: second moments of this very model at the edited layers.
            prefixes: context prefixes of every language to be edited. `None`: the model writes
                those of a language when its first fact comes, from `config.seed`.
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
        self.model = processes.together(lambda: _checked(model, tokenizer, config, moments))
        processes.agree(
            "model, moments and settings", (moments.identity.weights_hash, moments.corpus, config)
        )
        self._method = find_method(config.method).from_config(config)
        states = processes.only_first(
            lambda: first_layer_states(self.model, self._method, moments, config.layers)
        )
        self._state = EditorState(
            layers=states or {},
            languages=(),
            prefixes=prefixes if prefixes is not None else Prefixes({}),
        )
        self._prefixes_given = prefixes is not None
        self._samples = {layer: moments.layers[layer].sample for layer in config.layers}
        self._base = {layer: self.model.read_weight(layer) for layer in config.layers}
        self._weights = dict(self._base)
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
        processes: Processes = ALONE,
    ) -> Self:
        """Load a model and prepare it for editing.

        Args:
            source: folder or hub id of a checkpoint.
            config: the settings; `structure` names modules that are not found.
            moments: second moments, or the folder they were saved in.
            prefixes: as for the constructor.
            revision: of a hub model.
            dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
            device_map: as for `load_model`.
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
        if not isinstance(moments, Moments):
            moments = Moments.load(moments, layers=config.layers)
        return cls(model, None, config, moments, prefixes, processes=processes)

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

    def apply(self, facts: Sequence[Fact], *, target_hidden: Tensor | None = None) -> BatchReport:
        """Edit a batch of facts, of one language or of several.

        When anything fails, or is interrupted, weights and state are as before.

        Args:
            facts: one or more facts that do not contradict one another.
            target_hidden: (facts, d_model) target hidden states at the last edited layer, where
                they are known from an earlier run; `None` optimises them.

        Raises:
            FactError: no fact, duplicates, or contradictions.
            TokenError: a lookup token is not found, or a text is too long.
            ConfigError: a language has no prefixes.
            NumericalError: a value is not finite.
            ProcessError: processes have other facts or weights, or one ended.
        """
        batch = tuple(facts)
        if not batch:
            raise FactError("expected at least one fact in a batch, got none")
        check_batch(batch)
        digest = stored_digest(self.model, self.config.layers)
        self.processes.agree("facts and edited weights", (batch, digest))
        seconds: dict[str, float] = {}
        try:
            with _timed(seconds, "prepare"):
                prefixes = self._prefixes_for(batch)
                requests = self.processes.together(
                    lambda: [
                        prepare_request(self.model, fact, prefixes.of(fact.language), self.config)
                        for fact in batch
                    ]
                )
            with _timed(seconds, "targets"):
                targets, wanted = find_targets(
                    self.model, requests, self.config, target_hidden, self.processes
                )
            with _timed(seconds, "solve"):
                edits = edit_layers(
                    self.model,
                    self._method,
                    self.config,
                    requests,
                    wanted,
                    self._state.layers,
                    self._weights,
                    self.processes,
                )
            with _timed(seconds, "advance"):
                state = self._advanced(batch, edits, prefixes)
            report = self.processes.first(
                lambda: measure_batch(
                    batch, targets, edits, self._state, state, self._samples, seconds
                )
            )
        except BaseException:
            self._write(self._weights)
            raise
        report = replace(report, updates={layer: edit.update for layer, edit in edits.items()})
        self._earlier = self._state, digest
        self._state = state
        self._weights = {layer: edit.after for layer, edit in edits.items()}
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
        weights = {
            layer: sum_updates(base, [report.updates[layer] for report in kept])
            for layer, base in self._base.items()
        }
        self._write(weights)
        if stored_digest(self.model, self.config.layers) != digest:
            self._write(self._weights)
            raise NumericalError(
                "undo: expected the weights from before the batch bit for bit, got others: were "
                "they, or updates in a report, changed from outside? The batch stays applied"
            )
        self._weights, self._state, self._reports = weights, state, tuple(kept)
        self._earlier = None
        return last

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint that plain transformers loads, and `langedit.json` with the record.

        Only process 0 writes; the others go on at once.

        Raises:
            OutputError: the folder is not empty, is a file, or cannot be written.
        """
        if self.processes.is_first:
            save_edited(Path(folder), self.model, self.config, self.prefixes, self._reports)

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

    def _advanced(
        self, facts: Sequence[Fact], edits: Mapping[int, LayerEdit], prefixes: Prefixes
    ) -> EditorState:
        layers = self.processes.only_first(
            lambda: {
                layer: self._method.advance(self._state.layers[layer], edit.keys)
                for layer, edit in edits.items()
            }
        )
        languages = (*self._state.languages, *(fact.language for fact in facts))
        return EditorState(layers=layers or {}, languages=languages, prefixes=prefixes)

    def _write(self, weights: Mapping[int, Tensor]) -> None:
        for layer, weight in weights.items():
            self.model.write_weight(layer, weight)


def _checked(
    model: PreTrainedModel | EditableModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: EditConfig,
    moments: Moments,
) -> EditableModel:
    """The model, if settings and moments fit it."""
    wrapped = wrap_model(model, tokenizer, config)
    config.check_depth(wrapped.structure.n_layers)
    require_identity(wrapped, moments)
    return wrapped


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time spent inside to a stage."""
    start = perf_counter()
    yield
    seconds[stage] = perf_counter() - start
