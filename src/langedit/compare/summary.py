"""Methods beside one another: means over seeds with intervals, and what is clearly best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from langedit.compare.figures_of import FIRST_BATCH, MEAN, columns_of, perplexity_ratio
from langedit.compare.grid import Outcome
from langedit.compare.intervals import Interval, Resampled, resample
from langedit.compare.tidy import control_records
from langedit.evaluation import mean_or_none

Mark = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A method on one data set and model.

    Attributes:
        method: its name.
        group: control, methods or ablations.
        seeds: seeds that are finished, of how many.
        scores: resampled scores; `None` if no seed is finished.
        perplexity: ratio to the unedited model, mean over seeds.
        seconds: of a run, mean over seeds.
    """

    method: str
    group: str
    seeds: tuple[int, int]
    scores: Resampled | None
    perplexity: float | None
    seconds: float | None

    def interval(self, name: str) -> Interval | None:
        """Interval of a score, if there is one."""
        return None if self.scores is None else self.scores.interval(name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """All methods on one data set and model.

    Attributes:
        model, dataset: names.
        columns: scores, in order; the mean is the last.
        rows: method -> its row.
    """

    model: str
    dataset: str
    columns: tuple[str, ...]
    rows: Mapping[str, Row]

    def best(self, column: str) -> str | None:
        """The method whose interval lies above those of all others; `None` if there is none."""
        found = {
            name: interval
            for name, row in self.rows.items()
            if row.group == "methods" and (interval := row.interval(column)) is not None
        }
        if len(found) < 2:
            return None
        first = max(found, key=lambda name: found[name].mean)
        others = (interval for name, interval in found.items() if name != first)
        return first if all(found[first].parts_from(other) for other in others) else None

    def cells(self, method: str, mark: Mark = str) -> list[str]:
        """The figures of a row in percent; `mark` is put around what is best."""
        texts = []
        for column in self.columns:
            text = percent_interval(self.rows[method].interval(column))
            texts.append(mark(text) if self.best(column) == method else text)
        return texts


def boards_of(outcomes: Sequence[Outcome], resamples: int) -> tuple[Board, ...]:
    """One board for each model and data set, in order."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.cell.model, outcome.cell.dataset), []).append(outcome)
    controls = control_records(outcomes)
    boards = []
    for (model, dataset), own in groups.items():
        by_method: dict[str, list[Outcome]] = {}
        for outcome in own:
            by_method.setdefault(outcome.cell.method, []).append(outcome)
        metrics = tuple(own[0].cell.measures["metrics"])
        rows = {
            method: _row(method, found, metrics, controls, resamples)
            for method, found in by_method.items()
        }
        columns = (*metrics, FIRST_BATCH, MEAN)
        boards.append(Board(model=model, dataset=dataset, columns=columns, rows=rows))
    return tuple(boards)


def board_table(board: Board) -> Table:
    """A table for the terminal, what is clearly best in bold."""
    title = f"{board.dataset} on {board.model}: percent at the end, with 95 % intervals"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("method")
    for heading in (*board.columns, "perplexity ×", "seeds", "s a run"):
        table.add_column(heading.replace("_", " "), justify="right")
    for method, row in board.rows.items():
        plain = board.cells(method)
        scores = [
            Text(text, style="bold" if board.best(column) == method else "")
            for column, text in zip(board.columns, plain, strict=True)
        ]
        table.add_row(method, *scores, *_rest(row))
    return table


def percent_interval(interval: Interval | None, sign: bool = False) -> str:
    """`83.1 (82.0–84.3)`, in percent; a dash where there is nothing."""
    if interval is None:
        return "–"
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    if sign:
        return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{mean:.1f} ({low:.1f}–{high:.1f})"


def _rest(row: Row) -> list[str]:
    done, wanted = row.seeds
    ratio = "–" if row.perplexity is None else f"{row.perplexity:.3f}"
    seconds = "–" if row.seconds is None else f"{row.seconds:.0f}"
    return [ratio, str(done) if done == wanted else f"{done} of {wanted}", seconds]


def _row(
    method: str,
    outcomes: Sequence[Outcome],
    metrics: Sequence[str],
    controls: Mapping[tuple[str, str, int], Mapping[str, object]],
    resamples: int,
) -> Row:
    done = [(outcome.cell, outcome.record) for outcome in outcomes if outcome.record is not None]
    ratios = []
    for cell, record in done:
        control = controls.get((cell.model, cell.dataset, cell.seed))
        ratios.append(None if control is None else perplexity_ratio(record, control))
    columns = [columns_of(record, metrics) for _, record in done]
    return Row(
        method=method,
        group=outcomes[0].cell.group,
        seeds=(len(done), len(outcomes)),
        scores=resample(columns, resamples=resamples) if done else None,
        perplexity=None if None in ratios else mean_or_none(ratios),
        seconds=mean_or_none(sum(record["seconds"].values()) for _, record in done),
    )
