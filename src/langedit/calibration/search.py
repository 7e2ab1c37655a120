"""A small search: the start, what the evidence suggests, then settings near the best and at random.

What is tried at a number follows from the seed, the number, and the trials before it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langedit.calibration.bench import Trial
from langedit.calibration.layer_facts import NULL_SHARES, LayerStatistics, Reach, learning_rate
from langedit.compare.ranges import Range
from langedit.compare.reading import overlay
from langedit.editing import EditConfig, find_method, method_names
from langedit.errors import ConfigError

_EVERY = 3
"""Of so many trials after the first two, one is drawn at random, the others near the best one."""

_SUGGESTED: Mapping[str, float] = {"corpus_weight": 100.0, "moment_weight": 100.0}
"""Weights of the corpus in units of one edit's key, which no evidence beside the search tells."""

LONGEST = 6
"""Layers that are edited at most, as in the published settings."""

_NEAR = 0.15
"""Layers that reach so much fewer targets than the best one are not the last edited layer."""

_PROJECTED: Mapping[str, Range] = {
    "null_share": Range(low=0.3, high=0.97),
    "relative_ridge": Range(low=0.002, high=1.0, log=True),
    "corpus_weight": Range(low=1.0, high=5000.0, log=True),
}
_WEIGHED: Mapping[str, Range] = {"moment_weight": Range(low=10.0, high=20_000.0, log=True)}
_COMMON: Mapping[str, Range] = {
    "norm_clamp": Range(low=0.4, high=2.0, log=True),
    "stride": Range(low=0.03, high=0.5, log=True),
}
_WEIGHED_METHODS = ("memit", "memit-seq", "rect", "prune")


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be tried.

    Attributes:
        ranges: setting -> its values; `stride` stands for the learning rate.
        lengths: mean length of the hidden states of each layer.
        d_model: their width.
    """

    ranges: Mapping[str, Range]
    lengths: tuple[float, ...]
    d_model: int

    def point(self, config: EditConfig) -> dict[str, Any]:
        """The values of settings in this space."""
        length = self.lengths[config.layers[-1]]
        stride = config.value_lr * math.sqrt(self.d_model) / length
        return {n: stride if n == "stride" else getattr(config, n) for n in self.ranges}

    def settings(self, point: Mapping[str, Any], base: EditConfig) -> EditConfig:
        """Settings with the values of a point, and everything else as in `base`."""
        changes = {n: own for n, own in point.items() if n != "stride" and own is not None}
        length = self.lengths[point["layers"][-1]]
        changes["value_lr"] = learning_rate(point["stride"], length, self.d_model)
        return EditConfig(**overlay(base.model_dump(exclude_none=True), changes))

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """A point anywhere."""
        return {name: own.draw(rng) for name, own in self.ranges.items()}

    def near(self, point: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """A point that differs in one to three values, intervals by a sixth of their width."""
        chosen = rng.sample(sorted(self.ranges), min(rng.choice((1, 2, 3)), len(self.ranges)))
        moved = {name: _moved(self.ranges[name], point[name], rng) for name in chosen}
        return {**point, **moved}


def make_space(method: str, layers: Sequence[int], found: Reach, d_model: int) -> Space:
    """What is tried of a method on a model.

    The last edited layer is one at which nearly as many targets are reached as at the best one; up
    to `LONGEST` layers end with it.

    Args:
        method: registered name.
        layers: those that have second moments.
        found: reachability of all layers.
        d_model: width of the hidden states.

    Raises:
        ConfigError: nothing is known to try of the method.
    """
    own = require_searchable(method)
    windows = layer_windows(layers, found.best())
    return Space(
        ranges={"layers": Range(values=windows), **own, **_COMMON},
        lengths=found.lengths,
        d_model=d_model,
    )


def require_searchable(method: str) -> Mapping[str, Range]:
    """What is tried of a method alone.

    Raises:
        ConfigError: nothing is known to try of it.
    """
    if method in _WEIGHED_METHODS:
        return _WEIGHED
    if method in method_names() and find_method(method).needs_null_space:
        return _PROJECTED
    raise ConfigError(
        f"method: expected langedit, alphaedit, {', '.join(_WEIGHED_METHODS)} or a plug-in with a "
        f"null space, got {method}: nothing is known to try of it"
    )


def layer_windows(layers: Sequence[int], reached: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Runs of neighbouring layers that end where targets are reached."""
    most = max(reached[layer] for layer in layers)
    windows = []
    for last in sorted(layers):
        if reached[last] < most - _NEAR:
            continue
        for first in range(last, last - LONGEST, -1):
            if first not in layers:
                break
            windows.append(tuple(range(first, last + 1)))
    return tuple(windows)


def search(
    space: Space,
    start: EditConfig,
    suggested: Mapping[str, Any],
    run: Callable[[EditConfig], Trial],
    goes_on: Callable[[Sequence[Trial]], bool],
    *,
    seed: int = 0,
) -> list[Trial]:
    """Try the start, the suggestion, and then others for as long as the search goes on.

    Args:
        space: what may be tried.
        start: settings of the first trial, and of everything that is not in the space.
        suggested: a point of the space to try first.
        run: makes a trial of settings.
        goes_on: asked before each trial but the first, with those so far.
        seed: of what is tried.
    """
    trials = [run(start)]
    while goes_on(trials):
        number = len(trials)
        rng = random.Random(f"calibrate-{seed}-{number}")
        if number == 1:
            point = dict(suggested)
        elif number % _EVERY == 0:
            point = space.draw(rng)
        else:
            point = space.near(space.point(best_trial(trials).config), rng)
        trials.append(run(space.settings(point, start)))
    return trials


def suggest(
    space: Space,
    start: EditConfig,
    found: Reach,
    statistics: Mapping[int, LayerStatistics],
    peak: int | None,
) -> dict[str, Any]:
    """The point that the evidence suggests.

    Layers: from the one whose MLP tells most at the last subject token to the last one at which
    targets are reached, or to the next if that comes before it. The share of null directions: the
    one that keeps most of a subject's key and least of the corpus's.

    Args:
        space: what may be tried.
        start: for everything that the evidence says nothing of.
        found: reachability.
        statistics: layer -> statistics of its keys.
        peak: layer of the largest indirect effect; `None` if nothing was traced.
    """
    windows = space.ranges["layers"].values
    wanted = start.layers[0] if peak is None else peak
    layers = min(windows, key=lambda own: (abs(own[0] - wanted), -own[-1]))
    point = {**space.point(start), "layers": layers, "stride": found.stride(layers[-1])}
    point |= {name: value for name, value in _SUGGESTED.items() if name in space.ranges}
    if "null_share" in space.ranges:
        own = [statistics[layer] for layer in layers]
        point["null_share"] = max(
            NULL_SHARES,
            key=lambda share: sum(one.left[share] - one.corpus_left[share] for one in own),
        )
    return point


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest objective; the first of equals."""
    return max(trials, key=lambda trial: trial.objective)


def _moved(own: Range, value: Any, rng: random.Random) -> Any:
    """A value near another; one of a list, or outside of the interval, is drawn anew."""
    if own.values:
        return rng.choice([other for other in own.values if other != value] or list(own.values))
    low, high = float(own.low or 0.0), float(own.high or 0.0)
    if value is None or not low <= value <= high:
        return own.draw(rng)
    if own.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    moved = min(high, max(low, value + rng.gauss(0.0, (high - low) / 6)))
    return float(f"{math.exp(moved) if own.log else moved:.4g}")
