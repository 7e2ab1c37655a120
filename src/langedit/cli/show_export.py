"""What the user reads when an export is done."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from langedit.evaluation import Scores
from langedit.reporting import percent
from langedit.workspace.export import ExportOutcome


def show_export(outcome: ExportOutcome) -> None:
    """Print what was written, how it scores, and what a smaller rank lost."""
    console = Console()
    for line in export_lines(outcome):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def export_lines(outcome: ExportOutcome) -> Iterator[str]:
    """Yield the lines of the report."""
    record, scores = outcome.record, Scores.of(outcome.scores)
    count = len(record.facts)
    facts = "1 fact" if count == 1 else f"{count} facts"
    rank = f" of rank {outcome.rank}" if outcome.rank is not None else ""
    yield (
        f"{facts} in {', '.join(record.languages)} as {outcome.kind}{rank}: "
        f"efficacy {percent(scores.efficacy)}, generalization {percent(scores.generalization)}, "
        f"specificity {percent(scores.specificity)} percent"
    )
    if record.selection is not None:
        yield f"A selection, which no solve was made for: {record.selection}"
    if outcome.loss is not None:
        exact = Scores.of(outcome.loss.exact)
        yield (
            f"The exact adapter has rank {outcome.loss.rank} and efficacy "
            f"{percent(exact.efficacy)}, generalization {percent(exact.generalization)}, "
            f"specificity {percent(exact.specificity)} percent; largest error at keys "
            f"{max(outcome.loss.layers.values()):.1e} of the update"
        )
    if outcome.rewritten:
        yield "transformers wrote all files anew: those of the base model could not be kept"
    yield f"It is in {outcome.folder}, with a model card"
