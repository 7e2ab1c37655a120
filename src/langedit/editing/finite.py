"""No value that is not finite passes a stage of an edit, and the message names the fact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.errors import NumericalError
from langedit.linalg import LowRankUpdate, Update

T = TypeVar("T")

_NAMED = 3  # facts a message names before it counts the others


def not_finite(rows: Tensor) -> list[int]:
    """Which rows (n, width) hold a value that is not finite; none on the meta device."""
    if rows.is_meta:  # a run that is planned has no values
        return []
    found: list[int] = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten().tolist()
    return found


def by_name(group: list[int], run: Callable[[list[int]], T], requests: Sequence[EditRequest]) -> T:
    """Run facts together; what is not finite is said of the facts of which it is so alone, too.

    Args:
        group: numbers of the facts.
        run: runs some of them.
        requests: all of them.

    Raises:
        NumericalError: as of the first fact that fails alone, and how many more do; as `run` raised
            it where none does.
    """
    try:
        return run(group)
    except NumericalError as error:
        found = _failing(group, run) if len(group) > 1 else []
        if not found:
            raise
        first, *others = found
        more = f". So do {len(others)} more: {fact_names([requests[i] for i, _ in others])}"
        raise NumericalError(f"{first[1]}{more if others else ''}") from error


def _failing(group: list[int], run: Callable[[list[int]], T]) -> list[tuple[int, NumericalError]]:
    """The facts that fail alone, found by halves, with what they raise."""
    middle = len(group) // 2
    found = []
    for half in (group[:middle], group[middle:]):
        try:
            run(half)
        except NumericalError as error:
            found += [(half[0], error)] if len(half) == 1 else _failing(half, run)
    return found


def require_finite_facts(
    what: str, rows: Tensor, requests: Sequence[EditRequest], layer: int
) -> None:
    """Refuse rows (n, width), one for each fact, that are not finite.

    Raises:
        NumericalError: names the facts whose rows they are.
    """
    bad = not_finite(rows)
    if bad:
        values = int((~torch.isfinite(rows[bad[0]])).sum())
        raise NumericalError(
            f"layer {layer}: expected a finite {what}, got one with {values} of {rows.shape[1]} "
            f"values not finite for {fact_names([requests[i] for i in bad])}: load the model in "
            "float32 or bfloat16, or leave the fact out"
        )


def single_precision(update: Update, requests: Sequence[EditRequest], layer: int) -> Update:
    """The update in float32, in which updates are summed.

    Raises:
        NumericalError: it overflows; the message names the facts whose factors do, or those of the
            batch where no factors belong to facts.
    """
    factors = _factors_of_facts(update, requests)
    if factors is not None:
        require_finite_facts("update", factors.left.float().T, requests, layer)
        require_finite_facts("update", factors.right.float(), requests, layer)
    with naming_facts(requests, layer):
        return update.to(dtype=torch.float32)


@contextmanager
def naming_facts(requests: Sequence[EditRequest], layer: int) -> Iterator[None]:
    """Put layer and facts in front of what a solve finds wrong."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"layer {layer}, {fact_names(requests)}: {error}") from error


@contextmanager
def naming_culprit(
    update: Update,
    weight: Tensor,
    stored: torch.dtype,
    requests: Sequence[EditRequest],
    layer: int,
) -> Iterator[None]:
    """When a weight cannot be stored, name the fact that moves the value in question most.

    Args:
        update: what was added.
        weight: (d_out, d_in) with it, before it is rounded.
        stored: precision in which the model keeps it.
        requests: the batch.
        layer: its index.
    """
    try:
        yield
    except NumericalError as error:
        bad = (~torch.isfinite(weight.to(stored))).nonzero()
        factors = _factors_of_facts(update, requests)
        if factors is None or not len(bad):
            raise NumericalError(f"layer {layer}, {fact_names(requests)}: {error}") from error
        row, column = bad[0].tolist()
        share = (factors.left[row] * factors.right[:, column]).abs()
        guilty = requests[int(share.argmax())]
        raise NumericalError(f"layer {layer}, most by {fact_names([guilty])}: {error}") from error


def _factors_of_facts(update: Update, requests: Sequence[EditRequest]) -> LowRankUpdate | None:
    """The factors of a batch's own solve, one pair for each request, if the update has such."""
    if isinstance(update, LowRankUpdate) and update.rank == len(requests):
        return update
    return None


def fact_names(requests: Sequence[EditRequest]) -> str:
    """Names of the facts, with those that were merged into one row."""
    return first_names([member.name for request in requests for member in request.members])


def first_names(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    named, more = "; ".join(names[:_NAMED]), len(names) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
