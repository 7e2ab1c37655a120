"""docs/performance.md and its figures, from the files that the benchmarks wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]


def write_page(results: Path, docs: Path) -> None:
    """Write the page with a section for every part that was run, and name those that were not."""
    docs.mkdir(parents=True, exist_ok=True)
    sections, missing = [], []
    for name, section in SECTIONS.items():
        file = results / f"{name}.json"
        if not file.is_file():
            missing.append(name)
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        sections.append("\n".join([*section(found, docs), "", _machine(found)]))
    head = [
        "# Performance",
        "",
        "Written by `python -m benchmarks` from its own measurements; do not edit by hand.",
        "The baseline is `benchmarks/baseline/`, as the published code does it: one fact at a",
        "time, the whole model with all logits twice at each step, a full singular value",
        "decomposition per layer and batch, dense solves. Its results are required to be the",
        "editor's, within the tolerances stated below; what only that comparison needs is in no",
        "time. The baseline and the eigendecomposition are measured up to a width of 4096: beyond",
        "it they take minutes a layer.",
    ]
    if missing:
        head += ["", f"Not measured yet: {', '.join(missing)}."]
    text = "\n".join(head) + "\n\n" + "\n\n".join(sections) + "\n"
    (docs / "performance.md").write_text(text, encoding="utf-8")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _goals(*goals: tuple[str, str, str, bool]) -> list[str]:
    """A table of goals: what, the goal, what was measured, and whether that meets it."""
    rows = [(what, goal, seen, "met" if met else "missed") for what, goal, seen, met in goals]
    return table(("goal", "", "measured", ""), rows)


def _machine(found: Figures) -> str:
    own = found["machine"]
    load = own.get("load_before")
    busy = "" if load is None else f" (load average before: {load:.1f} on {own['cores']} cores)"
    return (
        f"*{own['processor']}, {own['threads']} threads{busy}, torch {own['torch']}, "
        f"{own['date']}; "
        f"{found['minutes']:.1f} minutes.*"
    )


def _stages(found: Figures) -> list[str]:
    """The table of stages, and the goal."""
    rows = [
        (stage, f"{own['baseline']:.1f}", f"{own['langedit']:.2f}", f"{own['ratio']:.1f}")
        for stage, own in found["stages"].items()
    ]
    whole = found["stages"]["whole batches"]["ratio"]
    return [
        *table(("stage", "baseline, s", "langedit, s", "ratio"), rows),
        "",
        *_goals(("whole batches, times faster", "≥ 20", f"{whole:.1f}", whole >= 20)),
    ]


def _one_thread(found: Figures, _docs: Path) -> list[str]:
    return [
        "## The same with one thread",
        "",
        *_stages(found),
    ]


def _end_to_end(found: Figures, _docs: Path) -> list[str]:
    opened, scores, gflop = found["open_seconds"], found["scores"], found["target_gflop"]
    rate = found["stages"]["targets"]["ratio"] * gflop["langedit"] / gflop["baseline"]
    efficacy = {name: 100 * own["efficacy"] for name, own in scores.items()}
    costs = [
        (name, f"{own['seconds']:.2f}", f"{own['flops'] / 1e9:,.1f}")
        for name, own in found["profile"].items()
    ]
    limits, chaos = found["tolerances"], found["chaos"]
    differences = [
        (name, f"{value:.1e}", f"{limits[name]:.0e}")
        for name, value in found["differences"].items()
    ]
    return [
        f"## {found['facts']} facts in {found['batches']} batches on the bundled model",
        "",
        *_stages(found),
        "",
        "Whole batches are wall-clock time around each call. Opening includes loading the model",
        "and the decomposition of each layer's second moment, which both ways need once for a",
        f"model; the editor opens in {opened['with_kept_spectra']:.1f} s when it is kept beside",
        "the moments. Scores: the answers of the paper's three scores for all facts. Second",
        f"moments: all edited layers, {found['texts']} texts; langedit multiplies and sums in",
        "float64, or multiplies in float32 where it is asked to (`stats --precision float32`); the",
        "baseline does all in float32, as the published code does. Of this model, whose MLPs are",
        "13 times as wide as the rest, products of keys are most of the work, and the passes that",
        "are saved are the lesser part.",
        "",
        *table(("largest difference of results", "", "tolerance"), differences),
        "",
        "Differences are relative, those of log-probabilities absolute, over all batches. Targets",
        "are compared by their median, since a trajectory of Adam can be chaotic: the largest",
        f"difference in the first batch is {chaos['largest']:.1e}, where the baseline on weights",
        f"changed by 1e-7 differs from itself by {chaos['baseline_on_changed_weights']:.1e}.",
        "Efficacy after all batches:",
        f"{efficacy['langedit']:.1f} % against {efficacy['baseline']:.1f} %.",
        "",
        f"An evaluation of one fact's target loss with its gradient takes {gflop['langedit']:.2f}",
        f"GFLOP against {gflop['baseline']:.2f}: {gflop['baseline'] / gflop['langedit']:.1f} times",
        "fewer, which bounds the ratio of the targets, and with it that of whole batches, unless",
        "these are done at a higher rate. The ratio of the targets' times says at which part of",
        f"the baseline's rate they are done: {100 * rate:.0f} %. Small pieces lose time beside",
        "their products.",
        "",
        "Operations of the first batch, counted with `--profile` (the counting itself takes time):",
        "",
        *table(("stage", "s", "GFLOP"), costs),
    ]


def _linalg(found: Figures, docs: Path) -> list[str]:
    ours, theirs = found["langedit_seconds"], found["baseline_seconds"]
    weighed = found["corpus_weight_seconds"]
    curves = {"langedit": ours, "langedit, corpus_weight": weighed, "baseline": theirs}
    _plot(
        docs / "performance-stream.png",
        "batch",
        "seconds a batch",
        {name: (range(1, len(own) + 1), own) for name, own in curves.items()},
        logarithmic=(False, True),
    )
    held = found["held_bytes"]
    kinds = {
        "langedit": "langedit",
        "corpus_weight": "langedit, corpus_weight",
        "dense": "three dense stacks",
    }
    _plot(
        docs / "performance-memory.png",
        "edits",
        "MiB held between batches",
        {
            name: ([own["edits"] for own in held], [own[kind] / 2**20 for own in held])
            for kind, name in kinds.items()
        },
        logarithmic=(False, False),
    )
    rows = [
        (own["edits"], *(f"{own[kind] / 2**20:.0f}" for kind in kinds))
        for own in (held[0], held[len(held) // 2], held[-1])
    ]
    ratio, growth, last = found["ratio"], found["last_to_second"], found["batches"]
    return [
        f"## Linear algebra alone, d_in {found['d_in']}, {found['facts']} facts a batch, "
        f"{found['batches']} batches",
        "",
        f"{sum(ours):.3g} s for the stream against {sum(theirs):.3g} s:",
        f"**{ratio:.0f} ×**. With the decomposition of the corpus's moment that both need once",
        f"({found['decomposition_seconds']:.3g} s, kept beside the moments, against",
        f"{found['baseline_decomposition_seconds']:.3g} s) it is",
        f"{found['ratio_with_decomposition']:.0f} ×. With `corpus_weight` the stream takes",
        f"{sum(weighed):.3g} s after {found['corpus_weight_opening_seconds']:.3g} s of opening.",
        "Each time ends with the dense update added to the weight; ours also measures by how much",
        "the outputs of all earlier keys moved, which the published code does not.",
        "",
        *_goals(
            ("stream, times faster", "≥ 50", f"{ratio:.0f}", ratio >= 50),
            (
                f"batch {last} against batch 2, times as long",
                "≤ 2",
                f"{growth:.2f}",
                growth <= 2,
            ),
        ),
        "",
        f"Largest relative difference of an update: {found['largest_difference']:.1e}, of",
        f"{found['tolerance']:.0e} that are let pass; the baseline works in float32, as the",
        "published code does.",
        "",
        "![Seconds a batch](performance-stream.png)",
        "",
        "Memory held between batches, MiB a layer, measured as the sum of distinct storages:",
        "bases, keys of past edits, factors, the same before the last batch (for undo), and the",
        "weight before and after, against the published code's three stacks of d_in² float32",
        "without any weight:",
        "",
        *table(("edits so far", *kinds.values()), rows),
        "",
        "![Memory held](performance-memory.png)",
    ]


def _methods(found: Figures, _docs: Path) -> list[str]:
    last = found["batches"]
    rows = []
    for name, own in found["methods"].items():
        seconds, dense = own["seconds"], own.get("dense_seconds")
        whole = own.get("whole_history_seconds")
        rows.append(
            (
                f"`{name}`",
                f"{seconds[1]:.3f}",
                f"{seconds[-1]:.3f}",
                f"{seconds[-1] / seconds[1]:.2f}",
                "–" if whole is None else f"{whole:.2f}",
                "–" if dense is None else f"{dense:.2f}",
                f"{own['held_bytes'] / 2**20:.0f}",
            )
        )
    growths = {name: own["seconds"] for name, own in found["methods"].items()}
    goals = [
        (
            f"`{name}`: batch {last} against batch 2, times as long",
            "≤ 2",
            f"{own[-1] / own[1]:.2f}",
            own[-1] <= 2 * own[1],
        )
        for name, own in growths.items()
    ]
    heads = (
        "method",
        "batch 2, s",
        f"batch {last}, s",
        "growth",
        "whole history, s",
        "dense solve, s",
        "MiB held",
    )
    largest = max(own.get("difference", 0.0) for own in found["methods"].values())
    return [
        f"## Methods in one stream, d_in {found['d_in']:,}, {found['facts']} facts a batch, "
        f"{last} batches",
        "",
        "A batch is measured as above. `whole history`: the solve alone of the last batch, with",
        "all earlier keys in one system of equations instead of what is remembered of them.",
        "`dense solve`: the last system of the published code, in float32 like there, without the",
        "sums of outer products that make it. Updates are those of the same system solved in",
        f"float64, to a relative {largest:.0e}. Held are states, factors and weights, as above;",
        f"three stacks of d_in² float32, without a weight, are {_stacks(found['d_in'])} MiB.",
        "",
        *table(heads, rows),
        "",
        *_goals(*goals),
        "",
        *_long_stream(found["long"], found["facts"]),
    ]


def _long_stream(found: Figures, facts: int) -> list[str]:
    """More edits than the layer is wide."""
    d_in, d_out, methods = found["d_in"], found["d_out"], found["methods"]
    count = len(next(iter(methods.values()))["seconds"])
    rows = []
    for number in sorted({2, *(round(count * part / 6) for part in range(1, 7))}):
        cells = [f"{number * facts:,}"]
        for own in methods.values():
            seconds = own["seconds"][max(0, number - 3) : number]
            cells += [
                f"{max(seconds):.3f}",
                f"{own['held_bytes'][number - 1] / 2**20:.0f}",
            ]
        rows.append(cells)
    heads = [f"{name}, {what}" for name in methods for what in ("s", "MiB held")]
    return [
        f"On and on at a width of {d_in:,} (d_out {d_out:,}): the slowest of the last three",
        "batches, and what is held. What is remembered of earlier keys grows until there are a",
        "quarter more of them than the layer is wide; then it is made as small as the layer again,",
        f"which one batch has to wait for. Three stacks of d_in² float32 are {_stacks(d_in)} MiB.",
        "",
        *table(("edits", *heads), rows),
    ]


def _stacks(d_in: int) -> str:
    """MiB of the published code's three stacks of matrices, for one layer."""
    return f"{3 * 4 * d_in**2 / 2**20:.0f}"


def _at(size: int, sizes: Sequence[float], seconds: Sequence[float]) -> str:
    """Seconds of a curve at a size, where it was measured."""
    return next((f"{own:.3g}" for at, own in zip(sizes, seconds, strict=True) if at == size), "–")


def _growth(
    title: str, label: str, axis: str, file: str, sizes: str
) -> Callable[[Figures, Path], list[str]]:
    """A section with one curve: seconds against what `sizes` holds."""

    def section(found: Figures, docs: Path) -> list[str]:
        curves = {"langedit": (found[sizes], found["seconds"])}
        notes = [f"langedit {found['exponent']:.2f}"]
        for name, key in (("eigendecomposition", "decomposition"), ("baseline", "baseline")):
            if f"{key}_seconds" in found:
                own = found[f"{key}_seconds"]
                curves[name] = ([int(size) for size in own], list(own.values()))
                notes.append(f"{name} {found[f'{key}_exponent']:.2f}")
        _plot(docs / file, axis, "seconds", curves, logarithmic=(sizes != "edits", True))
        rows = [
            (f"{size:,}", *(_at(size, *curve) for curve in curves.values()))
            for size in found[sizes]
        ]
        name = title.format(d_in=found.get("d_in"))
        return [
            f"## {name}",
            "",
            *table((axis, *(f"{own}, s" for own in curves)), rows),
            "",
            f"Fitted exponents{label}: {', '.join(notes)}.",
            "",
            f"![{name}]({file})",
        ]

    return section


def _plot(
    path: Path,
    across: str,
    up: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    logarithmic: tuple[bool, bool],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker="o", label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_xscale("log" if logarithmic[0] else "linear")
    axes.set_yscale("log" if logarithmic[1] else "linear")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


SECTIONS: Mapping[str, Callable[[Figures, Path], list[str]]] = {
    "end-to-end": _end_to_end,
    "one-thread": _one_thread,
    "linalg": _linalg,
    "methods": _methods,
    "edits": _growth(
        "Cost of a batch by number of edits so far (d_in {d_in:,}, simulated keys)",
        " against the forbidden rank",
        "edits",
        "performance-edits.png",
        "edits",
    ),
    "widths": _growth(
        "Cost of a batch by width, half of the directions forbidden",
        "",
        "d_in",
        "performance-widths.png",
        "d_in",
    ),
    "sizes": _growth(
        "Cost of the linear algebra by facts a batch (d_in {d_in:,})",
        " from 50 facts on",
        "facts",
        "performance-sizes.png",
        "facts",
    ),
    "targets": _growth(
        "Target optimisation on the bundled model by facts optimised together, 10 evaluations",
        "",
        "facts",
        "performance-targets.png",
        "facts",
    ),
}
"""Part -> its section."""
