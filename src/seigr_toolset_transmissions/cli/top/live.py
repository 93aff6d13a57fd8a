"""`stt top`: a live view of a node in another process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ..failures import INTERRUPTED, Failure
from ..watching import connected

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["watch_live"]


async def watch_live(path: Path) -> int:
    """Show a node until the user ends that; return the exit code.

    Raises:
        Failure: There is no node, or no terminal to show it on.

    """
    moves = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    if not (moves and sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure(
            "a live view needs a terminal that can move its cursor: use `stt status`, or "
            "`stt top --once`"
        )
    async with connected(path):
        pass  # what is wrong with the path is said before the terminal is taken
    from .app import TopApp  # noqa: PLC0415 - importing Textual takes longer than a command

    app = TopApp(path)
    code = await app.run_async()
    if app.return_code:
        raise Failure("the view has failed, for the reason above")
    return INTERRUPTED if code is None else code
