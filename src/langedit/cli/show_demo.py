"""What the user reads when the demo is done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from langedit.demo.run import Answer, DemoResults, MethodResult
from langedit.evaluation import Scores
from langedit.reporting import percent, profile_table, score_table

_COLUMNS = ("efficacy", "generalization", "specificity", "first batch", "perplexity ratio")


def show_demo(results: DemoResults) -> None:
    """Print a table for each method, answers of the first, and where the files are."""
    console = Console()
    for method, own in results.methods.items():
        console.print(method_table(method, own), "")
    answers = next((own.answers for own in results.methods.values() if own.answers), ())
    console.print(answer_table(answers), "")
    for method, own in results.methods.items():
        line = f"{method}: largest |ΔW k|/|W k| over earlier edits {own.independence_max:.1e}"
        console.print(f"{line}, {own.seconds:.0f} s of editing", highlight=False)
    for own in results.methods.values():
        if own.profiler is not None:
            console.print(profile_table(own.profiler))
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


def answer_table(answers: Sequence[Answer]) -> Table:
    """What the model says to some prompts, before and after."""
    table = Table(title="Generated answers", title_justify="left", title_style="bold")
    for heading in ("language", "prompt", "before", "after"):
        table.add_column(heading)
    for answer in answers:
        table.add_row(answer.language, answer.prompt, answer.before, answer.after)
    return table


def _cells(scores: Scores, first_batch: float, perplexity_ratio: float) -> list[str]:
    shares = (scores.efficacy, scores.generalization, scores.specificity, first_batch)
    return [*map(percent, shares), f"{perplexity_ratio:.3f}"]
