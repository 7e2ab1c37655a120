"""Methods beside one another: means over seeds with intervals, and what is clearly best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from langedit.compare.figures_of import FIRST_BATCH, MEAN, draws_of, perplexity_ratio
from langedit.compare.grid import Outcome
from langedit.compare.tidy import control_records
from langedit.evaluation import METRICS, Interval, Resampled, mean_or_none
from langedit.reporting import percent

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
    """

    method: str
    group: str
    seeds: tuple[int, int]
    scores: Resampled | None
    perplexity: float | None

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
            text = shown_interval(column, self.rows[method].interval(column))
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
    units = f"percent{units_apart(board.columns)}"
    title = f"{board.dataset} on {board.model}: {units} at the end, with 95 % intervals"
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for heading in (*board.columns, "perplexity_×"):
        table.add_column(_heading(heading), justify="right", no_wrap=True)
    for method, row in board.rows.items():
        scores = [
            Text(
                text.replace(" (", "\n").removesuffix(")"),
                style="bold" if board.best(column) == method else "",
            )
            for column, text in zip(board.columns, board.cells(method), strict=True)
        ]
        ratio = "–" if row.perplexity is None else f"{row.perplexity:.3f}"
        table.add_row(_with_seeds(row), *scores, ratio)
    return table


def percent_interval(interval: Interval | None, sign: bool = False) -> str:
    """`83.1 (82.0–84.3)`, in percent; a dash where there is nothing."""
    if interval is None:
        return "–"
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    if sign:
        return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{mean:.1f} ({low:.1f}–{high:.1f})"


def shown_interval(column: str, interval: Interval | None, sign: bool = False) -> str:
    """An interval of a score: in percent if it is a share, else in its own unit."""
    return percent_interval(interval, sign) if is_share(column) else _plain(interval, sign)


def shown_value(column: str, value: float | None) -> str:
    """A score: in percent if it is a share, else in its own unit."""
    if is_share(column):
        return percent(value)
    return "–" if value is None else f"{value:.2f}"


def is_share(column: str) -> bool:
    """Whether a score lies in [0, 1]; all that a comparison adds to those of facts do."""
    return column not in METRICS or METRICS[column].share


def units_apart(columns: Sequence[str]) -> str:
    """Which of some scores are no shares, in brackets; nothing where all are."""
    apart = [column.replace("_", " ") for column in columns if not is_share(column)]
    return f" (of {' and '.join(apart)}: its own unit)" if apart else ""


def _plain(interval: Interval | None, sign: bool) -> str:
    if interval is None:
        return "–"
    mean, low, high = interval.mean, interval.low, interval.high
    if sign:
        return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def _heading(column: str) -> str:
    """The name of a column on two lines: 80 columns of a terminal are soon used up."""
    long = {"generalization": "generali-_zation", "specificity": "speci-_ficity"}
    return long.get(column, column).replace("_", "\n")


def _with_seeds(row: Row) -> str:
    """The method, and how many seeds are done where some are not."""
    done, wanted = row.seeds
    return row.method if done == wanted else f"{row.method}\n{done} of {wanted} seeds"


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
    return Row(
        method=method,
        group=outcomes[0].cell.group,
        seeds=(len(done), len(outcomes)),
        scores=draws_of([r for _, r in done], metrics, resamples) if done else None,
        perplexity=None if None in ratios else mean_or_none(ratios),
    )
