"""One TCP port of a hub, for links and for connections that are passed on to it.

Each connection begins with one byte that says what it is for; what follows is as over any other
network. So a firewall or a container has to open one port only.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ..config import NodeConfig
from ..errors import reason_of
from ..node.admission import Admission
from ..transports.base import Listener, Network, Nobody, Receiver, Transport, receiver_or_nobody
from ..transports.lookup import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transports.base import Address

__all__ = ["DoorNetwork", "own_host"]

_PORTS = 65_536
"""A port of this network is a TCP port, and this much more for connections that are passed on."""

_SILENT_SECONDS = 10.0
"""How long a connection may take to say what it is for."""

_LIMITS = NodeConfig(max_half_open=1024, max_half_open_per_source=256)

_ELSEWHERE = ("192.0.2.1", 9), ("2001:db8::1", 9)
"""Addresses for documentation, to which nothing is ever sent."""


class DoorNetwork(Network):
    """Carries connections between hubs, and is where those to this hub arrive.

    Args:
        network: What it is made of: TCP.

    Attributes:
        address: Where other hubs reach this one, while it is open.

    """

    address: Address

    def __init__(self, network: Network) -> None:
        self._network = network
        self._accepts: dict[int, Callable[[], Receiver]] = {}  # by the byte that asks for it
        self._listener: Listener | None = None
        self.admission: Admission[_Caller] = Admission(_LIMITS)
        self.callers: set[_Caller] = set()

    async def open(self, addresses: Sequence[Address], *, anywhere: bool) -> None:
        """Listen at the first of these addresses that is this machine's and that nothing else uses.

        Args:
            addresses: Each may have port 0, for a free one.
            anywhere: Whether one that is not this machine's leads here all the same, to the same
                port, as the published port of a container does.

        Raises:
            OSError: There is none.

        """
        reasons = []
        for host, port in addresses:
            try:
                self._listener = await self._listen(host, port, anywhere=anywhere)
            except OSError as error:
                reasons.append(f"{host} port {port}: {reason_of(error)}")
            else:
                self.address = host, self._listener.address[1]
                return
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"cannot listen for links: {'; '.join(reasons)}. Give this hub an address of its own, "
            "with address= or in the list of all",
        )

    async def _listen(self, host: str, port: int, *, anywhere: bool) -> Listener:
        try:
            return await self._network.listen(self._called, host, port)
        except OSError as error:
            if not anywhere or error.errno == errno.EADDRINUSE:
                raise
        return await self._network.listen(self._called, "", port)

    async def close(self) -> None:
        """Accept nothing any more."""
        if self._listener is not None:
            await self._listener.close()
        for caller in list(self.callers):
            caller.drop()

    def _called(self) -> Receiver:
        return _Caller(self)

    def receiver_for(self, purpose: int) -> Receiver | None:
        """Return the receiver of a connection that is for this; None if nothing is."""
        accept = self._accepts.get(purpose)
        return None if accept is None else receiver_or_nobody(accept)

    def landing_of(self, address: Address) -> Address:
        """Return where the hub that listens there takes connections that are passed on to it."""
        return address[0], address[1] + _PORTS

    def seed(self, secret: bytes) -> bytes:
        """Return a seed for the node at this address.

        It is the same after a restart. So others notice at once that this hub was restarted, and
        do not wait for its former life to come back.
        """
        return hmac.digest(secret, repr(self.address).encode(), "sha256")

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        """Return what the network does."""
        return await self._network.resolve(host, port, urgent=urgent)

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect, as `Network.dial` says, and say what for."""
        purpose, tcp_port = divmod(port, _PORTS)
        return await self._network.dial(_Calling(receiver, purpose), host, tcp_port)

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Take the connections that are for this; the network is open, and stays so."""
        purpose = port // _PORTS
        self._accepts[purpose] = accept
        return _Part(self._accepts, purpose, (host, port))


class _Part(Listener):
    """What is done with the connections for one purpose."""

    def __init__(
        self, accepts: dict[int, Callable[[], Receiver]], purpose: int, address: Address
    ) -> None:
        self._accepts = accepts
        self._purpose = purpose
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        self._accepts.pop(self._purpose, None)


class _Calling(Nobody):
    """The receiver of a connection to another hub, until it has said what it is for."""

    def __init__(self, receiver: Receiver, purpose: int) -> None:
        self._receiver = receiver
        self._purpose = purpose

    def connection_made(self, transport: Transport) -> None:
        """Say it, and leave the connection to its receiver."""
        transport.write(bytes((self._purpose,)))
        transport.hand_over(self._receiver)
        self._receiver.connection_made(transport)


class _Caller(Nobody):
    """The receiver of a connection to this hub, until it has said what it is for."""

    _transport: Transport

    def __init__(self, door: DoorNetwork) -> None:
        self._door = door
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peer_address(self) -> Address:
        """Where it comes from."""
        return self._transport.peer_address

    def connection_made(self, transport: Transport) -> None:
        """Wait for the byte, unless there are too many that do."""
        self._transport = transport
        if not self._door.admission.enter(self):
            transport.abort()
            return
        self._door.callers.add(self)
        self._timer = asyncio.get_running_loop().call_later(_SILENT_SECONDS, self.drop)

    def bytes_received(self, data: memoryview) -> int:
        """Leave the connection to whoever it is for."""
        self._leave()
        receiver = self._door.receiver_for(data[0])
        if receiver is None:
            self._transport.abort()
            return len(data)
        self._transport.hand_over(receiver)
        receiver.connection_made(self._transport)
        self._transport.resume_reading()  # what follows may be here already
        return 1

    def connection_lost(self, cause: Exception | None) -> None:
        """Forget it."""
        self._leave()

    def drop(self) -> None:
        """End the connection in silence."""
        self._leave()
        self._transport.abort()

    def _leave(self) -> None:
        self._door.admission.leave(self)
        self._door.callers.discard(self)
        if self._timer is not None:
            self._timer.cancel()


async def own_host(server: Address | None) -> str:
    """Return the address at which other machines reach this one, as far as it can tell.

    It is that of the interface that leads to a server, or to elsewhere if the server is on this
    machine or None.
    """
    for host, port in (*filter(None, [server]), *_ELSEWHERE):
        try:
            family, *_, name = (await look_up(host, port))[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(name)  # chooses an interface, and sends nothing
                own: str = probe.getsockname()[0]
        except OSError:
            continue
        if not ip_address(own).is_loopback:
            return own
    return "127.0.0.1"
