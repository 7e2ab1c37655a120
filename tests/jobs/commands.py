"""Several commands in processes that meet once: `python commands.py COMMANDS OUTPUT FOLDERS...`.

COMMANDS is a JSON list of lists of arguments. Process n writes OUTPUT-n.json: what each command
ended with and wrote. It works in its own one of the folders, so that what is named by a relative
path can be there for one process and missing for another.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from langedit.cli.main import main
from langedit.parallel import join_processes


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["langedit", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    commands, output = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    with join_processes() as everyone:
        os.chdir(sys.argv[3 + everyone.rank])
        found = [run(arguments) for arguments in commands]
        Path(f"{output}-{everyone.rank}.json").write_text(json.dumps(found), encoding="utf-8")
