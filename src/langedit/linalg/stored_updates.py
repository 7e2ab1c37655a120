"""Updates as named tensors: how any kind of update is laid out, written down and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from langedit.errors import NumericalError
from langedit.linalg.updates import DenseUpdate, LowRankUpdate, Update

UPDATE_KINDS: Mapping[str, type[Update]] = MappingProxyType(
    {"low-rank": LowRankUpdate, "dense": DenseUpdate}
)
"""Name in a record -> dataclass whose fields are tensors. A new kind of update is one more line."""

_Update = TypeVar("_Update", bound=Update)


def row_major(update: _Update) -> _Update:
    """The same update with its tensors laid out row by row.

    The layout decides how a product is rounded. What is read back from a file has this one, so an
    update has it from the beginning: summed again, it gives the same bits.
    """
    return type(update)(**{name: own.contiguous() for name, own in _tensors(update).items()})


def update_tensors(update: Update) -> tuple[str, dict[str, Tensor]]:
    """Kind and named tensors of an update, as `update_from` takes them.

    Raises:
        NumericalError: its class is none of `UPDATE_KINDS`.
    """
    for kind, known in UPDATE_KINDS.items():
        if type(update) is known:
            return kind, _tensors(update)
    raise NumericalError(
        f"update: expected one of {', '.join(UPDATE_KINDS)}, got a {type(update).__name__}: an "
        "update that cannot be written down cannot be recorded"
    )


def update_from(kind: str, tensors: Mapping[str, Tensor]) -> Update:
    """The update that `update_tensors` took apart.

    Raises:
        NumericalError: an unknown kind, other tensors than it has, or values it refuses.
    """
    known = UPDATE_KINDS.get(kind)
    expected = () if known is None else tuple(field.name for field in fields(known))
    if known is None or set(tensors) != set(expected):
        raise NumericalError(
            f"update: expected a kind among {', '.join(UPDATE_KINDS)} with its tensors, got "
            f"{kind!r} with {', '.join(sorted(tensors)) or 'none'}"
        )
    return known(**tensors)


def keep_edits(update: Update, kept: Sequence[int], edits: int) -> LowRankUpdate:
    """What an update of several edits is without some of them.

    Args:
        update: of `edits` edits.
        kept: positions that stay, rising.
        edits: how many there are.

    Raises:
        NumericalError: the update does not have one pair of factors an edit, so that nothing in it
            belongs to one edit alone.
    """
    if type(update) is not LowRankUpdate or update.rank != edits:
        raise NumericalError(
            f"update: expected factors of {edits} edits, to take some of them out, got a "
            f"{type(update).__name__}: its edits cannot be told apart; undo the whole batch instead"
        )
    rows = torch.tensor(list(kept), dtype=torch.int64, device=update.left.device)
    return LowRankUpdate(left=update.left[:, rows].contiguous(), right=update.right[rows])


def _tensors(update: Update) -> dict[str, Tensor]:
    values = {field.name: getattr(update, field.name) for field in fields(update)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
