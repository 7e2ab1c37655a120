"""The settings found, as TOML with the evidence for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langedit.calibration.effects import LAST_SUBJECT
from langedit.calibration.evidence import ALL
from langedit.calibration.layer_facts import NULL_SHARES
from langedit.calibration.run import Calibration
from langedit.compare.figures_of import MEAN
from langedit.editing import EditConfig
from langedit.editing.toml import to_toml, toml_value
from langedit.evaluation import Interval

_TOLD = (
    "projection",
    "norm_clamp",
    "value_steps",
    "value_lr",
    "kl_weight",
    "value_weight_decay",
    "prefix_count",
    "prefix_length",
)
"""Settings that the file has even where they are as by default."""


def settings_text(calibration: Calibration, command: str) -> str:
    """A TOML document that `EditConfig.from_toml` reads back to the chosen settings."""
    config = calibration.chosen
    values = _told(config)
    evidence = _evidence(calibration, config)
    unsearched = f"From {calibration.plan.start.origin}, not searched."
    lines = [f"# {line}" for line in _heading(calibration, command)]
    for name, value in values.items():
        if isinstance(value, Mapping):
            continue
        lines += ["", *(f"# {line}" for line in evidence.get(name) or [unsearched])]
        lines.append(f"{name} = {toml_value(value)}")
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    return "\n".join(lines) + "\n" + (to_toml(tables) if tables else "")


def changed_settings(config: EditConfig) -> dict[str, Any]:
    """The settings that are not as by default, with the layers and the method."""
    values = config.model_dump(mode="json", exclude_none=True)
    default = EditConfig(layers=(0,), null_share=0.5).model_dump(mode="json")
    always = ("method", "layers", "null_share")
    return {n: v for n, v in values.items() if n in always or v != default.get(n)}


def percent_interval(interval: Interval, *, signed: bool = False) -> str:
    """Mean and ends in percent."""
    form = "+.1f" if signed else ".1f"
    mean, low, high = (format(100 * v, form) for v in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def comparisons(calibration: Calibration) -> list[str]:
    """For each of the settings compared against, a sentence that says which are better."""
    lines = []
    for name in calibration.plan.against:
        lead = calibration.confirmed[name].leads.get(MEAN)
        if lead is None:
            lines.append(f"Nothing can be said against {name}: one of the two runs failed.")
            continue
        if lead.low > 0:
            verdict = f"The chosen settings are better than {name}"
        elif lead.high < 0:
            verdict = f"{name} is better than the chosen settings"
        else:
            verdict = f"The chosen settings and {name} cannot be told apart"
        told = percent_interval(lead, signed=True)
        lines.append(f"{verdict}: chosen minus {name} is {told} points of {MEAN}.")
    return lines


def _told(config: EditConfig) -> dict[str, Any]:
    """What the file says: settings that matter most, and what is not as by default."""
    values = config.model_dump(mode="json", exclude_none=True)
    changed = changed_settings(config)
    return {name: value for name, value in values.items() if name in changed or name in _TOLD}


def _heading(calibration: Calibration, command: str) -> list[str]:
    start = calibration.plan.start
    runs = len(calibration.trials)
    lines = [
        f"Written by `{command}`; report.md beside it has the evidence.",
        f"The search began with {start.origin}; "
        f"{runs} runs on {len(calibration.parts.search)} facts.",
    ]
    confirmed = calibration.confirmed
    own = confirmed["start" if calibration.kept else "found"].intervals.get(MEAN)
    facts = len(calibration.parts.confirm)
    if own is not None:
        lines.append(
            f"On {facts} facts held apart, the mean of the scores is {percent_interval(own)} %, "
            "with 95 % intervals;"
        )
    if calibration.kept:
        lines.append("nothing that was found is better than the start there, so the start is kept.")
    elif MEAN in confirmed["found"].gains:
        gain = percent_interval(confirmed["found"].gains[MEAN], signed=True)
        lines.append(f"that is {gain} points from the start.")
    return [*lines, *comparisons(calibration), length_of_streams(calibration)]


def length_of_streams(calibration: Calibration) -> str:
    """For how many edits the settings are."""
    count = len(calibration.parts.search)
    return (
        f"They are for streams of about {count} edits, as many as the search made: "
        "for longer ones calibrate with more facts."
    )


def _evidence(calibration: Calibration, config: EditConfig) -> dict[str, list[str]]:
    """Setting -> lines of comment."""
    found = calibration.evidence.reach
    last = config.layers[-1]
    reached = ", ".join(f"{100 * share:.0f}" for share in found.best())
    layers = [f"Targets reached at layers 0 to {len(found.lengths) - 1}: {reached} %."]
    if ALL in calibration.evidence.effects:
        effect = calibration.evidence.effects[ALL]
        told = f"Tracing {effect.facts} facts: all their prompts end with the subject, which tells "
        told += "nothing of layers."
        if effect.peak is not None:
            most = float(effect.indirect["mlp"][effect.peak, LAST_SUBJECT])
            told = (
                f"Tracing {effect.facts} facts: at the last subject token the MLP of layer "
                f"{effect.peak} has the largest indirect effect, "
                f"{100 * most:.0f} of {100 * effect.total:.0f} points."
            )
        layers.insert(0, told)
    stride = calibration.space.point(config)["stride"]
    searched = _spread(calibration)
    return {
        "layers": layers,
        "null_share": [_null_line(calibration, config)] if config.null_share else [],
        "relative_ridge": searched("relative_ridge"),
        "corpus_weight": searched("corpus_weight"),
        "moment_weight": searched("moment_weight"),
        "norm_clamp": searched("norm_clamp"),
        "value_lr": [
            f"Adam's first step is {stride:.2f} of the hidden state's length, "
            f"{found.lengths[last]:.3g} at layer {last}."
        ],
    }


def _spread(calibration: Calibration) -> Any:
    """Of a setting, its values in the five best runs of the search."""
    best = sorted(calibration.trials, key=lambda trial: -trial.objective)[:5]

    def line(name: str) -> list[str]:
        if name not in calibration.space.ranges:
            return []
        values = [getattr(trial.config, name) for trial in best]
        shown = ", ".join("none" if value is None else f"{value:g}" for value in values)
        return [f"In the best runs of the search, best first: {shown}."]

    return line


def _null_line(calibration: Calibration, config: EditConfig) -> str:
    share = min(NULL_SHARES, key=lambda own: abs(own - (config.null_share or 0.0)))
    parts = [
        f"layer {layer}: {100 * own.left[share]:.0f} and {100 * own.corpus_left[share]:.2g} %"
        for layer, own in calibration.evidence.statistics.items()
        if layer in config.layers
    ]
    return f"What {share} leaves of a subject's key and of a corpus key: {'; '.join(parts)}."
