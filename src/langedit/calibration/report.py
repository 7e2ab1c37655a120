"""Write a calibration: settings, a report in Markdown, its figures, and all numbers as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from langedit.calibration.effects import CONFIDENCE, ROLES
from langedit.calibration.evidence import ALL, DRAWS
from langedit.calibration.figures import draw_figures
from langedit.calibration.layer_facts import NULL_SHARES, STRIDES
from langedit.calibration.run import Calibration
from langedit.calibration.search import best_trial
from langedit.calibration.settings_file import (
    changed_settings,
    comparisons,
    length_of_streams,
    percent_interval,
    settings_text,
)
from langedit.calibration.tracing import SITE_NAMES, SITES
from langedit.compare.figures_of import MEAN
from langedit.compare.files import write_json, write_text
from langedit.compare.markdown import heading, link, table
from langedit.editing.finite import first_names
from langedit.editing.toml import toml_value
from langedit.reporting import percent

SETTINGS, REPORT, NUMBERS = "settings.toml", "report.md", "calibration.json"


def write_calibration(calibration: Calibration, folder: Path, command: str) -> None:
    """Write everything into a folder that is there.

    Raises:
        OutputError: a file cannot be written.
    """
    draw_figures(calibration, folder)
    write_text(folder / SETTINGS, settings_text(calibration, command))
    parts = [
        heading(1, "Calibration"),
        f"`{command}`",
        *_confirmation(calibration),
        *_tracing(calibration, folder),
        *_reach(calibration, folder),
        *_statistics(calibration, folder),
        *_search(calibration, folder),
    ]
    write_text(folder / REPORT, "\n\n".join(parts) + "\n")
    write_json(folder / NUMBERS, numbers(calibration))


def numbers(calibration: Calibration) -> dict[str, Any]:
    """All figures as JSON-able values; shares in [0, 1]."""
    evidence = calibration.evidence
    return {
        "facts": {
            part: [fact.id or fact.text for fact in getattr(calibration.parts, part)]
            for part in ("probe", "search", "confirm")
        },
        "effects": {
            language: {
                "facts": own.facts,
                "asked": own.asked,
                "clean": own.clean,
                "corrupted": own.corrupted,
                **{site: own.indirect[site].tolist() for site in SITES},
            }
            for language, own in evidence.effects.items()
        },
        "roles": ROLES,
        "noise": evidence.noise,
        "strides": STRIDES,
        "reached": {
            language or ALL: evidence.reach.shares(language).tolist()
            for language in (None, *dict.fromkeys(evidence.reach.languages))
        },
        "not_finite": evidence.reach.overflowing,
        "hidden_lengths": evidence.reach.lengths,
        "layers": {
            str(layer): {
                name: getattr(own, name)
                for name in ("key_length", "corpus_length", "cosine", "rank", "thresholds",
                             "left", "corpus_left")
            }
            for layer, own in evidence.statistics.items()
        },
        "trials": [
            {
                "settings": changed_settings(own.config),
                "scores": own.scores,
                "error": own.error,
                "seconds": own.seconds,
            }
            for own in calibration.trials
        ],
        "confirmed": {
            name: {
                "settings": changed_settings(own.trial.config),
                "scores": own.trial.scores,
                "chosen_minus_this": {n: asdict(value) for n, value in own.leads.items()},
            }
            for name, own in calibration.confirmed.items()
        },
        "start_kept": calibration.kept,
        "seconds": dict(calibration.seconds),
        **({} if calibration.profile is None else {"profile": calibration.profile}),
    }  # fmt: skip


def _confirmation(calibration: Calibration) -> list[str]:
    names = list(dict.fromkeys(n for own in calibration.confirmed.values() for n in own.intervals))
    rows = []
    for name, own in calibration.confirmed.items():
        cells = [
            percent_interval(own.intervals[score]) if score in own.intervals else "–"
            for score in names
        ]
        changes = [
            percent_interval(those[MEAN], signed=True) if MEAN in those else "–"
            for those in (own.gains, own.leads)
        ]
        if own.trial.error is not None:
            changes[0] = f"failed: {own.trial.error}"
        rows.append([name, *cells, *changes])
    verdict = (
        "What was found is no better than the start on these facts: **the start is kept**."
        if calibration.kept
        else f"The settings found are in [{SETTINGS}]({SETTINGS})."
    )
    seconds = ", ".join(f"{name} {own:.0f} s" for name, own in calibration.seconds.items())
    return [
        heading(2, "What was found"),
        f"The search began with {calibration.plan.start.origin}. Scores in percent on "
        f"{len(calibration.parts.confirm)} facts that nothing else has seen, after the last batch, "
        "with 95 % bootstrap intervals over facts; `first_batch` is the efficacy of the facts of "
        f"the first batch, `{MEAN}` the mean of the others, on which settings are chosen.",
        table(
            ["settings", *names, f"{MEAN} from the start", f"{MEAN} of the chosen minus this"], rows
        ),
        " ".join([verdict, *comparisons(calibration), length_of_streams(calibration)]),
        "```toml\n" + "\n".join(
            f"{name} = {toml_value(value)}"
            for name, value in changed_settings(calibration.chosen).items()
        ) + "\n```",
        f"Time: {seconds}.",
    ]  # fmt: skip


def _tracing(calibration: Calibration, folder: Path) -> list[str]:
    evidence = calibration.evidence
    silent = [code for code in evidence.asked if code not in evidence.effects]
    parts = [heading(2, "Causal tracing")]
    unseen = {fact.language for fact in calibration.parts.probe} - set(evidence.asked)
    if unseen:
        parts.append(f"Not traced, for want of time: {', '.join(sorted(unseen))}.")
    if silent:
        parts.append(
            f"Not traced: {', '.join(silent)}. Of the facts looked at in these languages the model "
            f"answers none with a probability of {CONFIDENCE} (and, where it is told, with the "
            "old answer)."
        )
    if not evidence.effects:
        return parts
    parts.append(
        f"The embeddings of the subject are corrupted with noise of standard deviation "
        f"{evidence.noise:.3g} (three times that of the embeddings), {DRAWS} draws a fact, and "
        "the clean state of one layer is put back at some tokens: the indirect effect is what that "
        "gives back of the answer's probability, in points."
    )
    rows = [
        [name, f"{own.facts} of {own.asked}", percent(own.clean), percent(own.corrupted),
         f"{100 * own.total:.1f}", "–" if own.peak is None else str(own.peak)]
        for name, own in evidence.effects.items()
    ]  # fmt: skip
    heads = ["language", "facts traced", "clean (%)", "corrupted (%)", "total effect",
             "layer with the largest effect of the MLP at the last subject token"]  # fmt: skip
    parts.append(table(heads, rows))
    parts += [
        link(folder / f"tracing-{site}.png", folder, f"Effects of restoring {SITE_NAMES[site]}")
        for site in SITES
    ]
    return parts


def _reach(calibration: Calibration, folder: Path) -> list[str]:
    found = calibration.evidence.reach
    codes = list(dict.fromkeys(found.languages))
    every = found.shares()
    rows = [
        [
            str(layer),
            f"{found.lengths[layer]:.3g}",
            *(percent(float(share)) for share in every[:, layer]),
            *(percent(found.best(code)[layer]) for code in codes),
        ]
        for layer in range(len(found.lengths))
    ]
    heads = ["layer", "length of the hidden state", *(f"step {stride}" for stride in STRIDES)]
    bad = found.overflowing
    overflow = (
        f" Of these facts, {len(bad)} had a loss or target that was not finite at some layer and "
        f"step, where they count as not reached: {first_names(bad)}."
        if bad
        else ""
    )
    return [
        heading(2, "Targets"),
        f"Share of {len(found.languages)} facts, in percent, whose target becomes more probable "
        "than everything else when the output of one layer is changed: by the length of Adam's "
        "first step, relative to the hidden state; and by language with the step that is best."
        + overflow,
        table([*heads, *codes], rows),
        link(folder / "reachability.png", folder, "Targets reached by layer"),
    ]


def _statistics(calibration: Calibration, folder: Path) -> list[str]:
    rows = [
        [
            str(layer), f"{own.key_length:.3g}", f"{own.corpus_length:.3g}", f"{own.cosine:.2f}",
            f"{own.rank:.0f} of {len(own.spectrum)}",
            *(f"{own.thresholds[share]:.2g}" for share in NULL_SHARES),
            *(f"{100 * own.left[share]:.0f} / {100 * own.corpus_left[share]:.2g}"
              for share in NULL_SHARES),
        ]
        for layer, own in calibration.evidence.statistics.items()
    ]  # fmt: skip
    heads = ["layer", "length of a subject's key", "of a corpus key", "cosine of subjects",
             "effective rank", *(f"τ at {share}" for share in NULL_SHARES),
             *(f"left at {share} (%)" for share in NULL_SHARES)]  # fmt: skip
    return [
        heading(2, "Keys"),
        "Keys of the subjects beside those of the corpus. τ is the eigenvalue that cuts off a "
        "share of null directions; left is what these hold of a subject's key and of a corpus key, "
        "by squared length. The higher the first and the lower the second, the better.",
        table(heads, rows),
        link(folder / "spectra.png", folder, "Spectra of the second moments"),
    ]


def _search(calibration: Calibration, folder: Path) -> list[str]:
    order = sorted(enumerate(calibration.trials), key=lambda pair: -pair[1].objective)
    names = list(best_trial(calibration.trials).scores)
    tried = [name if name != "stride" else "value_lr" for name in calibration.space.ranges]
    rows = []
    for number, own in order:
        values = [getattr(own.config, name) for name in tried]
        shown = ["–" if v is None else toml_value(v) for v in values]
        scores = [percent(own.scores.get(name)) for name in names]
        rows.append([str(number) if number else "start", *shown, *scores])
    errors = [(number, own.error) for number, own in enumerate(calibration.trials) if own.error]
    drawn = [link(folder / "search.png", folder, "Runs of the search")] if names else []
    return [
        heading(2, "Search"),
        f"{len(calibration.trials)} runs on {len(calibration.parts.search)} facts, of which "
        f"{len(errors)} failed; best first, scores in percent.",
        *drawn,
        table(["run", *tried, *names], rows),
        *(f"Run {number or 'start'} failed: {error}" for number, error in errors),
    ]
