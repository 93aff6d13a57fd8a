"""Decides what becomes of each incoming connection: a session, a refusal, or silence.

Limits on sessions are checked here; `access` judges identities, and `admission` limits connections
that are not authenticated yet.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from ..errors import STTConnectError, STTListenError, STTProtocolError, reason_of
from ..identity import node_id_of
from ..protocol.frames import Welcome, WelcomeStatus
from ..protocol.hello import VERSION, Opening, OpeningKind, Reply
from ..protocol.machine import SessionMachine
from ..protocol.phase import Link
from ..protocol.records import seal
from ..sessions.handshaking import Answering, FirstMessages, Landing
from ..transports.sockets import SocketNetwork, descriptor_limit
from .admission import Admission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..protocol.hello import Hello
    from ..protocol.noise import Channel, Handshake
    from ..transports.base import Listener, Network, Receiver, Transport
    from .access import Access
    from .registry import Registry

__all__ = ["Acceptor", "listen"]

logger: logging.Logger = logging.getLogger(__name__)

_FIRST_MESSAGES = 65_536
"""How many first handshake messages are remembered: ten minutes' worth at 100 dials a second."""


class Cluster(Protocol):
    """What accepting needs of the cluster that the node is a hub of."""

    def pass_on(self, transport: Transport, hello: Hello, message: bytes) -> Landing:
        """Pass a connection on to the hub that its first message names, if that is another one."""


class Acceptor:
    """Answers the connections to a listening node. It is the `AnsweringUser` of all handshakes.

    Attributes:
        handshakes: One handshake at its start for each accepted shared seed, copied for each
            connection. Set before the first connection.
        answering: Connections in their handshake, and refused ones that have not ended yet.

    """

    handshakes: Sequence[Handshake]
    _reply: Reply

    def __init__(self, registry: Registry, access: Access) -> None:
        self._registry = registry
        self._runtime = registry.runtime
        self._access = access
        self._admission: Admission[Answering] = Admission(self._runtime.config)
        self._first_messages = FirstMessages(_FIRST_MESSAGES)
        self._cluster: Cluster | None = None
        self._node_id = b""
        self.answering: set[Answering] = set()

    def begin(self, node_id: bytes, cluster: Cluster | None) -> None:
        """Begin a life of the node that has this id; `accept` may be called from now on.

        Args:
            node_id: The node's id.
            cluster: Knows the other hubs that have this id; None if there are none.

        """
        runtime = self._runtime
        most = runtime.config.max_message_bytes
        self._node_id = node_id
        self._cluster = cluster
        self._reply = Reply(VERSION, most, runtime.incarnation, runtime.is_hub)
        self._first_messages.begin(node_id)

    def accept(self, *, passed_on: bool = False) -> Receiver:
        """Return the receiver of a new connection; say if another hub has passed it on."""
        answering = Answering(
            self,
            self.handshakes,
            self._reply,
            self._first_messages,
            self._runtime.config.handshake_timeout,
            passed_on=passed_on,
        )
        self.answering.add(answering)
        return answering

    def abort(self) -> None:
        """Give up all handshakes that are under way: the node is stopping."""
        for answering in list(self.answering):
            answering.abort(STTConnectError("the node is stopping"))

    # ------------------------------------------------------- what handshakes report

    def entered(self, answering: Answering) -> bool:
        """Admit a new connection, unless there are too many."""
        return self._admission.enter(answering)

    def landed(
        self, answering: Answering, transport: Transport, hello: Hello, message: bytes
    ) -> Landing:
        """Answer here, unless another hub of the cluster has the dialer's session."""
        if (
            self._cluster is None
            or answering.passed_on  # once is enough: the hub that it names is not to be found
            or not hello.names_hub(self._node_id)
            or hello.is_for_hub(self._runtime.incarnation)
        ):
            return Landing.HERE
        landing = self._cluster.pass_on(transport, hello, message)
        if landing is Landing.PASSED_ON:
            self.answering.discard(answering)
            self._admission.leave(answering)
        return landing

    def proven(self, answering: Answering) -> None:
        """Note that the dialer knows the shared seed."""
        self._admission.prove(answering)

    def gone(self, answering: Answering) -> None:
        """Note that the connection has ended."""
        self.answering.discard(answering)
        self._admission.leave(answering)
        self._runtime.ended()

    def failed(self, answering: Answering, cause: Exception | None) -> None:
        """Count a failed handshake; report it if the dialer has sent anything."""
        self._admission.leave(answering)
        if answering.dropped:
            self._runtime.counters.handshakes_dropped += 1
            return
        self._runtime.counters.handshakes_failed += 1
        if not answering.heard:
            return  # nothing was sent: a probe of the port, which is not an error
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
        if not opening.hub:
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
            answering.end()  # it counts as half-open until that is done

    # ------------------------------------------------------------------- decisions

    def _deny(
        self, answering: Answering, peer_node_id: bytes, opening: Opening, denial: str
    ) -> Welcome:
        """Refuse a peer that may not, or may no longer, have a session here."""
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
            if session.peer_incarnation != opening.incarnation and not opening.hub:
                # The peer was restarted. If its old connection seems to live, find out.
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
            peer_is_hub=opening.hub,
            dial_address=None,
        )
        registry.unconfirmed[session.session_id] = session
        registry.connect_session(session, transport, channel)
        return None

    def _limit_reached(self, peer_node_id: bytes) -> str | None:
        """Return which limit rules out another session with the peer, in words; None if none."""
        registry, config = self._registry, self._runtime.config
        if registry.count_of(peer_node_id) >= config.max_sessions_per_peer:
            unconfirmed = registry.unconfirmed_of(peer_node_id)
            gone = next((session for session in unconfirmed if not session.connected), None)
            if gone is not None:
                gone.lose("its dialer left without closing it, and dials again")
        if registry.count() >= config.max_sessions:
            return f"a session was refused: max_sessions is {config.max_sessions}"
        if not registry.budget.admits:
            return "a session was refused: all of max_buffered_bytes is promised or in use"
        if self._runtime.endpoints.is_overfull(peer_node_id):
            return "a session was refused: messages of the peer's earlier ones wait to be received"
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
            return self._not_resumed(answering, "cannot resume a session that is not known here")
        if session.peer_incarnation != opening.incarnation:
            return self._not_resumed(answering, "a restarted dialer cannot resume a session")
        try:
            session.machine.resume(opening.epoch, opening.recv_next, opening.credit)
        except STTProtocolError as error:
            return self._not_resumed(answering, f"cannot resume a session: {error}")
        registry.connect_session(session, transport, channel)
        session.go_live()
        return None

    def _not_resumed(self, answering: Answering, reason: str) -> Welcome:
        """Report it, because an honest dialer hardly ever gets here; return the refusal."""
        details = {"address": answering.peer_address, "reason": reason}
        self._runtime.report("handshake_failed", details)
        return _refusal(WelcomeStatus.UNKNOWN)


def _refusal(status: WelcomeStatus) -> Welcome:
    return Welcome(status, 0, 0)


async def listen(
    network: Network, acceptor: Acceptor, host: str, port: int, max_sessions: int
) -> Listener:
    """Accept connections from now on.

    Raises:
        STTListenError: It cannot listen there.

    """
    _check_descriptors(network, max_sessions)
    try:
        return await network.listen(acceptor.accept, host, port)
    except OSError as error:
        raise STTListenError(
            f"cannot listen on {host or 'any address'} port {port}: "
            f"{reason_of(error)}; choose another host or port, or port 0 for a free one"
        ) from error


def _check_descriptors(network: Network, max_sessions: int) -> None:
    """Warn if this process may not open a socket for each session that the node accepts."""
    limit = descriptor_limit()
    if limit is not None and limit <= max_sessions and isinstance(network, SocketNetwork):
        logger.warning(
            "this process may open only %d file descriptors, but up to %d sessions "
            "(max_sessions) need one each: raise the limit (ulimit -n, LimitNOFILE=, "
            "resource.setrlimit), or lower max_sessions",
            limit,
            max_sessions,
        )
