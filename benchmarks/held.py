"""Bytes of the tensors that objects hold, measured from their storages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor


def held_bytes(*roots: object) -> int:
    """Sum of the distinct storages within objects: whole ones, with any room to grow in them.

    Looks into dataclasses, mappings, lists and tuples; a storage that several tensors share counts
    once.
    """
    sizes = {}
    for tensor in _tensors(roots):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for own in fields(value):
            yield from _tensors(getattr(value, own.name))
