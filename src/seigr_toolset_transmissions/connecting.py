"""Sessions with whom the application wants to talk: by address, or by endpoint."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from .dial_slots import Rank, Turn
from .dialing import dial_address
from .errors import STTConnectError, STTEndpointError
from .hello import Opening, OpeningKind
from .phase import Link
from .session import SessionMachine

if TYPE_CHECKING:
    from .dialing import Dialer
    from .handshaking import Dialed
    from .live_session import Session
    from .registry import Registry
    from .transports.base import Address

__all__ = ["Connector"]

_PAUSES = (0.2, 0.6)
"""Seconds before a dial that was met with silence is repeated, at most: long enough for a listener
that has too many dialers at once, and short enough for anyone who has mistyped the shared seed."""


class Connector:
    """Opens sessions by dialling."""

    def __init__(self, registry: Registry, dialer: Dialer) -> None:
        self._registry = registry
        self._runtime = registry.runtime
        self._dialer = dialer
        # Of endpoints with an address.
        self._dials: dict[bytes, tuple[asyncio.Task[Session], Turn]] = {}

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
    ) -> Session:
        """Dial a listening node; return the session once both sides hold it for established.

        See `node.STTNode.connect`. The time of a dial with a ``turn`` begins when that has come.
        """
        opening, loop = self._registry.opening, self._registry.loop
        session: Session | None = None
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
                if session.error is not None:  # it has ended in the turn in which it began
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

    def _open(self, dialed: Dialed, address: Address) -> Session:
        """Ask for a new session; its future in `Registry.opening` tells how that went."""
        registry, config = self._registry, self._runtime.config
        if self._runtime.stopping:
            dialed.transport.abort()
            self._check_not_stopping()
        peer, now = dialed.peer_node_id, registry.loop.time()
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
            dial_address=address,
        )
        registry.opening[session] = registry.loop.create_future()
        registry.connect_session(session, dialed.transport, channel)
        return session

    async def connect_to(self, endpoint_id: bytes, rank: Rank = Rank.ASKED) -> Session:
        """Connect to an endpoint at the address that the user gave; all who want it share a dial.

        Raises:
            STTEndpointError: It has no address to dial.
            STTConnectError: See `node.STTNode.connect`.

        """
        dial = self._dials.get(endpoint_id)
        if dial is None:
            endpoints = self._runtime.endpoints
            address = dial_address(endpoints, endpoint_id)
            if address is None:
                info = endpoints.get_endpoint(endpoint_id) or {}
                raise STTEndpointError(
                    f"endpoint {endpoint_id.hex()} has no session, and its address "
                    f"{info.get('address')!r} is not a (host, port) that could be dialled"
                )
            turn = Turn(rank)
            task = self._runtime.own(self.connect(*address, expect=endpoint_id, turn=turn))
            dial = self._dials[endpoint_id] = (task, turn)
            task.add_done_callback(partial(self._dial_ended, endpoint_id))
        task, turn = dial
        if rank < turn.rank:
            self._dialer.hurry(turn)
        await asyncio.wait((task,))
        return task.result()

    def _dial_ended(self, endpoint_id: bytes, task: asyncio.Task[Session]) -> None:
        del self._dials[endpoint_id]
        if not task.cancelled():
            task.exception()  # retrieved: whoever waited may have been cancelled

    def is_dialing(self, endpoint_id: bytes) -> bool:
        """Whether a dial of this endpoint is under way."""
        return endpoint_id in self._dials
