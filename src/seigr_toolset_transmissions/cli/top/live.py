"""`stt top`: a live view of a node in another process, or one look at it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from ..failures import INTERRUPTED, Failure
from ..status import node_page
from ..watching import connected, figures_of, watched

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["look_once", "watch_live"]


async def look_once(path: Path, *, as_json: bool) -> None:
    """Print what a node does and holds, with all of its endpoints, after a second.

    Raises:
        Failure: There is none, or it has ended.

    """
    async with watched(path) as monitor:
        if as_json:
            click.echo(json.dumps(figures_of(monitor)))
        else:
            width = shutil.get_terminal_size().columns
            click.echo("\n".join(node_page(monitor, width=width)))


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
