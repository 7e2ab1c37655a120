"""Process 1 stops for good; process 0 says what it makes of that: `python stand_still.py`."""

from __future__ import annotations

import os
import signal

from langedit.errors import ProcessError
from langedit.parallel import join_processes

if __name__ == "__main__":
    with join_processes() as everyone:
        everyone.together(lambda: None)
        if not everyone.is_first:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            everyone.together(lambda: None)
        except ProcessError as error:
            print(error, flush=True)
    os._exit(3)
