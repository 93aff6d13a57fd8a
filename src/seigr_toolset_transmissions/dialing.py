"""Dialling: from an address to an authenticated listener that waits for the third message."""

from __future__ import annotations

import asyncio
import errno
import random
from functools import partial
from typing import TYPE_CHECKING

from .dial_slots import DialSlots, Rank, Turn
from .errors import (
    STTConnectError,
    STTHandshakeError,
    STTIdentityError,
    STTSilenceError,
    reason_of,
)
from .handshaking import Dialed, dial, wall_clock
from .hello import VERSION, Hello
from .racing import race

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .access import Access
    from .endpoints import EndpointManager
    from .noise import Handshake
    from .runtime import Runtime
    from .transports.base import Address, Network

__all__ = ["Dialer", "dial_address"]

_UNANSWERED = 1024
"""Addresses remembered where the last dial was met with silence."""


class _Dial:
    """One dial that is under way."""

    __slots__ = ("ended_by", "expect", "task")

    def __init__(self, task: asyncio.Task[Dialed], expect: bytes | None) -> None:
        self.task = task
        self.expect = expect
        self.ended_by: STTConnectError | None = None

    def end(self, error: STTConnectError) -> None:
        """Give it up; whoever waits for it gets ``error``, even if it has just succeeded."""
        self.ended_by = error
        self.task.cancel()


class Dialer:
    """Makes the connections that a node dials, for new sessions and for those that go on.

    Attributes:
        handshake: At its start, with the node's key and the group's; copied for each dial. Set
            before the first one.

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
        pauses: Sequence[float] = (),
        turn: Turn | None = None,
        begun: Callable[[], object] = lambda: None,
    ) -> Dialed:
        """Connect and shake hands up to the third message.

        If the host is a name, each of its addresses is tried until one has whoever is wanted.

        Args:
            host: A name or address.
            port: Its port.
            expect: The node id that whoever answers must prove; None: any that is allowed.
            pauses: Seconds. If whoever is there ends the connection without a word, it is tried
                again after a random part of the first of them, and so on. (A listener that has too
                many connections in a handshake drops some; so does one that holds the first
                message for a recorded one, because this machine's clock is behind.)
            turn: Its place among the node's dials; at the end of those somebody waits for if None.
            begun: Called when its turn has come.

        Raises:
            STTHandshakeError: Somebody is there, but does not answer, or not with the same shared
                seed; `STTSilenceError` if a peer is expected and nobody answered.
            STTIdentityError: The peer is another than expected, is not allowed, or is this node.
                A peer that is expected and banned is not even dialled.
            STTConnectError: Nobody could be reached there, the node is stopping, or `refuse` has
                ended the dial.

        After an error or a cancel no connection is left open.

        """
        if expect is not None and self._access.bans(expect):
            raise _banned(expect)
        turn = turn or Turn()
        attempt = self._take_turn(host, port, expect, pauses, turn, begun)
        task = self._runtime.own(attempt, calls_handlers=False)
        current = _Dial(task, expect)
        self._dials.add(current)
        try:
            dialed = await task
        except asyncio.CancelledError:
            if current.ended_by is not None and not _being_cancelled():
                raise current.ended_by from None
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().transport.abort()  # we were cancelled before we could take it
            raise
        except OSError as error:
            self._runtime.counters.handshakes_failed += 1
            if error.errno in (errno.EMFILE, errno.ENFILE):
                advice = "close some, or allow this process more (ulimit -n)"
            else:
                advice = "is the node there running, and listening?"
            raise STTConnectError(
                f"cannot reach {host} port {port}: {reason_of(error)}; {advice}"
            ) from error
        except STTConnectError:
            self._runtime.counters.handshakes_failed += 1
            raise
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
        """Note that somebody waits for this dial now."""
        self._slots.hurry(turn)

    async def _take_turn(
        self,
        host: str,
        port: int,
        expect: bytes | None,
        pauses: Sequence[float],
        turn: Turn,
        begun: Callable[[], object],
    ) -> Dialed:
        async with self._slots.slot(turn):
            begun()
            urgent = turn.rank is Rank.ASKED
            for pause in (*pauses, None):
                addresses = await self._network.resolve(host, port, urgent=urgent)
                dialed = await race(addresses, partial(self._shake_hands, (host, port), expect))
                if dialed is not None:
                    self._unanswered.pop((host, port), None)
                    return dialed
                self._note_silence((host, port))
                if pause is not None:
                    self._runtime.counters.handshakes_failed += 1
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
        others = "has another shared_seed, or is not an STT node, or is overloaded"
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
        address: Address,
        connected: Callable[[], object],
    ) -> Dialed | None:
        """Try one of the addresses of a name."""
        hello = self._hello(named, expect)
        dialed = await dial(self._network, address, self.handshake.copy(), hello, connected)
        if dialed is not None:
            try:
                self._check_identity(dialed.peer_node_id, f"{named[0]} port {named[1]}", expect)
            except STTIdentityError:
                dialed.transport.abort()
                raise
        return dialed

    def _hello(self, address: Address, expect: bytes | None) -> Hello:
        """Return what to say first.

        It states the time, unless the last dial of the address that did so was met with silence:
        this machine's clock may be wrong.
        """
        written_at = 0 if address in self._unanswered else wall_clock()
        hello = Hello(VERSION, VERSION, written_at)
        return hello if expect is None else hello.meant_for(expect)

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
        """Give up the dials under way that expect this peer: it was kicked, or is banned."""
        for current in self._dials:
            if current.expect == peer_node_id:
                current.end(self.refusal(peer_node_id))

    def refusal(self, peer_node_id: bytes) -> STTConnectError:
        """Return the error for whoever waits for a session with a peer that was thrown out."""
        if self._access.bans(peer_node_id):
            return _banned(peer_node_id)
        return STTConnectError(f"node {peer_node_id.hex()} was kicked")

    def abort(self) -> None:
        """Give up all dials that are under way: the node is stopping."""
        for current in self._dials:
            current.end(STTConnectError("the node is stopping"))


def dial_address(endpoints: EndpointManager, endpoint_id: bytes) -> Address | None:
    """Return where an endpoint can be dialled now: the host and port that the user gave, or None.

    An address that was merely seen, that of a temporary endpoint, is none to dial.
    """
    info = endpoints.get_endpoint(endpoint_id) or {}
    match info.get("address"):
        case (str(host), int(port), *_) if not endpoints.is_temporary(endpoint_id):
            return host, port
        case _:
            return None


def _banned(peer_node_id: bytes) -> STTIdentityError:
    return STTIdentityError(f"node {peer_node_id.hex()} is banned")


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
