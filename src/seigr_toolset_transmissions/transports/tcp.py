"""TCP: the transport that carries bytes between machines."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, cast

from seigr_toolset_transmissions.forks import in_child
from seigr_toolset_transmissions.transports.base import (
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
from seigr_toolset_transmissions.transports.lookup import AddressInfo, look_up

try:
    import resource
except ImportError:  # as on Windows
    _HAS_LIMITS = False
else:
    _HAS_LIMITS = True

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TcpNetwork", "TcpTransport", "descriptor_limit"]

_BACKLOG = 256
"""Connections that the system holds until they are accepted, and that one turn of the loop accepts
at most: enough for a burst of dials, and not so many that the loop stands still for long."""

_PORT_ATTEMPTS = 16
"""How often another free port is tried when it is not free for each address of a name."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say that nothing can be accepted until something else is given back."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""``struct linger``: closing drops what waits and tells the peer so."""


class TcpTransport(StreamTransport, asyncio.BufferedProtocol):
    """One TCP connection. Made by `TcpNetwork`.

    It is asyncio's protocol and this library's transport in one object, because an idle connection
    should cost little. It reads into one buffer for all connections of the loop. That is safe
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
        """Host and port; ``("", 0)`` if the peer was gone before it could be asked for."""
        return self._address

    @property
    def waiting(self) -> int:
        """Bytes that were written and that the system has not taken yet."""
        return 0 if self._stream is None else self._stream.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, as `Transport.write` says."""
        stream = self._stream
        # is_closing: after an error asyncio would count and log each write until it reports it.
        if not self._closing and stream is not None and not stream.is_closing():
            stream.write(data)

    def pause_reading(self) -> None:
        """Read no more for now, as `Transport.pause_reading` says."""
        if self._stream is not None and not self._stream.is_closing():
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Read on, as `Transport.resume_reading` says."""
        if self._stream is not None and not self._stream.is_closing():
            self._stream.resume_reading()
            self._present_again()

    def close(self) -> None:
        """Send what was written, then end the stream, as `Transport.close` says."""
        # Closing a socket that still has something to read makes the system send a reset, which
        # may destroy what is on its way to the peer. So the stream is ended in one direction,
        # and the rest of the other one read and thrown away until the peer has seen the end.
        if self._closing:
            return
        self._closing = True
        self._rest = b""
        stream = self._stream
        if stream is None or stream.is_closing():
            return
        if stream.get_write_buffer_size():
            stream.set_write_buffer_limits(0)  # now resume_writing tells that all has gone out
        else:
            self._end_stream()

    def abort(self) -> None:
        """End the connection at once, with a TCP reset, as `Transport.abort` says."""
        self._closing = True
        self._rest = b""
        stream = self._stream
        if stream is None:
            return
        sock = stream.get_extra_info("socket")  # uvloop has none once it is closed
        if sock is not None and not stream.is_closing():
            # Without this the peer would take a message cut off in the middle for a clean end,
            # and the system would keep megabytes for a peer that does not read.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            stream.abort()
        except RuntimeError:  # the loop is closed, and will not close the socket any more
            _replace(self.descriptors())

    def _end_stream(self) -> None:
        stream = self._stream
        if stream is not None and not stream.is_closing():
            try:
                stream.write_eof()
            except OSError:  # the peer is gone already
                stream.abort()

    def adopt(self, receiver: Receiver) -> None:
        """Give the connection, just made, to its real receiver. For `TcpNetwork.dial` only."""
        self._receiver = receiver
        receiver.connection_made(self)

    def disown(self) -> None:
        """End a connection whose dial was cancelled. For `TcpNetwork.dial` only."""
        self.abort()
        # uvloop reports no end to a connection whose creation was cancelled.
        asyncio.get_running_loop().call_soon(self.connection_lost, None)

    @property
    def reaches_itself(self) -> bool:
        """Whether both ends are one socket; known while the connection lasts.

        If nobody listens on a port from which the system takes those of dials, a dial of it from
        the same machine may be given that very port, and meets itself. It would hold the port, so
        that nobody could listen there any more.
        """
        stream = self._stream
        return stream is not None and (
            stream.get_extra_info("sockname") == stream.get_extra_info("peername") is not None
        )

    def descriptors(self) -> list[int]:
        """Return the numbers of the sockets that are open: one or none."""
        stream = self._stream
        sock = None if stream is None else stream.get_extra_info("socket")
        return [] if sock is None else [sock.fileno()]

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        # Selector loops and uvloop turn Nagle's algorithm off (TCP_NODELAY) on their own.
        stream = self._stream = cast("asyncio.Transport", transport)
        _open_here().add(self)
        stream.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        name = stream.get_extra_info("peername")
        if name is not None:
            self._address = _address(name)
        self._begin()

    def eof_received(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        # Who has ended its stream reads no more (see close): what waits for it can be dropped.
        if self._stream is not None:
            self._stream.abort()

    def pause_writing(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        self._press(True)  # asyncio calls this within write()

    def resume_writing(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        if self._closing:
            # Later: asyncio does not expect the stream to be ended in the midst of its own write.
            asyncio.get_running_loop().call_soon(self._end_stream)
        else:
            self._press(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        if self._stream is not None:
            self._stream = None
            _forget(self)
            self._end(exc)


class _ListeningSocket(socket.socket):
    """A socket that makes asyncio take note of a lack of descriptors once, and not in numbers.

    Having failed to accept for lack of them, asyncio pauses for a second; but before that it goes
    on trying in the same turn, up to `_BACKLOG` times, with a log record and a timer for each.
    """

    __slots__ = ("_exhausted",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exhausted = False

    def accept(self) -> tuple[socket.socket, Any]:
        exhausted, self._exhausted = self._exhausted, False
        if exhausted:
            raise BlockingIOError  # this ends the turn
        try:
            return super().accept()
        except OSError as error:
            self._exhausted = error.errno in _EXHAUSTED
            raise


class _TcpListener(Listener):
    def __init__(self, accept: Callable[[], Receiver], sockets: list[socket.socket]) -> None:
        self._accept = accept
        self._sockets = sockets
        self._address = _address(sockets[0].getsockname())
        self._servers: list[asyncio.Server] = []
        self._closed = False
        _open_here().add(self)

    @property
    def address(self) -> Address:
        return self._address

    def descriptors(self) -> list[int]:
        """Return the numbers of the sockets that are open."""
        return [sock.fileno() for sock in self._sockets]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._servers.append(
                await loop.create_server(
                    self._make_transport, sock=sock, backlog=_BACKLOG, start_serving=False
                )
            )
        for server in self._servers:
            await server.start_serving()

    async def close(self) -> None:
        self._closed = True
        # Not wait_closed(): from Python 3.12.1 on it waits for the connections to end.
        for server in self._servers:
            server.close()
        self._servers.clear()
        for sock in self._sockets:  # of servers that were not made, if starting them has failed
            sock.close()
        _forget(self)

    def _make_transport(self) -> TcpTransport:
        # The loop may have accepted a connection already when the listener is closed.
        return TcpTransport(NOBODY if self._closed else receiver_or_nobody(self._accept))


class TcpNetwork(Network):
    """Reaches peers over TCP, by IPv4 and IPv6."""

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        """Look a name up; return its numeric addresses, the two families in turn.

        Raises:
            OSError: The name is unknown, or can be none.

        """
        with contextlib.suppress(ValueError):
            ip_address(host)
            return [(host, port)]  # a name has to be looked up, and this would take as long
        infos = _alternate_families(await look_up(host, port, urgent=urgent))
        return [_address(info[4]) for info in infos]

    async def dial(self, receiver: Receiver, host: str, port: int) -> TcpTransport:
        """Connect to a numeric address, or to the first one of a name.

        Raises:
            OSError: The name is unknown, or the address could not be reached. ``receiver`` was not
                called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """
        attempt = _Attempt(receiver)
        try:
            return await attempt.run((await look_up(host, port))[0])
        except BaseException:
            attempt.give_up()
            raise

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at a host name or address; ``""`` stands for all of this machine's.

        All addresses of a name (``localhost`` may have one of each family) are listened on, with
        the same port. `Listener.address` is the first of them.

        Raises:
            OSError: An address is taken, or none is of this machine.

        If cancelled, nothing is left open.

        """
        sockets = _bind(await look_up(host or None, port, socket.AI_PASSIVE))
        listener = _TcpListener(accept, sockets)
        try:
            await listener.start()
        except BaseException:
            await listener.close()
            raise
        return listener


_open: dict[asyncio.AbstractEventLoop, set[TcpTransport | _TcpListener]] = {}
"""What is open in this process, by its event loop. (To refer to each weakly would cost an idle
connection more than the rest of what is kept of it here.)"""


def _open_here() -> set[TcpTransport | _TcpListener]:
    """Return what is open in the running loop. The first call in a loop forgets closed loops."""
    loop = asyncio.get_running_loop()
    found = _open.get(loop)
    if found is None:
        for closed in [other for other in _open if other.is_closed()]:
            del _open[closed]
        found = _open[loop] = set()
    return found


def _forget(ended: TcpTransport | _TcpListener) -> None:
    for found in _open.values():
        found.discard(ended)


def _replace(numbers: list[int]) -> None:
    """Close sockets, and leave another one, good for nothing, in the place of each.

    For sockets that belong to an event loop that cannot close them itself. It and its objects know
    nothing of this, and may close the number again later: a stranger must not have got it by then.
    """
    with socket.socket() as dead:
        for number in numbers:
            if number >= 0:
                os.dup2(dead.fileno(), number, inheritable=False)


def _close_in_child() -> None:
    """Close what a forked child has inherited, so that the parent does not notice.

    No shutdown, no option set: they would act on the connection, which is the parent's. Nor are the
    loop and its transports asked: parent and child may share one epoll, from which they would
    remove the parent's sockets. They cannot any more, once the numbers stand for other sockets.
    """
    every = [each for found in _open.values() for each in found]
    _replace([number for each in every for number in each.descriptors()])
    _open.clear()


in_child(_close_in_child)


def descriptor_limit() -> int | None:
    """Return how many descriptors this process may have open; None if there is no such limit."""
    if not _HAS_LIMITS:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


class _Attempt(Nobody):
    """Dials one address, and gives the connection to its receiver when it is made.

    (As the receiver of the connection until then, it learns of it before anything can be read from
    it. To connect a socket first and hand it to the loop then is no way: if its connection is lost
    at once, or the dial cancelled, uvloop leaves the socket object open, with a file number that is
    not its own.)
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: TcpTransport | None = None
        self._circular = False
        self._given_up = False

    async def run(self, info: AddressInfo) -> TcpTransport:
        """Return the connection; raise OSError if there is none."""
        _, transport = await asyncio.get_running_loop().create_connection(
            lambda: TcpTransport(self), *_address(info[4]), family=info[0]
        )
        if self._circular:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return transport

    def give_up(self) -> None:
        """Leave nothing open."""
        self._given_up = True
        if self._transport is not None:
            self._transport.disown()

    def connection_made(self, transport: Transport) -> None:
        """Give the connection to the receiver, unless it has reached itself."""
        made = cast("TcpTransport", transport)
        self._circular = made.reaches_itself
        if self._circular or self._given_up:
            made.abort()
        else:
            self._transport = made
            made.adopt(self._receiver)


def _alternate_families(infos: list[AddressInfo]) -> list[AddressInfo]:
    first = [info for info in infos if info[0] == infos[0][0]]
    other = [info for info in infos if info[0] != infos[0][0]]
    return [info for info in chain(*zip_longest(first, other)) if info is not None]


def _address(name: tuple[Any, ...]) -> Address:
    """Return the host, with its zone where it has one (a link-local one of IPv6), and the port."""
    if len(name) == 2:
        return name
    host, port, _, zone = name
    return (f"{host}%{_zone(zone)}" if zone else host), port


def _zone(number: int) -> str:
    """Return an interface as it is written in an address: its name, else its number."""
    try:
        return socket.if_indextoname(number) if os.name == "posix" else str(number)
    except OSError:
        return str(number)


def _bind(infos: list[AddressInfo]) -> list[socket.socket]:
    """Bind a socket to each address, all with the same port; raise OSError if that cannot be."""
    any_port = infos[0][4][1] == 0
    attempts = _PORT_ATTEMPTS if any_port and len(infos) > 1 else 1
    while True:
        try:
            return _bind_once(infos)
        except OSError as error:
            attempts -= 1
            if error.errno != errno.EADDRINUSE or attempts == 0:
                raise


def _bind_once(infos: list[AddressInfo]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    sock: socket.socket
    missing: OSError | None = None
    port: int = infos[0][4][1]
    try:
        for family, kind, protocol, _, address in infos:
            try:
                sock = _ListeningSocket(family, kind, protocol)
            except OSError as error:  # this machine has no such family
                missing = error
                continue
            sockets.append(sock)
            sock.setblocking(False)
            if os.name == "posix" and sys.platform != "cygwin":
                # A restarted node must not wait for connections of its former life to be
                # forgotten. (SO_REUSEPORT would let two nodes share a port unnoticed.)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # IPv4 has a socket of its own, whose peers' addresses look as they should.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    error.add_note(f"of {_address(address)[0]} port {port}")
                    raise
                missing = error
                sockets.pop().close()
                continue
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return sockets
