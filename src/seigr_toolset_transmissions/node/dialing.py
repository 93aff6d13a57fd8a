"""Dialing: from an address to an authenticated listener that waits for the third message."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import re
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    STTConnectError,
    STTHandshakeError,
    STTIdentityError,
    STTSilenceError,
    reason_of,
)
from ..protocol.hello import VERSION, Hello
from ..sessions.handshaking import Dialed, dial, wall_clock
from .dial_slots import DialSlots, Rank, Turn
from .racing import dial_cancelled, race

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..endpoints.transport_side import TransportEndpoints
    from ..protocol.noise import Handshake
    from ..transports.base import Address, Network
    from .access import Access
    from .runtime import Runtime

__all__ = ["Dialer", "check_address", "dial_address", "read_address"]

logger: logging.Logger = logging.getLogger(__name__)

_UNANSWERED = 1024
"""How many addresses are remembered where the last dial got no answer."""

_HOST_AND_PORT = re.compile(r"(\[(?P<bare>.*)\]|(?P<host>[^:]+)):(?P<port>[0-9]+)", re.ASCII)


class _Dial:
    """One dial that is under way."""

    __slots__ = ("ended_by", "expect", "task")

    def __init__(self, task: asyncio.Task[Dialed], expect: bytes | None) -> None:
        self.task = task
        self.expect = expect
        self.ended_by: STTConnectError | None = None

    def end(self, error: STTConnectError) -> None:
        """Cancel it; the call that waits for it raises ``error``, even if it has just succeeded."""
        self.ended_by = error
        self.task.cancel()


class Dialer:
    """Makes the connections that a node dials, for new sessions and for suspended ones.

    Attributes:
        handshake: A handshake at its start, with the node's key and the group's, copied for each
            dial. Set before the first dial.

    """

    handshake: Handshake

    def __init__(self, runtime: Runtime, network: Network, access: Access) -> None:
        self._runtime = runtime
        self._network = network
        self._access = access
        self._dials: set[_Dial] = set()
        self._slots = DialSlots()
        self._unanswered: dict[Address, None] = {}

    def __len__(self) -> int:
        return len(self._dials)

    async def dial(
        self,
        host: str,
        port: int,
        expect: bytes | None,
        *,
        hub: bytes = b"",
        pauses: Sequence[float] = (),
        turn: Turn | None = None,
        begun: Callable[[], object] = lambda: None,
    ) -> Dialed:
        """Connect and shake hands up to the third message.

        If the host is a name, its addresses are tried until the wanted node answers at one.

        Args:
            host: A name or address.
            port: The port.
            expect: The node id that the peer must prove; None for any that is allowed.
            hub: The incarnation of the one that is meant of several hubs; empty: any.
            pauses: Seconds. If the other end closes the connection without an answer, it is dialed
                again after a random part of the first pause, then of the second, and so on. (A
                listener with too many connections in a handshake drops some. It also drops one
                whose first message it takes for a recording, because this machine's clock is
                behind.)
            turn: The place among the node's dials. None: behind those that calls are waiting for.
            begun: Called when its turn has come.

        Raises:
            STTHandshakeError: Something accepts connections there, but does not answer, or has
                another shared seed; `STTSilenceError` if a peer is expected and nothing answered.
            STTIdentityError: The peer is not the one expected, is not allowed, or is this node.
                An expected peer that is banned is not even dialed.
            STTConnectError: Nothing could be reached there, there are no more threads to look a
                name up, the node is stopping, or `refuse` or another task has ended the dial.

        After an error or a cancellation, no connection is left open.

        """
        if expect is not None and self._access.bans(expect):
            raise _banned(expect)
        turn = turn or Turn()
        attempt = self._take_turn((host, port), expect, hub, pauses, turn, begun)
        task = self._runtime.own(attempt, calls_handlers=False)
        current, cancels = _Dial(task, expect), _cancels()
        self._dials.add(current)
        try:
            dialed = await task
        except asyncio.CancelledError:
            if _cancels() == cancels:  # then the dial was cancelled, by us or by other code
                self._runtime.counters.handshakes_failed += 1
                raise current.ended_by or dial_cancelled() from None
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().transport.abort()  # we were cancelled before we could take it
            raise
        except OSError as error:
            self._runtime.counters.handshakes_failed += 1
            if error.errno in (errno.EMFILE, errno.ENFILE):
                advice = "close some, or allow this process more (ulimit -n)"
            elif isinstance(error, socket.gaierror):
                advice = "is the name spelled right, and can this machine look names up?"
            else:
                advice = "is the node there running, and listening?"
            raise STTConnectError(
                f"cannot reach {host} port {port}: {reason_of(error)}; {advice}"
            ) from error
        except STTConnectError:
            self._runtime.counters.handshakes_failed += 1
            raise
        except Exception as error:  # too few threads, too little memory, or a network's mistake
            self._runtime.counters.handshakes_failed += 1
            raise STTConnectError(f"cannot dial {host} port {port}: {error!r}") from error
        finally:
            self._dials.discard(current)
        if current.ended_by is None and self._access.bans(dialed.peer_node_id):
            current.ended_by = _banned(dialed.peer_node_id)
        if current.ended_by is not None:
            self._runtime.counters.handshakes_failed += 1
            dialed.transport.abort()
            raise current.ended_by
        return dialed

    def hurry(self, turn: Turn) -> None:
        """Note that a call waits for this dial now."""
        self._slots.hurry(turn)

    async def _take_turn(
        self,
        named: Address,
        expect: bytes | None,
        hub: bytes,
        pauses: Sequence[float],
        turn: Turn,
        begun: Callable[[], object],
    ) -> Dialed:
        host, port = named
        await self._slots.begin(turn)
        try:
            begun()
            logger.debug("dialing %s port %d", host, port)
            urgent = turn.rank is Rank.ASKED
            for pause in (*pauses, None):
                addresses = await self._network.resolve(host, port, urgent=urgent)
                attempt = partial(self._shake_hands, named, expect, hub)
                dialed = await race(addresses, attempt)
                if dialed is not None:
                    self._unanswered.pop(named, None)
                    return dialed
                self._note_silence(named)
                if pause is not None:
                    self._runtime.counters.handshakes_failed += 1
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
        finally:
            self._slots.end(turn)
        others = "has another shared seed, or is not an STT node, or is overloaded"
        if expect is None:
            raise STTHandshakeError(
                f"{host} port {port} closed the connection during the handshake: it {others}"
            )
        raise STTSilenceError(
            f"{host} port {port} does not answer as node {expect.hex()}: "
            f"it is another node, or {others}"
        )

    async def _shake_hands(
        self,
        named: Address,
        expect: bytes | None,
        hub: bytes,
        address: Address,
        connected: Callable[[], object],
    ) -> Dialed | None:
        """Try one of the addresses of a name."""
        hello = self._hello(named, expect, hub)
        dialed = await dial(self._network, address, self.handshake.copy(), hello, connected)
        if dialed is not None:
            try:
                self._check_identity(dialed.peer_node_id, f"{named[0]} port {named[1]}", expect)
            except STTIdentityError:
                dialed.transport.abort()
                raise
        return dialed

    def _hello(self, address: Address, expect: bytes | None, hub: bytes) -> Hello:
        """Return what to say first.

        It states the time, unless the last dial of this address did so and got no answer: this
        machine's clock may be wrong.
        """
        written_at = 0 if address in self._unanswered else wall_clock()
        hello = Hello(VERSION, VERSION, written_at)
        if expect is None:
            return hello
        return hello.meant_for(expect, hub)

    def _note_silence(self, address: Address) -> None:
        if address in self._unanswered:
            del self._unanswered[address]  # the time was not the reason
            return
        self._unanswered[address] = None
        if len(self._unanswered) > _UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]

    def _check_identity(self, peer_node_id: bytes, where: str, expect: bytes | None) -> None:
        if expect is not None and peer_node_id != expect:
            raise STTIdentityError(f"{where} is node {peer_node_id.hex()}, not {expect.hex()}")
        refusal = self._access.refusal(peer_node_id)
        if refusal is not None:
            raise STTIdentityError(f"{where} is node {peer_node_id.hex()}: {refusal}")

    def refuse(self, peer_node_id: bytes) -> None:
        """Cancel the dials under way that expect this peer: it was kicked, or is banned."""
        for current in self._dials:
            if current.expect == peer_node_id:
                current.end(self.refusal(peer_node_id))

    def refusal(self, peer_node_id: bytes) -> STTConnectError:
        """Return the error for calls that wait for a session with a peer that was thrown out."""
        if self._access.bans(peer_node_id):
            return _banned(peer_node_id)
        return STTConnectError(f"node {peer_node_id.hex()} was kicked")

    def abort(self) -> None:
        """Cancel all dials under way: the node is stopping."""
        for current in self._dials:
            current.end(STTConnectError("the node is stopping"))


def dial_address(endpoints: TransportEndpoints, endpoint_id: bytes) -> Address | None:
    """Return where an endpoint can be dialed now: the host and port that the user gave, or None.

    The address of a temporary endpoint was merely seen. It is not one to dial.
    """
    info = endpoints.manager.get_endpoint(endpoint_id)
    match info and info["address"]:
        case (str(host), int(port), *_) if not endpoints.is_temporary(endpoint_id):
            return host, port
        case _:
            return None


def read_address(address: Any, *, connect: bool) -> Any:
    """Return the address of an endpoint as the node keeps it: host and port, or None.

    Raises:
        ValueError: A text is not ``"host:port"``, a port is out of range, or ``connect`` is True
            and there is no address.
        TypeError: It is something else.

    """
    if isinstance(address, str):
        host, colon, digits = address.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        ambiguous = ":" in host and bare == host
        if ambiguous or not (colon and digits.isascii() and digits.isdecimal()):
            raise ValueError(
                f'an address as text is "host:port" (IPv6: "[::1]:9400"), not {address!r}'
            )
        address = (bare, int(digits))
    match address:
        case None:
            if connect:
                raise ValueError("connect=True needs an address to dial: (host, port)")
        case (str(), int(port), *_):
            if not 0 <= port < 65_536:
                raise ValueError(f"a port is a number from 0 to 65535, not {port}")
        case _:
            raise TypeError(f'an address is (host, port), "host:port" or None, not {address!r}')
    return address


def check_address(host: object, port: object) -> None:
    """Check what was given as a host and its port.

    Raises:
        TypeError: The host is not a str, or the port not an int.
        ValueError: The host contains the port.

    """
    if host is None:
        raise TypeError('a host is text, not None: "" means all addresses of this machine')
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError(f"an address is a host (str) and a port (int), not {host!r} and {port!r}")
    if both := _HOST_AND_PORT.fullmatch(host):
        bare, its_port = both["bare"] or both["host"], both["port"]
        raise ValueError(
            f"{host!r} is a host and a port in one: give them separately, {bare!r} and {its_port}"
        )


def _banned(peer_node_id: bytes) -> STTIdentityError:
    return STTIdentityError(f"node {peer_node_id.hex()} is banned")


def _cancels() -> int:
    """Return how many cancellations of the calling task were not taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
