"""What the user reads when an edit is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from langedit.cli.job import EditOutcome
from langedit.cli.options import layers_text
from langedit.evaluation import KINDS, Scores, by_language, definitions
from langedit.reporting import definition_table, percent, profile_table, score_table

GUARANTEED = 1e-5
"""Above this, |dW k| / |W k| is more than the rounding of float32 factors."""


def show_outcome(outcome: EditOutcome) -> None:
    """Print scores by language and what they mean, what earlier keys lost, and the files."""
    console = Console()
    console.print(language_table(outcome), definition_table(definitions(KINDS)), sep="\n")
    if outcome.editor.profiler is not None:
        console.print(profile_table(outcome.editor.profiler.to_dict()))
    plan = outcome.plan
    lines = [guarantee_line(outcome)]
    rejected = len(plan.file.rejected)
    lines.append(
        f"Edited {len(plan.facts)} facts in {len(plan.batches)} batches; "
        f"{rejected} {'row was' if rejected == 1 else 'rows were'} rejected."
    )
    dequantised = outcome.editor.dequantised
    if dequantised:
        lines.append(
            f"The model is quantised. Its edited projections, in layers "
            f"{layers_text(list(dequantised))}, were dequantised and are stored as "
            f"{outcome.editor.model.stored_dtype(next(iter(dequantised)))}; the rest is as it was."
        )
    lines.append(f"The edited model is in {plan.options.output}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def language_table(outcome: EditOutcome) -> Table:
    """Scores in percent, before and after, a row for each language and one for all facts."""
    after = by_language(outcome.after)
    rows = {
        language: _cells(before, after[language])
        for language, before in by_language(outcome.before).items()
    }
    rows["all"] = _cells(Scores.of(outcome.before), Scores.of(outcome.after))
    columns = ("facts", *KINDS)
    return score_table("Scores in percent, before → after", "language", columns, rows)


def guarantee_line(outcome: EditOutcome) -> str:
    """Say how far later batches moved what earlier ones had written."""
    largest, config = outcome.independence_max, outcome.plan.config
    if largest is None:
        return "Independence: one batch only, so there are no earlier edits to leave alone."
    figure = (
        f"the largest change of an earlier edit by a later batch, |ΔW k|/|W k|, is {largest:.1e}"
    )
    if config.method != "langedit" or config.projection != "orthogonal":
        return f"Independence: {figure}; this method gives no guarantee."
    verdict = "within" if largest <= GUARANTEED else "ABOVE"
    return f"Independence: {figure}, {verdict} the guaranteed {GUARANTEED:.0e}."


def _cells(before: Scores, after: Scores) -> list[str]:
    old, new = before.shares(), after.shares()
    return [str(before.facts), *(f"{percent(old[k])} → {percent(new[k])}" for k in KINDS)]
