"""Language x language: what an edit in one language does in another.

* `transfer[edit_language, probe_language]`: a fact is edited in one language, and the same fact
  (equal `group`) asked in another, where it was not edited.
* `interference[A, B]`: the score of facts edited in A after a batch in B minus that before it;
  negative where editing B costs facts of A.

Both are lists of `CrossScore`, one a fact, from which `language_matrix` takes means and intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from langedit.errors import FactError
from langedit.evaluation.bootstrap import Interval, bootstrap_seeds
from langedit.evaluation.history import ScoreHistory
from langedit.evaluation.metrics import mean_or_none
from langedit.evaluation.scoring import score_facts
from langedit.facts import Fact, comparable
from langedit.models import EditableModel


@dataclass(frozen=True, kw_only=True)
class CrossScore:
    """What one fact says about a pair of languages.

    Attributes:
        row: language code of the row: in which the fact was edited.
        column: language code of the column: asked in, or of the batches that came later.
        value: the score, or a difference of scores.
        fact: name of the fact within the run.
        run: number of the run; other seeds, other runs.
    """

    row: str
    column: str
    value: float
    fact: str
    run: int = 0


@dataclass(frozen=True, kw_only=True)
class LanguageMatrix:
    """Means and intervals by pair of languages.

    Attributes:
        name: what is shown, such as "transfer".
        rows: language codes.
        columns: language codes.
        cells: (row, column) -> interval; pairs of which nothing is known are missing.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Interval]

    def __getitem__(self, pair: tuple[str, str]) -> Interval:
        return self.cells[pair]

    def diagonal(self) -> float | None:
        """Mean over the pairs of a language with itself, `None` if there are none."""
        return mean_or_none(
            cell.mean for (row, column), cell in self.cells.items() if row == column
        )

    def off_diagonal(self) -> float | None:
        """Mean over the pairs of two languages, `None` if there are none."""
        return mean_or_none(
            cell.mean for (row, column), cell in self.cells.items() if row != column
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, cells by row and column."""
        return {
            "name": self.name,
            "cells": {
                row: {c: asdict(self.cells[row, c]) for c in self.columns if (row, c) in self.cells}
                for row in self.rows
            },
        }


def language_matrix(
    name: str,
    scores: Iterable[CrossScore],
    languages: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> LanguageMatrix:
    """Average scores by pair of languages, with bootstrap intervals over facts, and over runs.

    Args:
        name: of the matrix.
        scores: of facts; a fact may give several of a pair in a run, which are averaged first.
        languages: codes in the order of rows and columns; those without scores are left out.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the draws.

    Raises:
        FactError: there are no scores, or a language is not among `languages`.
    """
    by_pair = cell_values(scores)
    unknown = {language for pair in by_pair for language in pair} - set(languages)
    if unknown or not by_pair:
        raise FactError(
            f"{name}: expected scores in {', '.join(languages)}, got "
            f"{', '.join(sorted(unknown)) or 'none'}"
        )
    cells = {
        pair: bootstrap_seeds(list(runs.values()), resamples=resamples, level=level, seed=seed)
        for pair, runs in by_pair.items()
    }
    return LanguageMatrix(
        name=name,
        rows=tuple(code for code in languages if any(code == row for row, _ in cells)),
        columns=tuple(code for code in languages if any(code == column for _, column in cells)),
        cells=cells,
    )


def cell_values(scores: Iterable[CrossScore]) -> dict[tuple[str, str], dict[int, list[float]]]:
    """(row, column) -> run -> one value a fact: the mean of its scores of that pair."""
    of_fact: dict[tuple[str, str], dict[int, dict[str, list[float]]]] = {}
    for score in scores:
        runs = of_fact.setdefault((score.row, score.column), {})
        runs.setdefault(score.run, {}).setdefault(score.fact, []).append(score.value)
    return {
        pair: {
            run: [math.fsum(values) / len(values) for values in facts.values()]
            for run, facts in runs.items()
        }
        for pair, runs in of_fact.items()
    }


def aligned_pairs(
    edited: Sequence[Fact], pool: Iterable[Fact], *, may_be_none: bool = False
) -> list[tuple[Fact, Fact]]:
    """Pairs of an edited fact and the same fact in each language in which it was not edited.

    The pair of an edited fact with itself comes first, so that the diagonal is its efficacy. A
    fact whose question is edited in its language, with whatever target, is not asked.

    Args:
        edited: facts that are edited, those without a group left out.
        pool: the facts in all languages.
        may_be_none: return no pair, instead of an error, where nothing can be asked.

    Raises:
        FactError: no edited fact has a group of which the pool holds another language.
    """
    others: dict[str, dict[str, Fact]] = {}
    for fact in pool:
        if fact.group is not None:
            others.setdefault(fact.group, {}).setdefault(fact.language, fact)
    done = {(fact.group, fact.language) for fact in edited}
    questions = {(fact.language, comparable(fact.text)) for fact in edited}
    pairs = []
    for fact in edited:
        if fact.group is not None:
            aligned = others.get(fact.group, {})
            asked = [
                other
                for code, other in aligned.items()
                if (fact.group, code) not in done
                and (code, comparable(other.text)) not in questions
            ]
            pairs += [(fact, other) for other in (fact, *asked)]
    if all(fact is other for fact, other in pairs):
        if may_be_none:
            return []
        raise FactError(
            f"transfer: expected facts that are edited in one language and can be asked in another "
            f"(equal group), got none among {len(edited)} edited facts; every one is edited in all "
            "its languages, or has no group"
        )
    return pairs


def transfer_scores(
    model: EditableModel,
    pairs: Sequence[tuple[Fact, Fact]],
    *,
    metric: str = "efficacy",
    run: int = 0,
    before: Sequence[CrossScore] | None = None,
) -> list[CrossScore]:
    """Ask aligned facts of an edited model, in one pass.

    Args:
        model: the model as it is now.
        pairs: edited facts with those to ask, as from `aligned_pairs`.
        metric: name of the score of the facts that are asked.
        run: number of the run.
        before: what this function found on the unedited model; if given, gains are returned.

    Raises:
        ValueError: `before` belongs to other pairs.
    """
    asked = list(dict.fromkeys(other for _, other in pairs))
    found = dict(zip(asked, score_facts(model, asked, kinds=(metric,)), strict=True))
    scores = []
    for fact, other in pairs:
        value = getattr(found[other], metric)
        if value is not None:
            name = str(fact.group)
            scores.append(
                CrossScore(
                    row=fact.language, column=other.language, value=value, fact=name, run=run
                )
            )
    return scores if before is None else gains(scores, before)


def gains(after: Sequence[CrossScore], before: Sequence[CrossScore]) -> list[CrossScore]:
    """After - before, score by score.

    Raises:
        ValueError: the two are not about the same facts in the same order.
    """
    names = [[(s.row, s.column, s.fact, s.run) for s in scores] for scores in (after, before)]
    if names[0] != names[1]:
        raise ValueError("expected scores of the same facts before and after")
    return [
        CrossScore(row=a.row, column=a.column, value=a.value - b.value, fact=a.fact, run=a.run)
        for a, b in zip(after, before, strict=True)
    ]


def interference_scores(history: ScoreHistory, *, run: int = 0) -> list[CrossScore]:
    """Change of each earlier fact's score over the batches of one language, from a history.

    Between two scored steps that follow each other, all batches must be in one language for the
    change to be its doing; other stretches are passed over, so a coarse grid gives fewer scores.

    Args:
        history: scores of earlier batches after later ones.
        run: number of the run.
    """
    scores = []
    for before, after in zip(history.steps, history.steps[1:], strict=False):
        languages = {history.language(batch) for batch in range(before + 1, after + 1)}
        column = languages.pop()
        if languages or column is None:
            continue
        for batch in range(before + 1):
            old, new = history.of(batch, before), history.of(batch, after)
            scores += [
                CrossScore(
                    row=history.language_of(batch, number),
                    column=column,
                    value=b - a,
                    fact=f"{batch}/{number}",
                    run=run,
                )
                for number, (a, b) in enumerate(zip(old, new, strict=True))
                if a is not None and b is not None
            ]
    return scores
