"""`stt send`: one file to one peer, acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from .. import NodeConfig, Session, SessionState
from ..errors import STTSessionClosedError, STTSessionLostError
from .failures import Failure, Misuse
from .keyboard import unechoed
from .nodes import connect_to, running
from .notes import console
from .rates import describe
from .streams import InputStream

if TYPE_CHECKING:
    from pathlib import Path

    from .seeds import Seeds

__all__ = ["send_file"]

_REDRAW_SECONDS = 0.1
_NAME_WIDTH = 24
"""A longer name is cut, so that the figures beside it are seen."""


async def send_file(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    path: Path,
    *,
    expect: bytes | None,
) -> None:
    """Send a file, have all of it acknowledged, and close the session; print what was sent.

    Raises:
        Misuse: The file cannot be read.
        Failure: The peer closed the session before it had everything.
        STTError: The peer could not be reached, or the session was lost.

    If it does not succeed, the session is not closed but aborted: the peer knows at once that
    something is missing.

    """
    descriptor = _open(path)
    try:
        async with running(seeds, config) as node:
            session = await connect_to(node, address, expect=expect, seeds=seeds)
            began = time.monotonic()
            try:
                size, digest = await _send(session, path.name, descriptor)
                seconds = time.monotonic() - began
                await session.close()
            except STTSessionClosedError as error:
                session.abort("given up")  # if it is not closed yet
                lost = isinstance(error, STTSessionLostError)
                why = str(error) if lost else "the peer has closed the session"
                raise Failure(f"{path} has not arrived as a whole: {why}") from error
            except BaseException:
                session.abort("interrupted")
                raise
    finally:
        os.close(descriptor)
    click.echo(f"sent {describe(size, seconds)}, sha256 {digest}")


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Misuse(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Misuse(f"{path} is a directory: pipe it, `tar c {path} | stt connect --raw ...`")
    return descriptor


async def _send(session: Session, name: str, descriptor: int) -> tuple[int, str]:
    """Send what the descriptor gives; return how many bytes that was, and their SHA-256."""
    file = InputStream(descriptor, name)
    digest = hashlib.sha256()
    size = 0
    with unechoed(), _progress(name, descriptor) as progress:
        drawing = asyncio.create_task(_draw(progress, session))
        try:
            while chunk := await file.read():
                await session.send(chunk)
                digest.update(chunk)
                size += len(chunk)
            await session.flush()
            progress.update(progress.task_ids[0], completed=size, state="", refresh=True)
        finally:
            drawing.cancel()
    return size, digest.hexdigest()


def _progress(name: str, descriptor: int) -> Progress:
    progress = Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_NAME_WIDTH),
        ),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=console,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    status = os.fstat(descriptor)
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    progress.add_task(name, total=size, state="")
    return progress


async def _draw(progress: Progress, session: Session) -> None:
    """Show how much the peer has acknowledged, until cancelled."""
    task_id = progress.task_ids[0]
    while True:
        stats = session.stats
        state = "" if session.state is SessionState.OPEN else "(no connection)"
        progress.update(
            task_id,
            completed=max(0, stats.bytes_sent - stats.unacknowledged_bytes),
            state=state,
            refresh=True,
        )
        await asyncio.sleep(_REDRAW_SECONDS)
