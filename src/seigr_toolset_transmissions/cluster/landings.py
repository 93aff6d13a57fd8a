"""Connections that land at another hub than the one that has their session.

A dialer that resumes a session names the hub that has it, the owner, in its first message
(``docs/wire-format.md``, payload 1). The hub where the connection lands reads that message and
passes the connection on. On one machine it gives the owner the socket, and has no part in the
connection after that. Otherwise, or if the owner cannot take the socket, it connects to the owner
over the network of the links and moves bytes both ways. It has no key of the session, so the bytes
tell it nothing. The owner answers the handshake as if it had been dialed itself.

Either way, the owner gets the dialer's message and, before it, the dialer's address. This is sealed
with a key of the cluster, together with the message:

    u16 length of what is sealed | u16 length of the message | what is sealed | the message

So nobody else on the bus can make an owner believe that a connection comes from elsewhere, not even
by repeating what a hub has said of another connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..config import NodeConfig
from ..node.admission import Admission
from ..transports.base import Nobody, Transport
from ..transports.passing import Passing, adopt
from .messages import BadMessageError, pack_json, unpack_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from ..transports.base import Address, Network, Receiver

__all__ = ["Landings", "LandingsOwner"]

logger: logging.Logger = logging.getLogger(__name__)

_LENGTHS = Struct("!HH")
_LONGEST_PART = 4096
_NONCE_BYTES = 12

_LIMITS = NodeConfig(max_half_open=1024, max_half_open_per_source=256)
"""How many connections may be open whose preface has not arrived."""

_BUSY_SECONDS = 0.005
_BUSIEST_SECONDS = 1.0
"""How often, and for how long, a socket is offered to an owner that is too busy to take it."""

_STALLED_SECONDS = 120.0
"""One side of a relay may read nothing for this long. Reading from the other side is paused
meanwhile, and its end would go unnoticed."""


class _Preface(NamedTuple):
    """What a hub says of a connection that it passes on."""

    address: Address
    """The dialer's."""
    message: bytes
    """The dialer's first message."""
    end: int
    """Where the message begins, and the preface ends."""


class LandingsOwner(Protocol):
    """What landings need of their hub."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the node runs on."""

    @property
    def handshake_seconds(self) -> float:
        """How long the parts of a handshake may take, and the last bytes of a connection."""

    @property
    def most_relays(self) -> int:
        """How many connections may be passed on at a time."""

    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node."""

    def accept_landed(self) -> Receiver:
        """Return what answers a connection that was passed on to this hub."""


class Landings:
    """The connections that this hub passes on, and those that are passed on to it.

    Args:
        owner: See `LandingsOwner`.
        network: What carries the connections between hubs.
        key: 32 bytes that only hubs of the cluster know.
        folder: Where hubs of this machine take the sockets of connections; None if nowhere.

    """

    def __init__(
        self, owner: LandingsOwner, network: Network, key: bytes, folder: str | None = None
    ) -> None:
        self.owner: LandingsOwner = owner
        self._network = network
        self._cipher = ChaCha20Poly1305(key)
        self._passing: Passing | None = None
        if folder is not None:
            try:
                self._passing = Passing(folder, self._take)
            except OSError as error:
                logger.info("connections will be relayed: no socket can be passed: %s", error)
        self._relays: set[_Relay] = set()
        self.arrivals: set[_Arrival] = set()  # whose preface has not arrived
        self.admission: Admission[_Arrival] = Admission(_LIMITS)

    def __len__(self) -> int:
        return len(self._relays)

    @property
    def place(self) -> bytes:
        """Where this hub takes the sockets of connections; empty if it cannot."""
        return b"" if self._passing is None else self._passing.path

    def pass_on(self, transport: Transport, message: bytes, to: Address, place: bytes) -> bool:
        """Pass a connection on, with the message that it brought; return False if too many are.

        Args:
            transport: The connection, which is taken over.
            message: The dialer's first message.
            to: Where the owner accepts such connections.
            place: Where it takes sockets, on whatever machine that is; empty if it cannot.

        """
        if len(self._relays) >= self.owner.most_relays:
            return False
        nonce = secrets.token_bytes(_NONCE_BYTES)
        address = pack_json(transport.peer_address)
        preface = nonce + self._cipher.encrypt(nonce, address, message)
        relay = _Relay(self.owner, transport, self._relays.discard)
        self._relays.add(relay)
        first = _LENGTHS.pack(len(preface), len(message)) + preface + message
        give = None
        if self._passing is not None and place:
            give = partial(self._passing.give, transport, first, place)
        task = self.owner.own(relay.begin(give, self._network, to, first))
        task.add_done_callback(relay.has_begun)
        return True

    def _take(self, sock: socket.socket, data: bytes) -> None:
        """Take a connection that another hub gives to this one, unless that is no hub."""
        try:
            preface = self.read(data)
        except BadMessageError:
            preface = None
        if preface is None:
            sock.close()
            return
        task = self.owner.own(self._adopt(sock, preface.message))
        task.add_done_callback(lambda task: sock.close() if task.cancelled() else None)

    async def _adopt(self, sock: socket.socket, message: bytes) -> None:
        with suppress(OSError):  # the dialer is gone
            await adopt(_Adopted(self.owner), sock, message)

    def accept(self) -> Receiver:
        """Return the receiver of a connection that another hub passes on."""
        return _Arrival(self)

    def read(self, data: bytes | memoryview) -> _Preface | None:
        """Return what another hub says of a connection first; None if that has not arrived whole.

        Raises:
            BadMessageError: No hub of the cluster has written this.

        """
        if len(data) < _LENGTHS.size:
            return None
        lengths = _LENGTHS.unpack_from(data)
        end = _LENGTHS.size + int(lengths[0])
        message_end = end + int(lengths[1])
        if len(data) < message_end and max(lengths) <= _LONGEST_PART:
            return None
        sealed, message = bytes(data[_LENGTHS.size : end]), bytes(data[end:message_end])
        try:
            text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], message)
        except (InvalidTag, ValueError):
            raise BadMessageError("a preface that no hub has written") from None
        match unpack_json(text):
            case [str(host), int(port)]:
                return _Preface((host, port), message, end)
        raise BadMessageError("a preface without an address")

    def end(self) -> None:
        """End everything. Connections that were given away, or taken, live on."""
        if self._passing is not None:
            self._passing.close()
        for relay in list(self._relays):
            relay.abort()
        for arrival in list(self.arrivals):
            arrival.drop()


class _Side:
    """One end of a relay: the receiver of one connection, which writes to the other."""

    __slots__ = ("lost", "other", "relay", "stalled", "transport")

    other: _Side

    def __init__(self, relay: _Relay, transport: Transport | None = None) -> None:
        self.relay: _Relay = relay
        self.transport: Transport | None = transport  # None until it is connected
        self.lost: bool = False
        self.stalled: asyncio.TimerHandle | None = None  # while the other end reads too slowly

    def connection_made(self, transport: Transport) -> None:
        """Begin, unless the relay has ended meanwhile."""
        self.transport = transport
        if self.relay.aborted or self.other.lost:
            transport.abort()

    def bytes_received(self, data: memoryview) -> int:
        """Move bytes to the other side."""
        if self.other.transport is not None:
            self.other.transport.write(bytes(data))
        return len(data)

    def pause_writing(self) -> None:
        """Read no more from the other side, for a while."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()
        if self.stalled is None:
            self.stalled = self.relay.owner.loop.call_later(_STALLED_SECONDS, self.relay.abort)

    def resume_writing(self) -> None:
        """Continue."""
        self._stop_timer()
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, cause: Exception | None) -> None:
        """End the other side in the same way."""
        self.lost = True
        self._stop_timer()
        self.relay.side_lost(self.other, cause)

    def _stop_timer(self) -> None:
        if self.stalled is not None:
            self.stalled.cancel()
            self.stalled = None


class _Relay:
    """One connection that is passed on.

    Args:
        owner: See `LandingsOwner`.
        transport: The dialer's connection.
        ended: Called at the end.

    """

    def __init__(
        self, owner: LandingsOwner, transport: Transport, ended: Callable[[_Relay], None]
    ) -> None:
        self.owner: LandingsOwner = owner
        self._ended = ended
        self._near = _Side(self, transport)
        self._far = _Side(self)
        self._near.other, self._far.other = self._far, self._near
        self._closing: asyncio.TimerHandle | None = None
        self.aborted: bool = False
        transport.pause_reading()
        transport.hand_over(self._near)

    async def begin(
        self, give: Callable[[], bool] | None, network: Network, to: Address, first: bytes
    ) -> None:
        """Give the connection away; or connect to the owner, and move bytes, these first."""
        if give is not None and await self._given_away(give):
            return
        try:
            async with asyncio.timeout(self.owner.handshake_seconds):
                far = await network.dial(self._far, *to)
        except OSError:  # among them TimeoutError
            return
        far.write(first)
        near = self._near.transport
        if near is not None and not self._near.lost and self._far.stalled is None:
            near.resume_reading()

    async def _given_away(self, give: Callable[[], bool]) -> bool:
        end = self.owner.loop.time() + _BUSIEST_SECONDS
        with suppress(OSError):  # an owner of an older release, or a connection without a socket
            while not give():
                if self.owner.loop.time() > end:
                    return False
                await asyncio.sleep(_BUSY_SECONDS)
            return True
        return False

    def has_begun(self, _: asyncio.Task[None]) -> None:
        """End, if there is no other connection to the owner, even if `begin` never ran."""
        if self._far.transport is None:
            self._far.lost = True
            self.abort()

    def side_lost(self, other: _Side, cause: Exception | None) -> None:
        """End the other side too: at once if it was a failure, else after what was written."""
        if other.lost:
            if self._closing is not None:
                self._closing.cancel()
            self._ended(self)
        elif other.transport is None:
            pass  # `begin` or `connection_made` ends it
        elif cause is not None:
            other.transport.abort()
        else:
            other.transport.close()
            self._closing = self.owner.loop.call_later(self.owner.handshake_seconds, self.abort)

    def abort(self) -> None:
        """End both sides at once."""
        self.aborted = True
        for side in (self._near, self._far):
            if side.transport is not None:
                side.transport.abort()
        if self._near.lost and self._far.lost:
            self._ended(self)


class _Arrival:
    """A connection that another hub passes on, until it has said where the dialer is."""

    __slots__ = ("_landings", "_timer", "_transport")

    _transport: Transport

    def __init__(self, landings: Landings) -> None:
        self._landings = landings
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peer_address(self) -> Address:
        """Where it comes from: the hub that passes it on."""
        return self._transport.peer_address

    def connection_made(self, transport: Transport) -> None:
        """Wait for the preface."""
        self._transport = transport
        landings = self._landings
        if not landings.admission.enter(self):
            transport.abort()
            return
        landings.arrivals.add(self)
        seconds = landings.owner.handshake_seconds
        self._timer = landings.owner.loop.call_later(seconds, transport.abort)

    def bytes_received(self, data: memoryview) -> int:
        """Take the preface once it has arrived whole, and let the handshake begin behind it."""
        try:
            preface = self._landings.read(data)
        except BadMessageError:
            self.drop()
            return len(data)
        if preface is None:
            return 0
        self._forget()
        answering = self._landings.owner.accept_landed()
        landed = _Landed(self._transport, preface.address)
        self._transport.hand_over(answering)
        answering.connection_made(landed)
        self._transport.resume_reading()  # the first message may be here already
        return preface.end

    def pause_writing(self) -> None:
        """Nothing to do: nothing is written."""

    def resume_writing(self) -> None:
        """Nothing to do: see `pause_writing`."""

    def connection_lost(self, _cause: Exception | None) -> None:
        """Forget it."""
        self._forget()

    def drop(self) -> None:
        """End the connection."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        self._landings.admission.leave(self)
        self._landings.arrivals.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Adopted(Nobody):
    """Answers a connection whose socket another hub has given to this one, once it goes on here."""

    def __init__(self, owner: LandingsOwner) -> None:
        self._owner = owner

    def connection_made(self, transport: Transport) -> None:
        answering = self._owner.accept_landed()
        transport.hand_over(answering)
        answering.connection_made(transport)


class _Landed(Transport):
    """The connection to the hub where a dialer has landed, with the dialer's own address."""

    __slots__ = ("_address", "_inner")

    def __init__(self, inner: Transport, address: Address) -> None:
        self._inner = inner
        self._address = address

    @property
    def peer_address(self) -> Address:
        return self._address

    @property
    def waiting(self) -> int:
        return self._inner.waiting

    def hand_over(self, receiver: Receiver) -> None:
        self._inner.hand_over(receiver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.write(data)

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()
