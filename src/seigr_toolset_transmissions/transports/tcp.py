"""TCP: the transport that carries bytes between machines."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from functools import lru_cache
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from .lookup import AddressInfo, look_up
from .sockets import ListeningSocket, SocketListener, SocketNetwork, SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Address, Listener, Receiver, Transport

__all__ = ["TcpNetwork", "TcpTransport"]

_PORT_ATTEMPTS = 16
"""How many free ports are tried if a port is not free for each address of a name."""


class TcpTransport(SocketTransport):
    """One TCP connection."""

    __slots__ = ()

    @staticmethod
    def _read_name(name: Any) -> Address:
        return _address(name)


class TcpNetwork(SocketNetwork):
    """Reaches peers over TCP, by IPv4 and IPv6.

    Args:
        reuse_port: Whether other processes may listen at the same address and port. The system
            then chooses one of them for each new connection, by the peer's address and port. All
            of them must ask for it, and belong to the same user. This needs Linux.

    Attributes:
        reuse_port: The same; changes count from the next `listen` on.

    """

    def __init__(self, *, reuse_port: bool = False) -> None:
        self.reuse_port: bool = reuse_port

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        """Look up a name; return its numeric addresses, alternating between the two families.

        Raises:
            OSError: The name is unknown or invalid.

        """
        if _is_numeric(host):
            return [(host, port)]  # `dial` looks it up anyway
        infos = _alternate_families(await look_up(host, port, urgent=urgent))
        return [_address(info[4]) for info in infos]

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect to a numeric address, or to the first one of a name.

        Raises:
            OSError: The name is unknown, or the address could not be reached. ``receiver`` was not
                called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """
        family, *_, name = (await look_up(host, port))[0]
        return await self.connect(
            receiver,
            TcpTransport,
            lambda make: asyncio.get_running_loop().create_connection(
                make, *_address(name), family=family
            ),
        )

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at a host name or address; ``""`` stands for all of this machine's.

        It listens on all addresses of a name (``localhost`` may have one of each family), with the
        same port. `Listener.address` is the first of them.

        Raises:
            OSError: An address is taken, or none belongs to this machine; or processes cannot share
                a port on this system, and ``reuse_port`` is true.

        If cancelled, nothing is left open.

        """
        if self.reuse_port and sys.platform != "linux":
            # Others have SO_REUSEPORT too, but give all connections to one process.
            raise OSError(errno.ENOTSUP, "processes can share a port on Linux only")
        infos = await look_up(host or None, port, socket.AI_PASSIVE)
        sockets = _bind(infos, reuse_port=self.reuse_port)
        listener = SocketListener(accept, sockets, _address(sockets[0].getsockname()), TcpTransport)
        await listener.start()
        return listener


@lru_cache(maxsize=1024)
def _is_numeric(host: str) -> bool:
    """Return whether the host is an address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _alternate_families(infos: list[AddressInfo]) -> list[AddressInfo]:
    first = [info for info in infos if info[0] == infos[0][0]]
    other = [info for info in infos if info[0] != infos[0][0]]
    return [info for info in chain(*zip_longest(first, other)) if info is not None]


def _address(name: tuple[Any, ...]) -> Address:
    """Return the host and the port; the host with its zone if it has one (link-local IPv6)."""
    if len(name) == 2:
        return name
    host, port, _, zone = name
    return (f"{host}%{_zone(zone)}" if zone else host), port


def _zone(number: int) -> str:
    """Return an interface as written in an address: its name, or else its number."""
    try:
        return socket.if_indextoname(number) if os.name == "posix" else str(number)
    except OSError:
        return str(number)


def _bind(infos: list[AddressInfo], *, reuse_port: bool) -> list[socket.socket]:
    """Bind a socket to each address, all with the same port; raise OSError if that fails."""
    any_port = infos[0][4][1] == 0
    attempts = _PORT_ATTEMPTS if any_port and len(infos) > 1 else 1
    while True:
        try:
            return _bind_once(infos, reuse_port=reuse_port)
        except OSError as error:
            attempts -= 1
            if error.errno != errno.EADDRINUSE or attempts == 0:
                raise


def _bind_once(infos: list[AddressInfo], *, reuse_port: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    sock: socket.socket
    missing: OSError | None = None
    port: int = infos[0][4][1]
    try:
        for family, kind, protocol, _, address in infos:
            try:
                sock = ListeningSocket(family, kind, protocol)
            except OSError as error:  # this machine has no such family
                missing = error
                continue
            sockets.append(sock)
            sock.setblocking(False)
            if os.name == "posix" and sys.platform != "cygwin":
                # A restarted node must not wait until the system has forgotten the connections of
                # its former life.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:  # only if asked: else two nodes could share a port unnoticed
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # IPv4 has its own socket, on which peers' addresses look as they should.
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
