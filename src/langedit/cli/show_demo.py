"""What the user reads when the demo is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from langedit.demo.run import Answer, DemoResults, MethodResult
from langedit.evaluation import KINDS, Scores, definitions
from langedit.reporting import definition_table, percent, profile_table, score_table

_COLUMNS = (*KINDS, "first batch", "perplexity ratio")


def show_demo(results: DemoResults) -> None:
    """Print a table for each method, what scores mean, answers of the first, and the files."""
    console = Console()
    for method, own in results.methods.items():
        console.print(method_table(method, own), "")
    console.print(subject_table(results.methods), "")
    console.print(definition_table(definitions(KINDS)), "")
    answers = next((own.answers for own in results.methods.values() if own.answers), ())
    console.print(answer_table(answers), "")
    for method, own in results.methods.items():
        line = f"{method}: largest |ΔW k|/|W k| over earlier edits {own.independence_max:.1e}"
        console.print(f"{line}, {own.seconds:.0f} s of editing", highlight=False)
    for own in results.methods.values():
        if own.profiler is not None:
            console.print(profile_table(own.profiler.to_dict()))
    for file in (results.file, results.figure):
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


def method_table(method: str, own: MethodResult) -> Table:
    """Scores at the end of the stream, a row for each language and one for all."""
    rows = {
        language: _cells(scores, own.first_batches[language], own.perplexity[language])
        for language, scores in own.languages.items()
    }
    rows["all"] = _cells(own.scores, own.first_batch, own.perplexity_ratio)
    title = f"{method}: scores in percent after the last batch"
    return score_table(title, "language", _COLUMNS, rows)


def subject_table(methods: Mapping[str, MethodResult]) -> Table:
    """Efficacy at the end, by what was edited of a fact's subject in an earlier batch."""
    rows: dict[str, list[str]] = {}
    for own in methods.values():
        for kind, scores in own.subjects.items():
            row = rows.setdefault(kind, [str(scores.facts)])
            row.append(percent(scores.efficacy))
    title = "Efficacy (%) by what earlier batches edited of the subject"
    return score_table(title, "subject", ["facts", *methods], rows)


def answer_table(answers: Sequence[Answer]) -> Table:
    """What the model says to some prompts, before and after."""
    table = Table(title="Generated answers", title_justify="left", title_style="bold")
    for heading in ("language", "prompt", "before", "after"):
        table.add_column(heading)
    for answer in answers:
        table.add_row(answer.language, answer.prompt, answer.before, answer.after)
    return table


def _cells(scores: Scores, first_batch: float, perplexity_ratio: float) -> list[str]:
    shares = scores.shares()
    return [
        *(percent(shares[kind]) for kind in KINDS),
        percent(first_batch),
        f"{perplexity_ratio:.3f}",
    ]
