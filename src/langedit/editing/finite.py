"""No value that is not finite passes a stage of an edit, and the message names the fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from langedit.editing.requests import EditRequest
from langedit.errors import NumericalError
from langedit.linalg import LowRankUpdate

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


def single_precision(
    update: LowRankUpdate, requests: Sequence[EditRequest], layer: int
) -> LowRankUpdate:
    """The update in float32, in which updates are summed.

    Raises:
        NumericalError: it overflows; the message names the facts whose factors do.
    """
    if update.rank == len(requests):  # the factors of a batch's own solve: one pair a fact
        require_finite_facts("update", update.left.float().T, requests, layer)
        require_finite_facts("update", update.right.float(), requests, layer)
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
    update: LowRankUpdate,
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
        if update.rank != len(requests) or not len(bad):
            raise NumericalError(f"layer {layer}, {_names(requests)}: {error}") from error
        row, column = bad[0].tolist()
        share = (update.left[row] * update.right[:, column]).abs()
        guilty = requests[int(share.argmax())]
        raise NumericalError(f"layer {layer}, most by {guilty.name}: {error}") from error


def _names(requests: Sequence[EditRequest]) -> str:
    named = "; ".join(request.name for request in requests[:_NAMED])
    more = len(requests) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
