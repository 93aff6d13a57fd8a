"""Memory: a network within one process, for running nodes and testing applications without sockets.

To its user it behaves as TCP does (back-pressure, partial reads, flushing close, reset), and it
passes the same contract tests. But it is deterministic: each step is one callback of the event
loop, in a fixed order, and nothing depends on the clock or on the machine.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from typing import TYPE_CHECKING

from .base import (
    FREE_PORTS,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Address,
    Listener,
    Network,
    QueueTransport,
    Receiver,
    Transport,
    receiver_or_nobody,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryNetwork", "memory_pair"]

_CLIENT_HOST = "127.0.0.1"
"""Every dialer is on this machine."""

_ALL_HOSTS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - no socket is bound here


class _End(QueueTransport):
    """One end of a connection. The other end uses the attributes without an underscore."""

    __slots__ = ("_address", "_waiting", "broken", "chunks", "peer")

    peer: _End

    def __init__(self, receiver: Receiver, address: Address) -> None:
        super().__init__(receiver)
        self._address = address
        self.chunks: deque[memoryview] = deque()  # written here and not yet read by the peer
        self._waiting = 0  # how many bytes these are
        self.broken = False  # set at both ends at once: nothing moves, the end will be reported

    @property
    def peer_address(self) -> Address:
        return self._address

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def finished(self) -> bool:
        """Whether the stream written here has ended and the peer has read all of it."""
        return self._closing and not self.chunks

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.broken or not data:
            return
        self.chunks.append(memoryview(data))
        self._waiting += len(data)
        if self._waiting > WRITE_HIGH_BYTES and not self._paused:
            self._press(True)
        self.peer.wake()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._rest = b""
            self.peer.wake()

    def abort(self) -> None:
        self._closing = True
        self.lose(None)
        self.peer.lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def open(self) -> None:
        self._begin()

    def lose(self, cause: Exception | None) -> None:
        """Stop moving bytes, and report the end, once, in a later turn."""
        if not self.broken:
            self.broken = True
            self.chunks.clear()
            self._waiting = 0
            self._loop.call_soon(self._end, cause)

    def take(self, space: memoryview) -> int:
        """Move as many written bytes as fit into ``space``; return how many."""
        count = 0
        chunks = self.chunks
        while chunks and count < len(space):
            chunk = chunks.popleft()
            room = len(space) - count
            if len(chunk) > room:
                chunks.appendleft(chunk[room:])
                chunk = chunk[:room]
            space[count : count + len(chunk)] = chunk
            count += len(chunk)
        self._waiting -= count
        if self._paused and self._waiting <= WRITE_LOW_BYTES:
            self._press(False)
        return count

    def _read(self) -> None:
        self._reading = False
        if self._resting:
            return
        peer = self.peer
        count = peer.take(self.get_buffer())
        if count:
            self.buffer_updated(count)
        if peer.chunks:
            self.wake()
        elif peer.finished:
            # The end of the peer's stream. It reads no more, so bytes that wait for it are dropped.
            self.lose(None)
            peer.lose(None)


def memory_pair(receiver_a: Receiver, receiver_b: Receiver) -> tuple[Transport, Transport]:
    """Connect two receivers to each other, without a listener, on the running event loop.

    Each ``connection_made`` is called in a later turn of the loop, ``receiver_a``'s first. The
    transport returned first belongs to ``receiver_a``.
    """
    a, b = _connect(receiver_a, ("memory", 2), receiver_b, ("memory", 1))
    loop = asyncio.get_running_loop()
    loop.call_soon(a.open)
    loop.call_soon(b.open)
    return a, b


def _connect(
    receiver_a: Receiver, address_of_b: Address, receiver_b: Receiver, address_of_a: Address
) -> tuple[_End, _End]:
    a, b = _End(receiver_a, address_of_b), _End(receiver_b, address_of_a)
    a.peer, b.peer = b, a
    return a, b


class MemoryNetwork(Network):
    """A separate network: a listener on one instance is reached only through that instance.

    A host name is any text; ``""``, ``"0.0.0.0"`` and ``"::"`` stand for every name, as with TCP.
    Nodes that talk to each other must run on the same event loop.
    """

    def __init__(self) -> None:
        self._listeners: dict[Address, _MemoryListener] = {}
        self._last_port = FREE_PORTS.start - 1

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect to a host and port of this network.

        Raises:
            ConnectionRefusedError: Nothing listens there (on this event loop). ``receiver`` was
                not called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """
        loop = asyncio.get_running_loop()
        made: asyncio.Future[_End] = loop.create_future()
        loop.call_soon(self._make, made, receiver, (host, port))
        try:
            return await made
        except asyncio.CancelledError:
            if made.done() and not made.cancelled() and made.exception() is None:
                made.result().abort()
            raise

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at a host and port of this network; port 0 takes any free port.

        Raises:
            OSError: The address is taken.

        """
        if port == 0:
            port = self._free_port()
        for taken_host, taken_port in self._listeners:
            if taken_port == port and (taken_host == host or _ALL_HOSTS & {taken_host, host}):
                raise OSError(errno.EADDRINUSE, f"{host!r} port {port} is taken")
        listener = _MemoryListener(self._listeners, accept, (host, port))
        self._listeners[listener.address] = listener
        return listener

    def _free_port(self) -> int:
        taken = {port for _, port in self._listeners}
        self._last_port += 1
        while self._last_port in taken:
            self._last_port += 1
        return self._last_port

    def _make(self, made: asyncio.Future[_End], receiver: Receiver, address: Address) -> None:
        if made.cancelled():
            return
        host, port = address
        names = (host, *_ALL_HOSTS)
        listener = next(filter(None, (self._listeners.get((name, port)) for name in names)), None)
        if listener is None or listener.loop is not made.get_loop():
            made.set_exception(
                ConnectionRefusedError(
                    errno.ECONNREFUSED, f"nothing listens on {host!r} port {port}"
                )
            )
            return
        client, server = _connect(
            receiver,
            address,
            receiver_or_nobody(listener.accept),
            (_CLIENT_HOST, self._free_port()),
        )
        client.open()
        server.open()
        made.set_result(client)


class _MemoryListener(Listener):
    def __init__(
        self,
        listeners: dict[Address, _MemoryListener],
        accept: Callable[[], Receiver],
        address: Address,
    ) -> None:
        self._listeners = listeners
        self._address = address
        self.accept = accept
        self.loop = asyncio.get_running_loop()

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        if self._listeners.get(self._address) is self:
            del self._listeners[self._address]
