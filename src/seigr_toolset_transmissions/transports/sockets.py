"""Stream sockets: what TCP and Unix sockets have in common as carriers of bytes.

A connection is one object that is both asyncio's protocol and this library's transport. The module
also knows every socket that is open in this process, so that a forked child can close what it
inherits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..foundation.forks import in_child
from .base import (
    NOBODY,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Address,
    Listener,
    Network,
    Nobody,
    Receiver,
    StreamTransport,
    Transport,
    receiver_or_nobody,
)

try:
    import resource
except ImportError:  # as on Windows
    _HAS_LIMITS = False
else:
    _HAS_LIMITS = True

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "BACKLOG",
    "UNIX",
    "ListeningSocket",
    "SocketListener",
    "SocketNetwork",
    "SocketTransport",
    "descriptor_limit",
    "forget",
    "open_here",
]

BACKLOG = 256
"""Connections that the system holds until they are accepted, and the most that one turn of the loop
accepts: enough for a burst of dials, but not so many that they block the loop for long."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that mean that nothing can be accepted until something else is released."""

UNIX: Any = getattr(socket, "AF_UNIX", None)
"""The family of Unix sockets; None where the system has none."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""``struct linger``: closing drops what waits and sends the peer a reset."""


class SocketTransport(StreamTransport, asyncio.BufferedProtocol):
    """One connection over a stream socket, created by its network.

    It is asyncio's protocol and this library's transport in one object, which keeps an idle
    connection cheap. All connections of a loop read into one buffer. That is safe
    because each read is one synchronous sequence, ``get_buffer``, ``recv_into``,
    ``buffer_updated``: in asyncio's selector loop within ``_read_ready__get_buffer``, in the
    proactor loop within ``_feed_data_to_buffered_proto``, and in uvloop because libuv calls
    its allocation callback directly before ``read(2)`` and the read callback directly after it.
    When the read in the middle fails, ``get_buffer`` is simply called again later.
    """

    __slots__ = ("_address", "_stream")

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver)
        self._stream: asyncio.Transport | None = None
        self._address: Address = ("", 0)

    @property
    def peer_address(self) -> Address:
        """Where the peer is; ``("", 0)`` if it was gone before that was known."""
        return self._address

    @property
    def waiting(self) -> int:
        """Bytes that were written and that the system has not accepted yet."""
        return 0 if self._stream is None else self._stream.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, as `Transport.write` says."""
        stream = self._stream
        # is_closing: after an error, asyncio counts and logs each write until it reports the error.
        if not self._closing and stream is not None and not stream.is_closing():
            stream.write(data)

    def pause_reading(self) -> None:
        """Stop reading for now, as `Transport.pause_reading` says."""
        if self._stream is not None and not self._stream.is_closing():
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading, as `Transport.resume_reading` says."""
        if self._stream is not None and not self._stream.is_closing():
            self._stream.resume_reading()
            self._present_again()

    def close(self) -> None:
        """Send what was written, then end the stream, as `Transport.close` says."""
        # Closing a socket that still has something to read makes the system send a reset, which
        # may destroy bytes on their way to the peer. So we end the stream in one direction, and
        # discard the rest of the other one until the peer has seen the end.
        if self._closing:
            return
        self._closing = True
        self._rest = b""
        stream = self._stream
        if stream is None or stream.is_closing():
            return
        if stream.get_write_buffer_size():
            stream.set_write_buffer_limits(0)  # so resume_writing comes when all has gone out
        else:
            self._end_stream()

    def abort(self) -> None:
        """End the connection at once, over TCP with a reset, as `Transport.abort` says."""
        self._closing = True
        self._rest = b""
        stream = self._stream
        if stream is None:
            return
        sock = stream.get_extra_info("socket")  # uvloop has none once it is closed
        if sock is not None and sock.family != UNIX and not stream.is_closing():
            # Without this a TCP peer would take a message cut off midway for a clean end, and the
            # system would keep megabytes for a peer that does not read.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            stream.abort()
        except RuntimeError:  # the loop is closed, and will never close the socket
            with contextlib.suppress(OSError):
                _replace(self.descriptors())

    def give_away(self, give: Callable[[int], object]) -> None:
        """Give the connection's descriptor away, as `Transport.give_away` says."""
        stream, numbers = self._stream, self.descriptors()
        if self._closing or stream is None or stream.is_closing() or not numbers:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if stream.get_write_buffer_size() or self._rest:
            raise OSError(errno.EBUSY, "bytes of the connection wait in this process")
        give(numbers[0])
        self._closing = True
        # Without a reset, without an end of the stream: this closes a descriptor, and the
        # connection has another one now.
        stream.abort()

    def _end_stream(self) -> None:
        stream = self._stream
        if stream is not None and not stream.is_closing():
            try:
                stream.write_eof()
            except OSError:  # the peer is gone already
                stream.abort()

    def adopt(self, receiver: Receiver) -> None:
        """Give the new connection to its real receiver. For a dial only."""
        self._receiver = receiver
        receiver.connection_made(self)

    def disown(self) -> None:
        """End a connection whose dial was cancelled. For a dial only."""
        self.abort()
        # uvloop reports no end to a connection whose creation was cancelled.
        asyncio.get_running_loop().call_soon(self.connection_lost, None)

    @property
    def reaches_peer(self) -> bool:
        """Whether the other end is another socket; known while the connection lasts.

        If nothing listens on a port in the range that the system assigns to dials, a dial to it
        from the same machine may be assigned that very port, and reach itself. It would then hold
        the port, so that nothing could listen there. And if too many connections wait at a Unix
        socket, asyncio may report one that was never made, and that has no peer.
        """
        stream = self._stream
        if stream is None:
            return False
        peer = stream.get_extra_info("peername")
        return peer is not None and stream.get_extra_info("sockname") != peer

    def descriptors(self) -> list[int]:
        """Return the descriptor of the open socket, or nothing if it is closed."""
        stream = self._stream
        sock = None if stream is None else stream.get_extra_info("socket")
        return [] if sock is None else [sock.fileno()]

    @staticmethod
    @abstractmethod
    def _read_name(name: Any) -> Address:
        """Return the address that a socket's name stands for."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        # Selector loops and uvloop turn Nagle's algorithm off (TCP_NODELAY) on their own.
        stream = self._stream = cast("asyncio.Transport", transport)
        open_here().add(self)
        stream.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        name = stream.get_extra_info("peername")
        if name is not None:
            self._address = self._read_name(name)
        self._begin()

    def eof_received(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        # A peer that has ended its stream reads no more (see close): drop what waits for it.
        if self._stream is not None:
            self._stream.abort()

    def pause_writing(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        self._press(True)  # asyncio calls this within write()

    def resume_writing(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        if self._closing:
            # Later: asyncio does not expect the stream to be ended during its own write.
            asyncio.get_running_loop().call_soon(self._end_stream)
        else:
            self._press(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        if self._stream is not None:
            self._stream = None
            forget(self)
            self._end(exc)


class ListeningSocket(socket.socket):
    """A socket that makes asyncio notice a lack of descriptors once, not hundreds of times.

    When it cannot accept for lack of descriptors, asyncio pauses for a second. But before that it
    keeps trying in the same turn, up to `BACKLOG` times, with a log record and a timer for each.
    """

    __slots__ = ("_exhausted",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exhausted = False

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, as `socket.socket.accept` does."""
        exhausted, self._exhausted = self._exhausted, False
        if exhausted:
            raise BlockingIOError  # this ends the turn
        try:
            return super().accept()
        except OSError as error:
            self._exhausted = error.errno in _EXHAUSTED
            raise


class SocketListener(Listener):
    """Accepts connections at one or more sockets that are already bound."""

    def __init__(
        self,
        accept: Callable[[], Receiver],
        sockets: list[socket.socket],
        address: Address,
        make: Callable[[Receiver], SocketTransport],
    ) -> None:
        self._accept = accept
        self._sockets = sockets
        self._address = address
        self._make = make
        self._servers: list[asyncio.Server] = []
        self._closed = False
        open_here().add(self)

    @property
    def address(self) -> Address:
        """Where it listens, as `Listener.address` says."""
        return self._address

    def descriptors(self) -> list[int]:
        """Return the descriptors of the open sockets."""
        return [sock.fileno() for sock in self._sockets]

    async def start(self) -> None:
        """Accept connections from now on. After an error or a cancellation it is closed."""
        try:
            for sock in self._sockets:
                self._servers.append(await self._serve(sock))
            for server in self._servers:
                await server.start_serving()
        except BaseException:
            await self.close()
            raise

    async def _serve(self, sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if sock.family == UNIX else loop.create_server
        return await create(self._make_transport, sock=sock, backlog=BACKLOG, start_serving=False)

    async def close(self) -> None:
        """Stop accepting, as `Listener.close` says."""
        self._closed = True
        # Not wait_closed(): from Python 3.12.1 on it waits for the connections to end.
        for server in self._servers:
            server.close()
        self._servers.clear()
        for sock in self._sockets:  # if starting has failed, some have no server
            sock.close()
        forget(self)

    def _make_transport(self) -> SocketTransport:
        # The loop may have accepted a connection just before the listener was closed.
        return self._make(NOBODY if self._closed else receiver_or_nobody(self._accept))


class SocketNetwork(Network):
    """A network whose connections take a descriptor each."""

    @staticmethod
    async def connect(
        receiver: Receiver,
        make: Callable[[Receiver], SocketTransport],
        connect: Callable[[Callable[[], SocketTransport]], Awaitable[tuple[Any, SocketTransport]]],
    ) -> SocketTransport:
        """Do what `Network.dial` does, given a way to make a transport and one to connect it."""
        attempt = _Attempt(receiver)
        try:
            _, transport = await connect(lambda: make(attempt))
            attempt.check()
        except BaseException:
            attempt.give_up()
            raise
        return transport


class _Attempt(Nobody):
    """Dials one address, and gives the connection to its receiver once it is made.

    (Until then it is itself the connection's receiver, so it knows before anything can be read.
    Connecting a socket first and then handing it to the loop does not work: if the connection is
    lost at once, or the dial is cancelled, uvloop leaves the socket object open, with a file number
    that belongs to something else.)
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: SocketTransport | None = None
        self._vain = False
        self._given_up = False

    def check(self) -> None:
        """Raise ConnectionRefusedError if the connection has not reached a peer."""
        if self._vain:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def give_up(self) -> None:
        """Leave nothing open."""
        self._given_up = True
        if self._transport is not None:
            self._transport.disown()

    def connection_made(self, transport: Transport) -> None:
        """Give the connection to the receiver, if it has reached a peer."""
        made = cast("SocketTransport", transport)
        self._vain = not made.reaches_peer
        if self._vain or self._given_up:
            made.abort()
        else:
            self._transport = made
            made.adopt(self._receiver)


class _Open(Protocol):
    """Something that has sockets."""

    def descriptors(self) -> list[int]:
        """Return the descriptors of its open sockets."""


_open: dict[asyncio.AbstractEventLoop, set[_Open]] = {}
"""Everything open in this process, by event loop. (A weak reference to each would cost an idle
connection more than everything else that is kept about it here.)"""


def open_here() -> set[_Open]:
    """Return everything open in the running loop. The first call in a loop forgets closed ones."""
    loop = asyncio.get_running_loop()
    found = _open.get(loop)
    if found is None:
        for closed in [other for other in _open if other.is_closed()]:
            del _open[closed]
        found = _open[loop] = set()
    return found


def forget(ended: _Open) -> None:
    """Note that something is no longer open."""
    for found in _open.values():
        found.discard(ended)


def _replace(numbers: list[int]) -> None:
    """Close sockets, and put a useless one in the place of each.

    For sockets of an event loop that cannot close them itself. The loop and its objects do not know
    of this, and may close the number again later. It must not belong to anything else by then.

    Raises:
        OSError: No descriptor is free for the other socket; nothing has changed.

    """
    with socket.socket() as dead:
        own = dead.fileno()
        for number in numbers:
            if number != own:
                os.dup2(own, number, inheritable=False)
        if own in numbers:  # the caller has just closed that one: this is the other socket
            dead.detach()


def _close_in_child() -> None:
    """Close what a forked child has inherited, without the parent noticing.

    It neither shuts the sockets down nor sets options: that would affect the connections, which are
    the parent's. Nor does it use the loop and its transports: parent and child may share one epoll,
    and they would remove the parent's sockets from it. They cannot do so any more once the numbers
    belong to other sockets.
    """
    every = [each for found in _open.values() for each in found]
    _open.clear()
    numbers = [number for each in every for number in each.descriptors() if number >= 0]
    with contextlib.suppress(OSError):
        try:
            _replace(numbers)
        except OSError:  # no descriptor is free: free one of these; no other thread can take it
            os.close(numbers[0])
            _replace(numbers)


in_child(_close_in_child)


def descriptor_limit() -> int | None:
    """Return how many descriptors this process may have open; None if there is no such limit."""
    if not _HAS_LIMITS:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit
