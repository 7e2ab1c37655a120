"""Parts of a report that say where its figures are from: runs, settings, tuning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from langedit.compare.config import OWN, CompareConfig
from langedit.compare.figures_of import definitions_of
from langedit.compare.grid import Outcome
from langedit.compare.markdown import details, heading, table
from langedit.compare.reading import read_toml
from langedit.editing import EditConfig

_ALWAYS = {"method", "layers"}


def origin(outcomes: Sequence[Outcome], command: str) -> str:
    """Models, data, versions and machines of the finished cells."""
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    models = {
        f"{r['model']['name']} (weights `{r['model']['weights_hash'][:12]}`)" for r in records
    }
    data = {
        f"{r['dataset']}, seed {r['seed']}: {r['data']['facts']} facts in {r['data']['batches']} "
        f"batches (`{r['data']['fingerprint'][:12]}`)"
        for r in records
    }
    subjects = {
        f"{r['dataset']}: {_subjects(found)}"
        for r in records
        if (found := r["data"].get("subjects"))
    }
    machines = {
        f"{r['hardware']['processor']}, {r['hardware']['threads']} threads"
        + "".join(f", {gpu}" for gpu in r["hardware"]["gpus"])
        for r in records
    }
    versions = {", ".join(f"{name} {v}" for name, v in r["versions"].items()) for r in records}
    code = Counter(r["code"][:12] for r in records)
    lines = [
        f"Written by `{command}` from its own results: {len(records)} of {len(outcomes)} runs.",
        *(f"- model: {text}" for text in sorted(models)),
        *(f"- data: {text}" for text in sorted(data)),
        *(f"- subjects in their questions, {text}" for text in sorted(subjects)),
        *(f"- machine: {text}" for text in sorted(machines)),
        *(f"- versions: {text}" for text in sorted(versions)),
        f"- source code: {', '.join(f'`{digest}` ({n} runs)' for digest, n in code.items())}",
    ]
    if len(code) > 1:
        lines.append("")
        lines.append(
            "**The runs were made by different states of the source code.** Remove the folder of "
            "results and run again for figures of one state."
        )
    return "\n".join([lines[0], "", *lines[1:]])


def _subjects(found: Mapping[str, Mapping[str, int]]) -> str:
    """How subjects were found in the source, by language."""
    return "; ".join(
        f"{code} {', '.join(f'{count} {way}' for way, count in own.items())}"
        for code, own in found.items()
    )


def failures(outcomes: Sequence[Outcome]) -> str:
    """Cells that failed, with their errors."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return ""
    lines = [f"- {outcome.cell.name}: {outcome.error}" for outcome in failed]
    return "\n".join([heading(2, "Runs that failed"), "", *lines])


def definitions_section(config: CompareConfig) -> str:
    """What the figures mean."""
    rows = [[f"`{name}`", text] for name, text in definitions_of(config.metrics).items()]
    shown = table(["figure", "meaning"], rows, figures=False)
    return "\n\n".join([heading(2, "What the figures mean"), shown])


def settings_section(config: CompareConfig, outcomes: Sequence[Outcome]) -> str:
    """Settings of every method that are not the defaults, and how they were chosen."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        if cell.settings is not None:
            own = _not_default(cell.settings)
            if cell.prefixes_in != OWN:
                own["prefix_language"] = cell.prefixes_in
            found.setdefault((cell.model, cell.method), own)
    common = _common(list(found.values()))
    rows = [
        [
            name,
            model,
            _written({k: v for k, v in own.items() if k not in common}),
            _chosen(config, name),
        ]
        for (model, name), own in found.items()
    ]
    text = f"All methods: {_written(common)}. Everything else is the default of docs/config.md."
    heads = ["method", "model", "settings", "how chosen"]
    return "\n\n".join([heading(2, "Settings"), text, table(heads, rows)])


def trials_section(config: CompareConfig) -> str:
    """All runs of the tuning that the settings come from."""
    if config.chosen is None:
        return ""
    found = read_toml(config.folder / config.chosen)
    tried = found.get("trials", ())
    if not tried:
        return f"{heading(2, 'How settings were tuned')}\n\n`{config.chosen}` lists no runs."
    rows = [
        [
            trial["method"],
            str(trial["trial"]),
            "final" if trial.get("final") else "first",
            _share(trial.get("objective")),
            _written(trial["settings"]) or "as declared",
        ]
        for trial in tried
    ]
    first = [trial["method"] for trial in tried if not trial.get("final")]
    last = [trial["method"] for trial in tried if trial.get("final")]
    text = (
        f"In the first round {_runs(first)} on facts whose subjects are in no evaluation: "
        f"`{found.get('command', '')}`. Objective: mean of efficacy, generalization, specificity "
        "and first batch, in percent."
    )
    if last:
        text += f" A final on longer streams decided: {_runs(last)}, with the best of the first."
    trials = table(["method", "trial", "round", "objective", "settings"], rows)
    return "\n\n".join([heading(2, "How settings were tuned"), text, details("All runs", trials)])


def _runs(methods: Sequence[str]) -> str:
    """How many trials each of some methods had, given the method of each trial."""
    counts = Counter(methods)
    same = set(counts.values())
    if len(same) == 1:
        count = same.pop()
        return f"every method had {count} {'run' if count == 1 else 'runs'}"
    return "runs by method: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _not_default(settings: EditConfig) -> dict[str, Any]:
    values = settings.model_dump(mode="json", exclude_none=True)
    defaults = {name: field.get_default(call_default_factory=True)
                for name, field in type(settings).model_fields.items()}  # fmt: skip
    return {
        name: value for name, value in values.items() if name in _ALWAYS or value != defaults[name]
    }


def _common(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = found[0] if found else {}
    return {
        name: value
        for name, value in first.items()
        if name != "method" and all(own.get(name) == value for own in found)
    }


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{name}` = {json.dumps(v, ensure_ascii=False)}" for name, v in settings.items()
    )


def _chosen(config: CompareConfig, label: str) -> str:
    for name in reversed(config.chain(label)):
        text = config.entry(name).chosen
        if text is not None:
            return text if name == label else f"as {name}: {text}"
    return "as declared in the comparison"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
