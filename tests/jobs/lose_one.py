"""The command line, but in the second batch one process is lost, or someone presses Ctrl-C.

The environment's LOST is the number of the process that is killed; where HOW says "error", it
raises one that the others do not know of, and where it says "interrupt", it is the one that sends
the launcher SIGINT.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from langedit.cli.main import main
from langedit.editing.batch import BatchJob
from langedit.errors import NumericalError


def lose() -> None:
    how = os.environ.get("HOW")
    if how == "error":
        raise NumericalError("here alone")
    if how == "interrupt":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)  # until the launcher passes it on
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    find_targets, calls = BatchJob.find_targets, []

    def lost_in_the_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2 and os.environ["RANK"] == os.environ["LOST"]:
            lose()
        return find_targets(*args, **kwargs)

    BatchJob.find_targets = lost_in_the_second  # type: ignore[method-assign]
    main()
