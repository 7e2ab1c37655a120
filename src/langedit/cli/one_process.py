"""Commands that several processes must not run side by side."""

from __future__ import annotations

import os

from langedit.errors import ConfigError

TOGETHER = ("stats", "edit")
"""Commands that several processes run together."""

WORKSPACE = ("init", "apply", "undo", "verify", "archive", "restore")
"""Commands on a workspace, which one process writes."""


def require_one_process(command: str) -> None:
    """See that no launcher has started several processes; nothing was read or written yet.

    Raises:
        ConfigError: it has.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return
    advice = f"{' and '.join(TOGETHER)} take several"
    if command in WORKSPACE:
        advice = (
            "a workspace has one writer. A model that one card cannot hold is spread over cards "
            f"with --device-map of langedit init; to divide the work, {advice}"
        )
    error = ConfigError(
        f"langedit {command} runs as one process, but a launcher has started {count}; start it "
        f"without one: {advice}"
    )
    error.everywhere = True
    raise error
