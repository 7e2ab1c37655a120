"""Replace what attention modules do between their projections, through transformers' interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "sdpa"

Attention = Callable[..., tuple[Tensor, Any]]
"""Called with the module, query, key and value, each (b, heads, t, width), a mask (b, 1, t, t), and
keywords; returns (b, t, heads, width) and something that nobody reads."""


@contextmanager
def replace_attention(make: Callable[[Attention], Attention]) -> Iterator[None]:
    """Let models that use torch's attention by transformers' interface use another one inside.

    Args:
        make: gets what the modules call at present, and returns what they shall call. The interface
            is one for all models, so it must leave modules alone that it does not know.
    """
    before: Attention = ALL_ATTENTION_FUNCTIONS[_NAME]
    ALL_ATTENTION_FUNCTIONS[_NAME] = make(before)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[_NAME] = before
