"""`RemoteMonitor`: watches a node of another process, through its monitor socket."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import reason_of
from ..stats import NodeSnapshot
from .lines import HELLO, Remark, parse
from .view import SeenEvent, View, seconds_between

if TYPE_CHECKING:
    import os
    from types import TracebackType

__all__ = ["RemoteMonitor"]

_PATIENCE = 5.0
"""Seconds within which a program must show its node."""

_LONGEST_LINE = 64 * 1024 * 1024
"""Far longer than the snapshot of a node with all the endpoints that it can serve."""


class RemoteMonitor(View):
    """Watches a node that another program of this user shows with `serve_monitor`.

    ::

        async with RemoteMonitor("/run/user/1000/app.monitor") as monitor:
            async for sample in monitor.samples():
                print(sample.rates.bytes_received)

    It keeps what a `Monitor` keeps: the last 600 samples, and the last 1,000 events since the block
    was entered. After the end, that can still be read. Entered again, it begins anew.

    Args:
        path: The path of the socket.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path = Path(path)
        self._ended = ""
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> str:
        """Why the program shows the node no longer, in its own words; empty if it has not said."""
        return self._ended

    async def __aenter__(self) -> Self:
        """Connect, and wait for the first snapshot.

        Raises:
            ConnectionError: There is no node to watch; the text says why, and what to do.
            RuntimeError: The monitor is already in use.

        """
        if self._writer is not None:
            raise RuntimeError("this monitor is already in use: make another one")
        self._begin()
        self._ended = ""
        try:
            async with asyncio.timeout(_PATIENCE):
                reader = await self._connect()
        except BaseException as error:
            self._leave()
            if isinstance(error, ValueError | OSError):
                raise ConnectionError(self._remedy(error)) from error
            raise
        self._task = asyncio.get_running_loop().create_task(self._read(reader))
        self._task.add_done_callback(self._reading_ended)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._leave()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait((task,))

    def _leave(self) -> None:
        self._end()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def _connect(self) -> asyncio.StreamReader:
        """Return what reads the lines after the first snapshot."""
        reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_LONGEST_LINE)
        if await reader.readline() != HELLO:
            raise ValueError("it does not begin as a monitor does")
        self._watching = True
        while not self._shots:
            self._take(await reader.readline())
            if self._ended:
                raise ConnectionError(self._ended)
        return reader

    def _remedy(self, error: ValueError | OSError) -> str:
        path = self._path
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.ENOENT:
            return f"there is no {path}: start the program that is to show its node there"
        if code == errno.EACCES:
            return f"you may not open {path}: only the user that runs the node may watch it"
        if code == errno.ECONNREFUSED and path.is_socket():
            return f"no program listens at {path}: the one that made it has ended"
        if code == errno.ECONNREFUSED or isinstance(error, ValueError):
            return (
                f"{path} is no monitor socket, or one of another version: name the path that the "
                "program gave to `serve_monitor`, or to --monitor"
            )
        if isinstance(error, TimeoutError):
            return (
                f"the program at {path} has not answered for {_PATIENCE:g} s: it is held up, or "
                "its socket is no monitor socket"
            )
        return f"{path}: {reason_of(error)}"

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "it has ended without a word"
        try:
            while self._watching and (data := await reader.readline()):
                self._take(data)
        except ValueError as error:
            why = str(error)
        except OSError as error:
            why = reason_of(error)
        self._end(ConnectionError(f"the node's program is gone: {why}"))

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # by other code, if this still watches
            self._end(ConnectionError("this program has cancelled the task that watches the node"))

    def _take(self, data: bytes) -> None:
        found = parse(data)
        if isinstance(found, SeenEvent):
            self._note(found)
        elif isinstance(found, NodeSnapshot):
            if self._shots and seconds_between(self._shots[-1], found) <= 0:
                raise ValueError("time goes back there")
            self._add(found)
        else:
            self._heed(found)

    def _heed(self, remark: Remark) -> None:
        if remark.kind == "end":
            self._ended = str(remark.facts.get("reason", "it does not say why"))
            self._end()
