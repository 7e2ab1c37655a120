"""Keep the remarks of libraries out of a command's output."""

from __future__ import annotations

import logging
import sys
from typing import Any

from transformers import utils


def quiet_transformers() -> None:
    """Show errors only, and no progress bars unless the error stream is a terminal."""
    own: Any = utils.logging
    own.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every product it rounds
    if not sys.stderr.isatty():
        own.disable_progress_bar()
