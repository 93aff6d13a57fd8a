"""Passing connections between processes of one machine: a socket moves, with what it has brought.

Each process has a place, a Unix datagram socket with a random name in a folder. To give a
connection to another process, it sends one datagram to that one's place: the descriptor, and some
bytes. The system keeps the connection open on the way. If the other process ends before it has
taken it, the connection ends with it.

Nobody else must be able to enter the folder: what does not belong is closed here, and whoever sends
a socket can make closing it take long (``SO_LINGER``).
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .sockets import UNIX, SocketNetwork, SocketTransport, forget, open_here
from .tcp import TcpTransport
from .unix import UnixTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Receiver, Transport

__all__ = ["Passing", "adopt"]

_LONGEST = 16 * 1024
_AT_ONCE = 16
"""How many connections are taken in one turn of the loop."""

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
"""Errors that mean that the other process has not taken what was sent to it before."""

_SUFFIX = ".place"

_STALE_SECONDS = 10.0
"""A place that refuses what is sent and is older than this belongs to a process that was killed."""

_SPACE = array("i").itemsize
"""For one descriptor; the system closes any others."""


class Passing:
    """The place where a process takes connections, and gives its own to others.

    Args:
        folder: Where it is. What killed processes have left there is removed.
        take: Called with the socket of each connection and the bytes that came with it.

    Attributes:
        path: The path of the place.

    Raises:
        OSError: There is no such folder, its path is too long, no other socket can be opened, or
            this system cannot pass connections.

    """

    def __init__(self, folder: str, take: Callable[[socket.socket, bytes], None]) -> None:
        if sys.platform != "linux":  # others may have what it takes, and are not tested
            raise OSError(errno.ENOTSUP, "connections can be passed on Linux only")
        self.path: bytes = os.fsencode(Path(folder, f"{secrets.token_hex(4)}{_SUFFIX}"))
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(UNIX, socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            _tidy(folder)
            self._sock.bind(self.path)
            self._loop.add_reader(self._sock.fileno(), self._arrived)
        except BaseException:
            self._sock.close()
            raise
        open_here().add(self)

    def descriptors(self) -> list[int]:
        """Return the descriptor of the open socket."""
        return [self._sock.fileno()]

    def give(self, transport: Transport, data: bytes, to: bytes) -> bool:
        """Give a connection away, with the bytes that it has brought and that nobody else has.

        Args:
            transport: See `Transport.give_away`.
            data: At most 16 KiB.
            to: The path of the other process's place.

        Returns:
            False if the other process is too busy now.

        Raises:
            OSError: There is no such place on this machine, or the connection has no socket to
                give away.

        After False or an error, the connection is as it was.

        """

        def send(descriptor: int) -> None:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))
            self._sock.sendmsg([data], [rights], 0, to)

        try:
            transport.give_away(send)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        return True

    def _arrived(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, rights, _flags, _sender = self._sock.recvmsg(
                    _LONGEST, socket.CMSG_LEN(_SPACE), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            # None has come if this process may not open another one.
            for descriptor in array("i", b"".join(each for _, _, each in rights)):
                self._take_descriptor(descriptor, data)

    def _take_descriptor(self, descriptor: int, data: bytes) -> None:
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:  # something else than a socket
            os.close(descriptor)
            return
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            return
        self._take(sock, data)

    def close(self) -> None:
        """Take no more; those on the way end. May be called again."""
        if self._sock.fileno() < 0:
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        forget(self)
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108  bytes, as sockets want them


def _tidy(folder: str) -> None:
    """Remove the places of processes that were killed."""
    with socket.socket(UNIX, socket.SOCK_DGRAM) as probe:
        for path in Path(folder).glob(f"*{_SUFFIX}"):
            try:
                old = time.time() - path.stat().st_mtime > _STALE_SECONDS
                probe.connect(os.fsencode(path))
            except ConnectionRefusedError:
                if old:
                    path.unlink(missing_ok=True)
            except OSError:
                continue  # it is gone, or not a place


async def adopt(receiver: Receiver, sock: socket.socket, first: bytes) -> None:
    """Go on with a connection that another process has given away, from these bytes on.

    Raises:
        OSError: It has ended. ``receiver`` was not called.

    If cancelled, no connection is left open, unless that was before the coroutine began: then the
    socket is still the caller's.

    """
    kind: type[SocketTransport] = UnixTransport if sock.family == UNIX else TcpTransport

    def make(receiver: Receiver) -> SocketTransport:
        transport = kind(receiver)
        transport.begin_with(first)
        return transport

    loop = asyncio.get_running_loop()
    transport = await SocketNetwork.connect(
        receiver, make, lambda made: loop.connect_accepted_socket(made, sock)
    )
    transport.resume_reading()
