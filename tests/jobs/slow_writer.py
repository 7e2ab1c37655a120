"""The command line, where process 0 takes its time to close a ledger, and to say what it did."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from langedit.cli import show_workspace
from langedit.cli.main import main
from langedit.workspace import Ledger

SECONDS = 3.0
"""A launcher that has seen a process end with an error would have ended the others by then."""


def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SECONDS)
        return work(*args, **kwargs)

    return slow


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        Ledger.close = slowly(Ledger.close)  # type: ignore[method-assign]
        show_workspace.show_applied = slowly(show_workspace.show_applied)
    main()
