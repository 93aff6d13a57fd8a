"""A cable that can be pulled, and a balancer: TCP relays between peers of the demo and hubs."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Balancer", "Cable"]

_CHUNK_BYTES = 64 * 1024


class Cable:
    """Relays connections from a port of its own to a target, except while it is cut."""

    def __init__(self) -> None:
        self.swallowed: int = 0
        """Bytes that were in the cable when it was cut, and never came out."""
        self.whole: bool = True
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> int:
        """Begin to relay to the target; return the port where the cable begins."""
        self._target = (host, port)
        self._server = await asyncio.start_server(self._plugged, "127.0.0.1", 0)
        begin: int = self._server.sockets[0].getsockname()[1]
        return begin

    def cut(self) -> None:
        """Swallow everything from now on, and refuse connections."""
        self.whole = False

    def drop(self) -> None:
        """Hang up, so that both ends notice the cut."""
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Relay again."""
        self.whole = True

    async def close(self) -> None:
        """End every connection and relay no more."""
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._target)

    def _plugged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._own(self._relay(reader, writer))

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.whole:
                with suppress(OSError):
                    far_reader, far_writer = await self._dial()
                    self._own(self._pump(far_reader, writer))
                    await self._pump(reader, far_writer)
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError):
                while chunk := await reader.read(_CHUNK_BYTES):
                    if self.whole:
                        writer.write(chunk)
                        await writer.drain()
                    else:
                        self.swallowed += len(chunk)
        finally:
            self._writers.discard(writer)
            writer.close()


class Balancer(Cable):
    """Leads each new connection to the next of several targets, or the one after if that fails.

    Attributes:
        targets: Hosts and ports.

    """

    def __init__(self) -> None:
        super().__init__()
        self.targets: deque[tuple[str, int]] = deque()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(len(self.targets)):
            self.targets.rotate(-1)
            with suppress(OSError):
                return await asyncio.open_connection(*self.targets[-1])
        raise ConnectionRefusedError
