"""Second moments of several layers from one pass over a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from langedit.editing.corpus import CorpusFingerprint
from langedit.editing.moments import LayerMoment, Moments
from langedit.errors import ConfigError, ModelError, MomentsError
from langedit.linalg import MomentAccumulator, SecondMoment
from langedit.models import EditableModel, Recorder, pad_batch
from langedit.parallel import ALONE, Processes

# Batches' worth of tokens that are sorted by length together.
_WINDOW = 16


def collect_moments(
    model: EditableModel,
    corpus: Iterable[tuple[str, str]],
    layers: Iterable[int],
    *,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    sample: int = 512,
    seed: int = 0,
    max_length: int | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> Moments:
    """Stream a corpus through the model and return `mean(k kᵀ)` of the keys of each layer.

    A key is the input of the layer's output projection at one token. All layers are read in one
    pass, which stops after the last of them. Every token of a text counts, special ones such as
    BOS included, as in the published statistics; padding does not. Texts are cut at the length
    that the model was built for.

    Args:
        model: The model; its weights and training state are left as they are.
        corpus: `(language, text)` pairs, for example from `read_corpus`.
        layers: Layer numbers.
        max_tokens: Stop after exactly so many tokens; the last text is cut. `None` takes all.
        batch_tokens: Upper bound of tokens in a batch, padding included. A single text that is
            longer is a batch of its own.
        sample: Keys to keep of each layer, drawn uniformly; the same tokens in every layer.
        seed: Of the draw.
        max_length: Cut texts at so many tokens, when that is less than the model's own bound.
        progress: Called after each batch with the number of tokens done.
        processes: Each runs its share of the batches; all get the result. The sample of keys does
            not depend on their number; means are added in float64 in the order of processes.

    Raises:
        ConfigError: When a number is out of range or no layer is given.
        ModelError: When the model has no such layer, or is not in evaluation mode.
        MomentsError: When the corpus gives no token.
        NumericalError: When a key is not finite.
        ProcessError: Models or corpora of the processes differ.
    """
    wanted = sorted(set(layers))
    _check_settings(wanted, max_tokens, batch_tokens, sample, max_length)
    if model.model.training:
        raise ModelError("expected a model in evaluation mode (dropout off); call model.eval()")
    identity = model.identity()
    fingerprint = CorpusFingerprint()
    texts = _tokenise(model, corpus, fingerprint, _text_limit(model, max_length), max_tokens)
    pool = _KeyPool(model, wanted, sample, seed)

    def stream() -> None:
        for number, batch in enumerate(_batches(texts, batch_tokens)):
            pool.add(batch, _keys(model, batch, wanted) if processes.takes(number) else None)
            if progress is not None:
                progress(pool.counts.total())
        if not pool.counts:
            raise MomentsError(
                "corpus: expected at least one token, got none; check the files and the token "
                "budget"
            )

    processes.together(stream)
    found = fingerprint.hexdigest()
    processes.agree("model and corpus", (identity.weights_hash, found))
    return Moments(layers=pool.result(processes), identity=identity, corpus=found)


def _keys(
    model: EditableModel, batch: list[tuple[str, list[int]]], layers: list[int]
) -> list[Tensor]:
    """Keys `(tokens, d_in)` of a batch of `(language, ids)` in each of some layers."""
    names = [model.projection_name(layer) for layer in layers]
    padded = pad_batch([ids for _, ids in batch], model.pad_id)
    with torch.no_grad(), Recorder(model.model, inputs=names, stop_after=names[-1]) as record:
        model.run(padded)
    return [_real_rows(record.inputs[name], padded.mask) for name in names]


def _real_rows(keys: Tensor, mask: Tensor) -> Tensor:
    """Return the keys of tokens that are no padding, `(tokens, d_in)`.

    Most layers give their projection `(n, t, d_in)`, some (OPT) the same flattened.
    """
    return keys.flatten(0, -2)[mask.flatten().bool().to(keys.device)]


class _KeyPool:
    """Sums, sample and counts while the corpus streams by."""

    def __init__(self, model: EditableModel, layers: list[int], sample: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._names = {layer: model.weight_name(layer) for layer in layers}
        width = model.structure.d_in
        self._sums = [MomentAccumulator(width, model.projection_device(layer)) for layer in layers]
        self._size = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._priorities = torch.zeros(0, dtype=torch.float64)
        self._samples = [torch.zeros(0, width) for _ in layers]

    def add(self, batch: list[tuple[str, list[int]]], keys: list[Tensor] | None) -> None:
        """Add a batch, and its keys `(n, d_in)` in every layer; `None` if another process has them.

        Random numbers are drawn for all tokens alike, so that every process draws the same ones.
        """
        for language, ids in batch:
            self.counts[language] += len(ids)
        tokens = sum(len(ids) for _, ids in batch)
        drawn = torch.rand(tokens, generator=self._generator, dtype=torch.float64)
        if keys is not None:
            for total, rows in zip(self._sums, keys, strict=True):
                total.add(rows)
            self._sample(drawn, keys)

    def _sample(self, drawn: Tensor, keys: list[Tensor]) -> None:
        """A uniform sample without replacement: the tokens with the largest random priorities."""
        candidates = torch.cat([self._priorities, drawn])
        kept = candidates.topk(min(self._size, len(candidates))).indices
        fresh = kept >= len(self._priorities)
        new_rows = kept[fresh] - len(self._priorities)
        for index, rows in enumerate(keys):
            merged = torch.empty(len(kept), rows.shape[1])
            merged[~fresh] = self._samples[index][kept[~fresh]]
            merged[fresh] = rows[new_rows.to(rows.device)].to("cpu", torch.float32)
            self._samples[index] = merged
        self._priorities = candidates[kept]

    def result(self, processes: Processes) -> dict[int, LayerMoment]:
        """Moments over the batches of all processes."""
        counts = dict(sorted(self.counts.items()))
        if processes.count > 1:
            self._gather_sample(processes)
        parts = zip(self._names.items(), self._sums, self._samples, strict=True)
        return {
            layer: LayerMoment(
                moment=_pooled(total, sum(counts.values()), processes),
                sample=rows,
                counts=counts,
                weight_name=name,
            )
            for (layer, name), total, rows in parts
        }

    def _gather_sample(self, processes: Processes) -> None:
        """The sample of all processes' tokens, in the order in which one process has it."""
        ranks = range(processes.count)
        own = (self._priorities, self._samples)
        found = processes.spread(ranks, lambda _: [own])
        candidates = torch.cat([priorities for priorities, _ in found])
        kept = candidates.topk(min(self._size, len(candidates))).indices
        self._samples = [
            torch.cat([samples[index] for _, samples in found])[kept]
            for index in range(len(self._samples))
        ]


def _pooled(total: MomentAccumulator, tokens: int, processes: Processes) -> SecondMoment:
    """The moment over all processes' keys, `tokens` in all."""
    if processes.count == 1:
        return total.result()
    width = total.width
    own = total.result().mean * total.count if total.count else torch.zeros(width, width)
    return SecondMoment(count=tokens, mean=processes.sum(own) / tokens)


def _check_settings(
    layers: list[int],
    max_tokens: int | None,
    batch_tokens: int,
    sample: int,
    max_length: int | None,
) -> None:
    if not layers:
        raise ConfigError("layers: expected at least one layer number, got none")
    at_least = {
        "max_tokens": (max_tokens, 1),
        "batch_tokens": (batch_tokens, 1),
        "sample": (sample, 0),
        "max_length": (max_length, 1),
    }
    for name, (value, least) in at_least.items():
        if value is not None and value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")


def _text_limit(model: EditableModel, max_length: int | None) -> int | None:
    """Return the length at which texts are cut: the smallest bound that anyone states."""
    config = model.model.config.get_text_config()
    bounds = [
        max_length,
        getattr(config, "max_position_embeddings", None),
        model.tokenizer.model_max_length,
    ]
    return min((bound for bound in bounds if bound is not None), default=None)


def _tokenise(
    model: EditableModel,
    corpus: Iterable[tuple[str, str]],
    fingerprint: CorpusFingerprint,
    limit: int | None,
    max_tokens: int | None,
) -> Iterator[tuple[str, list[int]]]:
    """Yield `(language, ids)` of the texts that are used, and count those into the fingerprint."""
    left = max_tokens
    for language, text in corpus:
        ids = list(model.tokenizer(text, verbose=False)["input_ids"])[:limit]
        if left is not None:
            ids = ids[:left]
            left -= len(ids)
        if ids:
            fingerprint.add(language, text)
            yield language, ids
        if left == 0:
            return


def _batches(
    texts: Iterator[tuple[str, list[int]]], batch_tokens: int
) -> Iterator[list[tuple[str, list[int]]]]:
    """Cut the stream into batches of like length whose padded size is within `batch_tokens`."""
    while window := _take_window(texts, _WINDOW * batch_tokens):
        window.sort(key=lambda item: len(item[1]), reverse=True)
        while window:
            rows = max(1, batch_tokens // len(window[0][1]))
            yield window[:rows]
            window = window[rows:]


def _take_window(
    texts: Iterator[tuple[str, list[int]]], tokens: int
) -> list[tuple[str, list[int]]]:
    window: list[tuple[str, list[int]]] = []
    while tokens > 0:
        taken = list(islice(texts, 1))
        if not taken:
            break
        window += taken
        tokens -= len(taken[0][1])
    return window
