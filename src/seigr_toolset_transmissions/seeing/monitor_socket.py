"""`serve_monitor`: shows a node to other programs of this user, through a Unix socket."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING

from ..errors import STTListenError, reason_of
from ..transports.base import NOBODY
from ..transports.unix import LONGEST_PATH, listen_privately
from .lines import HELLO, event_line, line, snapshot_line
from .monitor import Monitor

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from ..node import STTNode
    from ..stats import NodeSnapshot
    from ..transports.base import Receiver, Transport
    from .view import News, Rates

__all__ = ["serve_monitor"]

_MOST_READERS = 8

_MOST_WAITING_BYTES = 256 * 1024
"""A reader for which more waits misses events. It misses snapshots if anything waits for it."""

_PAUSE = 0.25
"""Seconds from one look at what is new to the next, so that a burst of events is one write."""

_MOST_EVENTS = 100
"""Events that one such write has at most: the latest ones."""

_SHARE = 20
"""A pause lasts at least this many times as long as the writing before it took."""

_GOODBYE_SECONDS = 1.0
"""How long the end waits for readers to take the last line."""


@asynccontextmanager
async def serve_monitor(node: STTNode, path: str | os.PathLike[str]) -> AsyncIterator[None]:
    """Show the node at a Unix socket, for ``stt top`` and `RemoteMonitor`, while the block lasts.

    ::

        async with serve_monitor(node, "/run/user/1000/app.monitor"), node.listening():
            ...

    Only this user may connect (mode 0600), eight readers at a time. While one is connected, a
    `Monitor` watches the node; otherwise nothing runs. A reader that does not keep up misses
    snapshots and events, and never holds up the node. ``docs/monitoring.md`` describes what can be
    read: lines of JSON, without a payload, a seed or a key.

    The node may start and stop at any time. When it stops, readers are told, and disconnected.
    The socket is removed at the end of the block, which takes a second at most. A socket that a
    killed program has left behind is replaced.

    Args:
        node: The node to show. It runs in this event loop.
        path: Where to make the socket. Its folder must exist. At most 103 bytes.

    Raises:
        STTListenError: On entering: there can be no socket; the text says why and what to do.

    """
    server = _Server(node)
    where = Path(path)
    try:
        listener = await listen_privately(server.accept, where)
    except OSError as error:
        raise STTListenError(_remedy(where, error)) from error
    try:
        yield
    finally:
        await listener.close()
        await server.end()


def _remedy(path: Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        if path.is_socket():
            why = "a program shows a node there already: choose another path, or stop it first"
        else:
            why = "another file is in its place: choose another path, or remove the file"
    elif error.errno == errno.ENOENT:
        why = "its folder does not exist: make it first"
    elif error.errno == errno.EACCES:
        why = "permission denied: choose a folder in which you may create files"
    elif error.errno == errno.ENAMETOOLONG:
        why = f"the path is too long for a Unix socket: use at most {LONGEST_PATH} bytes"
    else:
        why = reason_of(error)
    return f"the node cannot be shown at {path}: {why}"


class _Reader:
    """A program that is connected: the receiver of its connection."""

    def __init__(self, server: _Server) -> None:
        self._server = server

    def connection_made(self, transport: Transport) -> None:
        """Begin."""
        self._transport = transport
        transport.write(HELLO)
        self._server.admit(self)

    def bytes_received(self, data: memoryview) -> int:
        """Ignore what it says."""
        return len(data)

    def pause_writing(self) -> None:
        """Do nothing: what waits is looked at before each write."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def connection_lost(self, cause: Exception | None) -> None:
        """End."""
        self._server.forget(self)

    @property
    def keeps_up(self) -> bool:
        """Whether all that was written has gone out."""
        return not self._transport.waiting

    def write(self, data: bytes) -> None:
        """Write a line."""
        self._transport.write(data)

    def write_events(self, data: bytes) -> None:
        """Write the lines of events, unless too much waits already: their numbers show the gap."""
        if self._transport.waiting <= _MOST_WAITING_BYTES:
            self._transport.write(data)

    def end(self, last: bytes) -> None:
        """Write one more line, and end."""
        self._transport.write(last)
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()


class _Server:
    """All readers of one socket, and the task that shows the node to them."""

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._monitor: Monitor | None = None
        self._written: NodeSnapshot  # the last one; the monitor may have a newer one
        self._task: asyncio.Task[str] | None = None
        self._readers: set[_Reader] = set()
        self._leaving: set[_Reader] = set()  # they have their last line
        self._empty = asyncio.Event()

    def accept(self) -> Receiver:
        """Return what is to receive from a new connection."""
        full = len(self._readers) + len(self._leaving) >= 2 * _MOST_READERS
        return NOBODY if full else _Reader(self)

    def admit(self, reader: _Reader) -> None:
        """Show the node to one more reader, unless there are too many."""
        if len(self._readers) >= _MOST_READERS:
            self._dismiss(reader, f"{_MOST_READERS} programs watch this node already")
            return
        self._readers.add(reader)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._show())
            self._task.add_done_callback(self._showing_ended)
        elif self._monitor is not None:
            reader.write(snapshot_line(self._written, None))

    def _dismiss(self, reader: _Reader, reason: str) -> None:
        self._readers.discard(reader)
        self._leaving.add(reader)
        reader.end(line("end", reason=reason))

    def forget(self, reader: _Reader) -> None:
        """Go on without a reader."""
        self._readers.discard(reader)
        self._leaving.discard(reader)
        if not self._readers and self._task is not None:
            self._task.cancel()
            self._task = self._monitor = None
        if not self._leaving:
            self._empty.set()

    async def _show(self) -> str:
        """Show the node for as long as it runs; return why that has ended.

        It is cancelled when nobody reads any more.
        """
        async with AsyncExitStack() as stack:
            try:
                monitor = await stack.enter_async_context(Monitor(self._node))
            except RuntimeError as error:
                return str(error).partition(":")[0]  # the rest is for its program
            self._monitor = monitor
            self._write_sample(monitor)
            async for news in monitor.news():
                began = thread_time()
                self._write_events(news)
                if news.sample is not None:
                    self._write_sample(monitor, news.sample.rates)
                await asyncio.sleep(max(_PAUSE, _SHARE * (thread_time() - began)))
        return "the node has stopped"

    def _showing_ended(self, task: asyncio.Task[str]) -> None:
        if task is not self._task:
            return  # this side has cancelled it
        self._task = self._monitor = None
        reason = "its program has cancelled what shows it" if task.cancelled() else task.result()
        for reader in list(self._readers):
            self._dismiss(reader, reason)

    def _write_sample(self, monitor: Monitor, rates: Rates | None = None) -> None:
        self._written = monitor.snapshot
        if ready := [reader for reader in self._readers if reader.keeps_up]:
            data = snapshot_line(self._written, rates)
            for reader in ready:
                reader.write(data)

    def _write_events(self, news: News) -> None:
        data = b"".join(map(event_line, news.events[-_MOST_EVENTS:]))
        for reader in self._readers:
            reader.write_events(data)

    async def end(self) -> None:
        """Tell the readers, and let them go; after a second or a cancellation, at once."""
        try:
            if (task := self._task) is not None:
                if self._monitor is not None and not self._monitor.watching:
                    await asyncio.wait((task,), timeout=_GOODBYE_SECONDS)  # it says why
                task.cancel()
                self._task = self._monitor = None
            for reader in list(self._readers):
                self._dismiss(reader, "its program shows this node no longer")
            if self._leaving:
                self._empty.clear()
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._empty.wait()
        except TimeoutError:
            pass
        finally:
            for reader in list(self._leaving):
                reader.abort()
