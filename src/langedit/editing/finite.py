"""No value that is not finite passes a stage of an edit, and the message names the fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.errors import NumericalError
from langedit.linalg import LowRankUpdate, Update

_NAMED = 3  # facts a message names before it counts the others


def require_finite_facts(
    what: str, rows: Tensor, requests: Sequence[EditRequest], layer: int
) -> None:
    """Refuse rows (n, width), one for each fact, that are not finite.

    Raises:
        NumericalError: names the facts whose rows they are.
    """
    bad = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        values = int((~torch.isfinite(rows[bad[0]])).sum())
        raise NumericalError(
            f"layer {layer}: expected a finite {what}, got one with {values} of {rows.shape[1]} "
            f"values not finite for {_names([requests[i] for i in bad])}: load the model in "
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
        raise NumericalError(f"layer {layer}, {_names(requests)}: {error}") from error


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
            raise NumericalError(f"layer {layer}, {_names(requests)}: {error}") from error
        row, column = bad[0].tolist()
        share = (factors.left[row] * factors.right[:, column]).abs()
        guilty = requests[int(share.argmax())]
        raise NumericalError(f"layer {layer}, most by {_names([guilty])}: {error}") from error


def _factors_of_facts(update: Update, requests: Sequence[EditRequest]) -> LowRankUpdate | None:
    """The factors of a batch's own solve, one pair for each request, if the update has such."""
    if isinstance(update, LowRankUpdate) and update.rank == len(requests):
        return update
    return None


def _names(requests: Sequence[EditRequest]) -> str:
    """Names of the facts, with those that were merged into one row."""
    members = [member for request in requests for member in request.members]
    named = "; ".join(member.name for member in members[:_NAMED])
    more = len(members) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
