"""A network of thin links, or links cut regularly: wraps another `Network` at its dialers' end.

Each direction of a link has its own rate, or all links share one rate in each direction. Bytes that
wait for their turn lie in the link, as in the buffers of a router or a proxy: the listener sees
everything it writes accepted at once, while the dialer is paused as a socket would pause it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from helpers.between import Between
from helpers.fault_network import Direction
from seigr_toolset_transmissions.transports.base import (
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Listener,
    Network,
    Receiver,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 256


class _Line:
    """Carries one chunk at a time, first come, first served."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def carry(self, size: int, arrived: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + size / self._rate
        loop.call_at(self._free_at, arrived)


class _Pipe:
    """One direction of one link."""

    def __init__(self, line: _Line, deliver: Callable[[bytes], None]) -> None:
        self._line = line
        self._deliver = deliver
        self._chunks: deque[bytes] = deque()
        self._busy = False
        self.waiting = 0
        self.emptied: Callable[[], None] | None = None

    def add(self, data: bytes) -> None:
        self.waiting += len(data)
        self._chunks.extend(
            data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)
        )
        self._next()

    def clear(self) -> None:
        self._chunks.clear()
        self.waiting = 0

    def _next(self) -> None:
        if self._chunks and not self._busy:
            self._busy = True
            self._line.carry(len(self._chunks[0]), self._arrived)

    def _arrived(self) -> None:
        self._busy = False
        if self._chunks:
            chunk = self._chunks.popleft()
            self.waiting -= len(chunk)
            self._deliver(chunk)
        self._next()
        if not self._chunks and self.emptied is not None:
            self.emptied()


class ThinNetwork(Network):
    """Dials over thin links; listens directly.

    Args:
        inner: The network that finally carries the bytes.
        rate: Bytes per second in each direction.
        shared: Whether that is the rate of all links together.
        life: Seconds after which each link is cut; None: never.

    Attributes:
        dials: How many links have been dialed.
        carried: Bytes that the links have delivered, by direction.

    """

    def __init__(
        self, inner: Network, rate: float, *, shared: bool = False, life: float | None = None
    ) -> None:
        self._inner = inner
        self._rate = rate
        self._lines = {direction: _Line(rate) for direction in Direction} if shared else None
        self.life = life
        self.dials = 0
        self.carried = dict.fromkeys(Direction, 0)

    def line(self, direction: Direction) -> _Line:
        return _Line(self._rate) if self._lines is None else self._lines[direction]

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        self.dials += 1
        link = _Link(self, receiver)
        await self._inner.dial(link, host, port)
        if self.life is not None:
            asyncio.get_running_loop().call_later(self.life, link.cut)
        return link

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        return await self._inner.listen(accept, host, port)


class _Link(Between):
    """A connection that carries a limited number of bytes a second."""

    def __init__(self, network: ThinNetwork, receiver: Receiver) -> None:
        super().__init__(receiver)
        self._network = network
        self._out = _Pipe(network.line(Direction.OUT), self._gone_out)
        self._in = _Pipe(network.line(Direction.IN), self._come_in)
        self._paused = False

    def cut(self) -> None:
        self._out.clear()
        self._in.clear()
        self._transport.abort()
        self._lose(ConnectionResetError("the link was cut"))

    def _gone_out(self, data: bytes) -> None:
        self._network.carried[Direction.OUT] += len(data)
        self._transport.write(data)
        if self._paused and self._out.waiting <= WRITE_LOW_BYTES:
            self._paused = False
            self._receiver.resume_writing()

    def _come_in(self, data: bytes) -> None:
        self._network.carried[Direction.IN] += len(data)
        self._give(data)

    # Called by the dialer.

    @property
    def waiting(self) -> int:
        return self._out.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._out.add(bytes(data))
        if self._out.waiting > WRITE_HIGH_BYTES and not self._paused:
            self._paused = True
            self._receiver.pause_writing()

    def pause_reading(self) -> None:
        """Not needed: a thin link brings little at a time."""

    def resume_reading(self) -> None:
        asyncio.get_running_loop().call_soon(self._come_in, b"")

    def close(self) -> None:
        if self._out.waiting:
            self._out.emptied = self._transport.close
        else:
            self._transport.close()

    def abort(self) -> None:
        self._out.clear()
        self._in.clear()
        self._transport.abort()

    # Called by the real transport.

    def bytes_received(self, data: memoryview) -> int:
        self._in.add(bytes(data))
        return len(data)

    def pause_writing(self) -> None:
        """Never needed: the real transport takes far more than a thin link brings."""

    def resume_writing(self) -> None:
        """Never needed: see `pause_writing`."""

    def connection_lost(self, cause: Exception | None) -> None:
        if cause is None and self._in.waiting:
            self._in.emptied = lambda: self._lose(None)
        else:
            self._lose(cause)
