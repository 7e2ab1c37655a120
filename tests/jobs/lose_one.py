"""The command line, but process 1 is killed in its second batch."""

from __future__ import annotations

import os
import signal
from typing import Any

from langedit.cli.main import main
from langedit.editing.batch import BatchJob

if __name__ == "__main__":
    find_targets, calls = BatchJob.find_targets, []

    def lost_in_the_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return find_targets(*args, **kwargs)

    BatchJob.find_targets = lost_in_the_second  # type: ignore[method-assign]
    main()
