"""Accepting: from a new connection to a session, a refusal, or silence."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .admission import Admission
from .errors import STTConnectError, STTProtocolError
from .frames import Welcome, WelcomeStatus
from .handshaking import Answering, FirstMessages
from .hello import VERSION, Opening, OpeningKind, Reply
from .identity import node_id_of
from .phase import Link
from .records import seal
from .session import SessionMachine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .access import Access
    from .noise import Channel, Handshake
    from .registry import Registry
    from .transports.base import Receiver, Transport

__all__ = ["Acceptor"]

logger = logging.getLogger(__name__)

_FIRST_MESSAGES = 65_536
"""First handshake messages remembered: at 100 dials a second, those of the last ten minutes."""


class Acceptor:
    """Answers whoever connects to a listening node. It is the `AnsweringUser` of all handshakes.

    Attributes:
        handshakes: At their start, one for each shared seed that is accepted; copied for each
            connection. Set before the first one.
        answering: Connections in their handshake, and those that are refused and end.

    """

    handshakes: Sequence[Handshake]

    def __init__(self, registry: Registry, access: Access) -> None:
        self._registry = registry
        self._runtime = registry.runtime
        self._access = access
        self._admission: Admission[Answering] = Admission(self._runtime.config)
        self._first_messages = FirstMessages(_FIRST_MESSAGES)
        self.answering: set[Answering] = set()

    def begin(self, node_id: bytes) -> None:
        """Begin a life of the node that has this id; `accept` may be called from now on."""
        self._first_messages.begin(node_id)

    def accept(self) -> Receiver:
        """Return the receiver of a new connection."""
        config = self._runtime.config
        answering = Answering(
            self,
            self.handshakes,
            Reply(VERSION, config.max_message_bytes, self._runtime.incarnation),
            self._first_messages,
            config.handshake_timeout,
        )
        self.answering.add(answering)
        return answering

    def abort(self) -> None:
        """Give up all handshakes that are under way: the node is stopping."""
        for answering in list(self.answering):
            answering.abort(STTConnectError("the node is stopping"))

    # ---------------------------------------------------------- what handshakes tell

    def entered(self, answering: Answering) -> bool:
        """Take a new connection in, unless there are too many."""
        return self._admission.enter(answering)

    def proven(self, answering: Answering) -> None:
        """Note that the dialer knows the shared seed."""
        self._admission.prove(answering)

    def gone(self, answering: Answering) -> None:
        """Note that the connection has ended."""
        self.answering.discard(answering)
        self._admission.leave(answering)
        self._runtime.ended()

    def failed(self, answering: Answering, cause: Exception | None) -> None:
        """Count a handshake that failed; say so if the dialer has sent anything."""
        self._admission.leave(answering)
        if answering.dropped:
            self._runtime.counters.handshakes_dropped += 1
            return
        self._runtime.counters.handshakes_failed += 1
        if not answering.heard:
            return  # nothing was sent: a probe of the port, and nobody's error
        details = {
            "address": answering.peer_address,
            "reason": str(cause or "the connection ended during the handshake"),
        }
        self._runtime.report("handshake_failed", details)

    def authenticated(
        self, answering: Answering, transport: Transport, channel: Channel, opening: Opening
    ) -> None:
        """Decide what becomes of an authenticated dialer."""
        peer_node_id = node_id_of(channel.remote_static)
        registry = self._registry
        now, address = registry.loop.time(), answering.peer_address
        registry.clones.seen(peer_node_id, opening.incarnation, address, now)
        denial = self._access.refusal(peer_node_id)
        if denial is not None:
            refusal: Welcome | None = self._deny(answering, peer_node_id, opening, denial)
        elif opening.kind is OpeningKind.RESUME:
            refusal = self._resume(answering, peer_node_id, transport, channel, opening)
        else:
            refusal = self._begin(peer_node_id, transport, channel, opening)
        if refusal is None:
            self.answering.discard(answering)
            self._admission.leave(answering)
        else:
            self._runtime.counters.handshakes_failed += 1
            transport.write(seal(channel.send_cipher, [refusal.encode()]))
            answering.end()  # it counts as half-open as long as that takes

    # ------------------------------------------------------------------- decisions

    def _deny(
        self, answering: Answering, peer_node_id: bytes, opening: Opening, denial: str
    ) -> Welcome:
        """Refuse a peer that may have no session here (any more)."""
        registry = self._registry
        session = registry.resumable(opening.session_id, peer_node_id)
        if session is not None:
            session.lose(denial)
        self._runtime.counters.peers_denied += 1
        details = {
            "peer_node_id": peer_node_id,
            "address": answering.peer_address,
            "reason": denial,
        }
        self._runtime.report("peer_denied", details)
        position = registry.position_at_end(opening.session_id, peer_node_id)
        if position is not None:
            return Welcome(WelcomeStatus.ENDED, position, 0)  # it may know what has arrived
        return _refusal(WelcomeStatus.FORBIDDEN)

    def _begin(
        self, peer_node_id: bytes, transport: Transport, channel: Channel, opening: Opening
    ) -> Welcome | None:
        """Open a new session with a dialer, or return the refusal."""
        registry, config = self._registry, self._runtime.config
        for session in registry.of_peer(peer_node_id):
            if session.peer_incarnation != opening.incarnation:
                # The peer was restarted. If its old connection seems to live, see whether it does.
                if session.connected:
                    registry.clones.suspect(session, registry.loop.time())
                else:  # suspended, or closing without a connection
                    session.lose("the peer was restarted")
        limit = self._limit_reached(peer_node_id)
        if limit is not None:
            self._runtime.report("limit_reached", {"peer_node_id": peer_node_id, "reason": limit})
        if limit is not None or self._runtime.stopping:
            return _refusal(WelcomeStatus.REFUSED)
        machine = SessionMachine(
            channel.handshake_hash[:16],
            config,
            link=Link.UP,
            peer_max_message=opening.max_message_bytes,
            peer_credit=opening.credit,
            budget=registry.budget_of(peer_node_id),
            controls=registry.controls_of(peer_node_id),
            now=registry.loop.time(),
        )
        machine.welcome()
        session = registry.make_session(
            machine,
            peer_node_id=peer_node_id,
            peer_incarnation=opening.incarnation,
            dial_address=None,
        )
        registry.unconfirmed[session.session_id] = session
        registry.connect_session(session, transport, channel)
        return None

    def _limit_reached(self, peer_node_id: bytes) -> str | None:
        """Return which limit forbids one more session with the peer, in words; None if none."""
        registry, config = self._registry, self._runtime.config
        if registry.count_of(peer_node_id) >= config.max_sessions_per_peer:
            unconfirmed = registry.unconfirmed_of(peer_node_id)
            gone = next((session for session in unconfirmed if not session.connected), None)
            if gone is not None:
                gone.lose("its dialer has left without a word and is here again")
        if registry.count() >= config.max_sessions:
            return f"a session was refused: max_sessions is {config.max_sessions}"
        if not registry.budget.admits:
            return "a session was refused: all of max_buffered_bytes is promised or in use"
        if self._runtime.endpoints.is_overfull(peer_node_id):
            return "a session was refused: what its earlier ones have brought waits to be received"
        if registry.count_of(peer_node_id) >= config.max_sessions_per_peer:
            most = config.max_sessions_per_peer
            return f"a session was refused: max_sessions_per_peer is {most}"
        return None

    def _resume(
        self,
        answering: Answering,
        peer_node_id: bytes,
        transport: Transport,
        channel: Channel,
        opening: Opening,
    ) -> Welcome | None:
        """Resume a dialer's session, or return the refusal."""
        registry = self._registry
        session = registry.resumable(opening.session_id, peer_node_id)
        if session is None:
            position = registry.position_at_end(opening.session_id, peer_node_id)
            if position is not None:
                return Welcome(WelcomeStatus.ENDED, position, 0)
            return self._not_resumed(answering, "a session to be resumed that is not known here")
        if session.peer_incarnation != opening.incarnation:
            return self._not_resumed(answering, "a session to be resumed by a restarted dialer")
        try:
            session.machine.resume(opening.epoch, opening.recv_next, opening.credit)
        except STTProtocolError as error:
            return self._not_resumed(answering, f"a session to be resumed with {error}")
        registry.connect_session(session, transport, channel)
        session.go_live()
        return None

    def _not_resumed(self, answering: Answering, reason: str) -> Welcome:
        """Say so: an honest dialer hardly ever comes to this."""
        details = {"address": answering.peer_address, "reason": reason}
        self._runtime.report("handshake_failed", details)
        return _refusal(WelcomeStatus.UNKNOWN)


def _refusal(status: WelcomeStatus) -> Welcome:
    return Welcome(status, 0, 0)
