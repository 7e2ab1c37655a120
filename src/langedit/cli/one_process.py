"""Commands that several processes must not run side by side."""

from __future__ import annotations

import os

from langedit.errors import ConfigError

TOGETHER = ("stats", "edit", "apply", "undo")
"""Commands that several processes run together."""

OF_WORKSPACES = ("init", "verify", "archive", "restore")
"""Commands on a workspace in which there is no work to divide."""


def require_one_process(command: str) -> None:
    """See that no launcher has started several processes; nothing was read or written yet.

    Raises:
        ConfigError: it has.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return
    advice = f"{', '.join(TOGETHER[:-1])} and {TOGETHER[-1]} take several"
    if command in OF_WORKSPACES:
        advice += (
            ". A model that one card cannot hold is spread over cards with --device-map of "
            "langedit init"
        )
    error = ConfigError(
        f"langedit {command} runs as one process, but a launcher has started {count}; start it "
        f"without one: {advice}"
    )
    error.everywhere = True
    raise error
