"""Opens sessions by dialing: to an address, or to an endpoint that has one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ..errors import STTConnectError, STTEndpointError
from ..foundation.futures import retrieve
from ..protocol.hello import Opening, OpeningKind
from ..protocol.machine import SessionMachine
from ..protocol.phase import Link
from .dial_slots import Rank, Turn
from .dialing import dial_address
from .racing import dial_cancelled

if TYPE_CHECKING:
    from ..sessions.handshaking import Dialed
    from ..sessions.session import LiveSession
    from ..transports.base import Address
    from .dialing import Dialer
    from .registry import Registry

__all__ = ["Connector"]

_PAUSES = (0.2, 0.6)
"""The longest pauses in seconds before a dial that got no answer is repeated: long enough for a
listener with too many dialers at once, and short enough for a user who has mistyped the seed."""


class Connector:
    """Opens sessions by dialing."""

    def __init__(self, registry: Registry, dialer: Dialer) -> None:
        self._registry = registry
        self._runtime = registry.runtime
        self._dialer = dialer
        # By endpoint: its dial, and the place of that among the node's dials.
        self._dials: dict[bytes, tuple[asyncio.Task[LiveSession], Turn]] = {}

    def __len__(self) -> int:
        return len(self._dials)

    async def connect(
        self,
        host: str,
        port: int,
        *,
        expect: bytes | None = None,
        timeout: float | None = None,
        turn: Turn | None = None,
    ) -> LiveSession:
        """Dial a listening node; return the session once both sides consider it established.

        See `node.STTNode.connect`. With a ``turn``, the timeout counts from when that has come.
        """
        opening, loop = self._registry.opening, self._registry.loop
        session: LiveSession | None = None
        established = False
        if timeout is None:
            timeout = self._runtime.config.connect_timeout
        try:
            async with asyncio.timeout(timeout if turn is None else None) as limit:

                def begun() -> None:
                    if turn is not None:
                        limit.reschedule(loop.time() + timeout)

                self._check_not_stopping()
                dialed = await self._dialer.dial(
                    host, port, expect, pauses=_PAUSES, turn=turn, begun=begun
                )
                session = self._open(dialed, (host, port))
                await opening[session]
                if session.error is not None:  # it has ended in the same turn in which it began
                    raise STTConnectError(str(session.error)) from session.error
                established = True
        except TimeoutError as error:
            raise STTConnectError(
                f"{host} port {port} did not answer in time; is an STT node listening there?"
            ) from error
        finally:
            if session is not None:
                del opening[session]
                if not established:
                    session.give_up()
        return session

    def _check_not_stopping(self) -> None:
        if self._runtime.stopping:
            raise STTConnectError("the node is stopping")

    def _open(self, dialed: Dialed, address: Address) -> LiveSession:
        """Ask for a new session; its future in `Registry.opening` tells how that went."""
        registry, config = self._registry, self._runtime.config
        if self._runtime.stopping:
            dialed.transport.abort()
            self._check_not_stopping()
        peer, now = dialed.peer_node_id, registry.loop.time()
        if not dialed.reply.hub:
            registry.clones.seen(peer, dialed.reply.incarnation, dialed.transport.peer_address, now)
        if self._runtime.endpoints.is_overfull(peer):
            dialed.transport.abort()
            raise STTConnectError(
                "too many messages from earlier sessions with this peer wait to be received: "
                "receive them, then connect again"
            )
        if not registry.budget.admits:
            dialed.transport.abort()
            raise STTConnectError(
                "this node already holds, or has promised to accept, as much as it may "
                "(max_buffered_bytes)"
            )
        budget = registry.budget_of(peer)
        channel = dialed.open(
            Opening(
                OpeningKind.NEW,
                config.max_message_bytes,
                self._runtime.incarnation,
                bytes(16),
                0,
                0,
                budget.first_window,
                self._runtime.is_hub,
            )
        )
        machine = SessionMachine(
            channel.handshake_hash[:16],
            config,
            link=Link.OPENING,
            peer_max_message=dialed.reply.max_message_bytes,
            budget=budget,
            controls=registry.controls_of(dialed.peer_node_id),
            now=registry.loop.time(),
        )
        session = registry.make_session(
            machine,
            peer_node_id=dialed.peer_node_id,
            peer_incarnation=dialed.reply.incarnation,
            peer_is_hub=dialed.reply.hub,
            dial_address=address,
        )
        registry.opening[session] = registry.loop.create_future()
        registry.connect_session(session, dialed.transport, channel)
        return session

    async def connect_to(self, endpoint_id: bytes, rank: Rank = Rank.ASKED) -> LiveSession:
        """Connect to an endpoint at the address that the user gave; calls at once share a dial.

        Raises:
            STTEndpointError: It has no address to dial.
            STTConnectError: See `node.STTNode.connect`.

        """
        dial = self._dials.get(endpoint_id)
        if dial is None:
            endpoints = self._runtime.endpoints
            address = dial_address(endpoints, endpoint_id)
            if address is None:
                info = endpoints.manager.get_endpoint(endpoint_id)
                raise STTEndpointError(
                    f"endpoint {endpoint_id.hex()} has no session, and its address "
                    f"{info and info['address']!r} is not a (host, port) to dial: set one with "
                    "update_endpoint(..., address=(host, port)), or wait until the peer connects"
                )
            turn = Turn(rank)
            task = self._runtime.own(self.connect(*address, expect=endpoint_id, turn=turn))
            dial = self._dials[endpoint_id] = (task, turn)
            task.add_done_callback(partial(self._dial_ended, endpoint_id))
            endpoints.dialing(endpoint_id, now=True)
        self.hurry(endpoint_id, rank)
        task, _ = dial
        await asyncio.wait((task,))
        if task.cancelled():
            raise dial_cancelled()
        return task.result()

    def hurry(self, endpoint_id: bytes, rank: Rank = Rank.ASKED) -> None:
        """Let a dial of the endpoint, if one is under way, have at least this rank."""
        dial = self._dials.get(endpoint_id)
        if dial is not None and rank < dial[1].rank:
            self._dialer.hurry(dial[1])

    def _dial_ended(self, endpoint_id: bytes, task: asyncio.Task[LiveSession]) -> None:
        del self._dials[endpoint_id]
        self._runtime.endpoints.dialing(endpoint_id, now=False)
        retrieve(task)  # the call that waited may have been cancelled

    def is_dialing(self, endpoint_id: bytes) -> bool:
        """Whether a dial of this endpoint is under way."""
        return endpoint_id in self._dials
