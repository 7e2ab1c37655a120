"""Replace what attention modules do between their projections, through transformers' interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "sdpa"
_ONE_AT_A_TIME = threading.RLock()  # the interface is one for the whole process

Attention = Callable[..., tuple[Tensor, Any]]
"""Called with the module, query, key and value, each (b, heads, t, width), a mask (b, 1, t, t), and
keywords; returns (b, t, heads, width) and something that nobody reads."""


@contextmanager
def replace_attention(make: Callable[[Attention], Attention]) -> Iterator[None]:
    """Let models that use torch's attention by transformers' interface use another one inside.

    One thread at a time is inside; it may nest. Other threads' models call the replacement
    meanwhile.

    Args:
        make: gets what the modules call at present, and returns what they shall call. The interface
            is one for all models, so it must leave modules alone that it does not know.
    """
    with _ONE_AT_A_TIME:
        before: Attention = ALL_ATTENTION_FUNCTIONS[_NAME]
        overridden = _NAME in ALL_ATTENTION_FUNCTIONS._local_mapping
        ALL_ATTENTION_FUNCTIONS[_NAME] = make(before)
        try:
            yield
        finally:
            if overridden:
                ALL_ATTENTION_FUNCTIONS[_NAME] = before
            else:  # what is registered later must count
                ALL_ATTENTION_FUNCTIONS._local_mapping.pop(_NAME)
