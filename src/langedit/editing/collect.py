"""Second moments of several layers from one pass over a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from langedit.editing.angles import AngleGoal, AngleWatch
from langedit.editing.batch import with_float64
from langedit.editing.batching import halve_on_oom
from langedit.editing.corpus import CorpusFingerprint
from langedit.editing.finite import not_finite
from langedit.editing.key_pool import KeyPool
from langedit.editing.layout import TokenLayout, lay_out
from langedit.editing.moments import Moments
from langedit.editing.requests import shortened
from langedit.errors import ConfigError, ModelError, MomentsError, NumericalError
from langedit.linalg import NullSpaceAngle
from langedit.models import EditableModel, Recorder
from langedit.models.memory import ran_out_of_memory
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler, timed

# Batches' worth of tokens that are laid out together.
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
    until: AngleGoal | None = None,
    precision: torch.dtype = torch.float64,
    profiler: Profiler | None = None,
    processes: Processes = ALONE,
) -> Moments:
    """Stream a corpus through the model and return `mean(k kᵀ)` of the keys of each layer.

    A key is the input of the layer's output projection at one token. All layers are read in one
    pass, which ends where the last key is known: that layer's projection itself does not run. Every
    token of a text counts, special ones such as BOS included, as in the published statistics;
    padding does not. Texts are cut at the length that the model was built for.

    Args:
        model: The model; its weights and training state are left as they are.
        corpus: `(language, text)` pairs, for example from `read_corpus`.
        layers: Layer numbers.
        max_tokens: Stop after exactly so many tokens; the last text is cut. `None` takes all.
        batch_tokens: Upper bound of tokens in a batch, padding included. A single text that is
            longer is a batch of its own. Where memory does not hold a batch it is halved.
        sample: Keys to keep of each layer, drawn uniformly; the same tokens in every layer.
        seed: Of the draw.
        max_length: Cut texts at so many tokens, when that is less than the model's own bound.
        progress: Called after each batch with the number of tokens done.
        until: Stop when the null space is known as well as this asks for. Texts of each language
            are then dealt to two halves in turn, whose null spaces are compared now and then.
        precision: Of the products of keys, float64 or float32; sums are in float64. What float32
            loses is measured (`SecondMoment.rounding`); edits for which it is too much refuse it.
        profiler: Is told of the stages "forward", "moments" and "angle" of this process.
        processes: Each runs its share of the batches, and measures its share of the angles; all
            get the result. The sample of keys does not depend on their number; sums are added in
            float64 in the order of processes.

    Raises:
        ConfigError: When a number is out of range or no layer is given.
        ModelError: When the model has no such layer, or is not in evaluation mode.
        MomentsError: When the corpus gives no token, or memory does not hold one row of a batch.
        NumericalError: When a key is not finite; the message names layer and text. When, at the
            first look, products in float32 have lost too much for the null space that `until` asks
            about.
        ProcessError: Models, corpora or goals of the processes differ, or one ended.
    """
    wanted = sorted(set(layers))
    _check_settings(wanted, max_tokens, batch_tokens, sample, max_length)
    if precision not in (torch.float64, torch.float32):
        raise ConfigError(f"precision: expected float64 or float32, got {precision}")
    if model.model.training:
        raise ModelError("expected a model in evaluation mode (dropout off); call model.eval()")
    identity = model.identity()
    fingerprint = CorpusFingerprint()
    texts = _tokenise(model, corpus, fingerprint, _text_limit(model, max_length), max_tokens)
    halves = until is not None
    pool = KeyPool(model, wanted, sample, seed, halves=halves, products=precision)
    watch = None
    if until is not None:
        devices = {layer: with_float64(model.projection_device(layer)) for layer in wanted}
        watch = AngleWatch(until, model.structure.d_in, devices)
    layouts = enumerate(_layouts(model, texts, batch_tokens))
    seconds: dict[str, float] = {}

    def read_on() -> bool:
        """Add keys until it is time for a look; `False`: the corpus ends before that."""
        for number, (window, layout) in layouts:
            keys = None
            if processes.takes(number):
                with timed(seconds, "forward", profiler):
                    keys = _keys(model, layout, wanted)
            with (
                timed(seconds, "moments", profiler),
                _naming_text(model, window, layout, keys, wanted),
            ):
                pool.add(keys, _second_half(window, layout))
            for member in layout.members:
                pool.counts[window[member].language] += len(window[member].ids)
            if progress is not None:
                progress(pool.counts.total())
            if watch is not None and watch.is_due(pool.counts.total()):
                return True
        if not pool.counts:
            raise MomentsError(
                "corpus: expected at least one token, got none; check the files and the token "
                "budget"
            )
        return False

    def agree(more: bool) -> bool:
        found = (identity.weights_hash, fingerprint.hexdigest(), pool.counts, more, str(precision))
        processes.agree("model, corpus, goal and precision", found)
        return more

    angles: dict[int, NullSpaceAngle] = {}
    while agree(processes.together(read_on)) and watch is not None:
        with timed(seconds, "angle", profiler):
            if watch.look(pool.counts.total(), pool.both_halves(processes), processes):
                break
    if watch is not None:
        with timed(seconds, "angle", profiler):
            angles = watch.last(pool.counts.total(), lambda: pool.both_halves(processes), processes)
    return Moments(
        layers=pool.result(angles, processes), identity=identity, corpus=fingerprint.hexdigest()
    )


@dataclass(frozen=True)
class _Text:
    """Token ids of a text; `second` deals the texts of each language to two halves in turn."""

    language: str
    ids: list[int]
    second: bool


def _keys(model: EditableModel, layout: TokenLayout, layers: list[int]) -> list[Tensor]:
    """Keys `(tokens, d_in)` of the tokens of a rectangle in each of some layers.

    Where memory does not hold the rectangle its rows are halved.
    """
    names = [model.projection_name(layer) for layer in layers]

    def run(rows: list[int]) -> list[Tensor]:
        part = layout if len(rows) == len(layout.ids) else layout.of_rows(rows)
        recorder = Recorder(model.model, inputs=names, stop_before=names[-1])
        try:
            with torch.no_grad(), recorder:
                model.model(**part.inputs(model))
            return [_real_rows(recorder.inputs[name], part.mask) for name in names]
        except RuntimeError as error:
            if len(rows) > 1 or not ran_out_of_memory(error):
                raise
            raise MomentsError(
                f"memory: expected room for {part.ids.numel()} tokens at once, but the device has "
                "too little: lower batch_tokens (--batch-tokens), or cut texts (max_length)"
            ) from error

    rows = list(range(len(layout.ids)))
    width = layout.ids.shape[1]
    found = halve_on_oom(
        rows, run, limits=model.limits, kind="moments", size=lambda own: len(own) * width
    )
    parts = [keys for _, keys in found]
    return parts[0] if len(parts) == 1 else [torch.cat(own) for own in zip(*parts, strict=True)]


@contextmanager
def _naming_text(
    model: EditableModel,
    window: list[_Text],
    layout: TokenLayout,
    keys: list[Tensor] | None,
    layers: list[int],
) -> Iterator[None]:
    """Put layer and text in front of what is not finite."""
    try:
        yield
    except NumericalError as error:
        for number, layer in enumerate(layers if keys else ()):
            bad = _texts_of(layout, not_finite((keys or [])[number]))
            # Texts in one row spread such values to each other: only alone they tell whose it is.
            guilty = (i for i in bad if len(bad) == 1 or _spoils(model, window[i].ids, layer))
            if bad:
                own = window[next(guilty, bad[0])]
                text = shortened(str(model.tokenizer.decode(own.ids)))
                said = f"layer {layer}, {own.language} text {text!r}: {error}"
                raise NumericalError(said) from error
        raise


def _texts_of(layout: TokenLayout, tokens: list[int]) -> list[int]:
    """Numbers of the texts that some of a layout's tokens, counted without padding, belong to."""
    marked = torch.zeros(int(layout.mask.sum()), dtype=torch.bool)
    marked[tokens] = True
    place = torch.zeros(layout.ids.shape, dtype=torch.bool)
    place[layout.mask.bool()] = marked
    texts = zip(layout.members, layout.rows, layout.columns, strict=True)
    return [member for member, row, columns in texts if bool(place[row, list(columns)].any())]


def _spoils(model: EditableModel, ids: list[int], layer: int) -> bool:
    """Whether a text by itself has keys that are not finite."""
    (layout,) = lay_out(model, [ids], len(ids), share=False)
    return bool(not_finite(_keys(model, layout, [layer])[0]))


def _real_rows(keys: Tensor, mask: Tensor) -> Tensor:
    """Return the keys of tokens that are no padding, `(tokens, d_in)`.

    Most layers give their projection `(n, t, d_in)`, some (OPT) the same flattened.
    """
    return keys.flatten(0, -2)[mask.flatten().bool().to(keys.device)]


def _second_half(window: list[_Text], layout: TokenLayout) -> Tensor:
    """(tokens,) bool, which tokens of a layout are of texts of the second half."""
    second = torch.zeros(layout.ids.shape, dtype=torch.bool)
    for member, row, columns in zip(layout.members, layout.rows, layout.columns, strict=True):
        second[row, list(columns)] = window[member].second
    return second[layout.mask.bool()]


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
    bounds = [max_length, model.context, model.tokenizer.model_max_length]
    return min((bound for bound in bounds if bound is not None), default=None)


def _tokenise(
    model: EditableModel,
    corpus: Iterable[tuple[str, str]],
    fingerprint: CorpusFingerprint,
    limit: int | None,
    max_tokens: int | None,
) -> Iterator[_Text]:
    """Yield the texts that are used, and count those into the fingerprint."""
    left = max_tokens
    seen: Counter[str] = Counter()
    for language, text in corpus:
        ids = list(model.tokenizer(text, verbose=False)["input_ids"])[:limit]
        if left is not None:
            ids = ids[:left]
            left -= len(ids)
        if ids:
            fingerprint.add(language, text)
            yield _Text(language, ids, bool(seen[language] % 2))
            seen[language] += 1
        if left == 0:
            return


def _layouts(
    model: EditableModel, texts: Iterator[_Text], batch_tokens: int
) -> Iterator[tuple[list[_Text], TokenLayout]]:
    """Cut the stream into windows, and each into rectangles without waste: window, rectangle."""
    while window := _take_window(texts, _WINDOW * batch_tokens):
        sequences = [text.ids for text in window]
        for layout in lay_out(model, sequences, batch_tokens, share=False):
            yield window, layout


def _take_window(texts: Iterator[_Text], tokens: int) -> list[_Text]:
    window: list[_Text] = []
    while tokens > 0:
        taken = list(islice(texts, 1))
        if not taken:
            break
        window += taken
        tokens -= len(taken[0].ids)
    return window
