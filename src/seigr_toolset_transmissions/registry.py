"""All sessions of a node, the peers behind them, and what the application is told about both.

The registry is the `live_session.SessionOwner` of every session: each tells it what becomes of it,
and it keeps the books (which session leads to which peer, which are suspended, which have ended)
and emits the events in the order that ``docs/events.md`` promises.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from .budget import Ledger, Share
from .checked_session import CheckedSession
from .clones import Clones
from .connection import Connection, FlushTurn
from .errors import (
    STTConnectError,
    STTEndpointError,
    STTHandshakeError,
    STTLimitError,
    STTProtocolError,
    STTSessionLostError,
)
from .frames import WelcomeStatus
from .live_session import Session, SessionState
from .loop_time import LoopTime
from .outbox import FRAME_COST
from .pump import STANDSTILL_SECONDS
from .reconnect import Reconnects

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from .config import NodeConfig
    from .controls import Controls
    from .dialing import Dialer
    from .endpoints import EndpointManager
    from .events import EventEmitter
    from .figures import Traffic
    from .noise import Channel
    from .pump import Pump, Step
    from .runtime import Runtime
    from .session import SessionMachine
    from .transports.base import Address, Transport

__all__ = ["Peer", "Registry"]

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
"""The log says at most once in this time that a session stands still."""

_UNFINISHED_SECONDS = 30.0
"""How long a message that has begun may make no progress while others wait for the room it has."""

_ENDPOINT_COST = 1536
"""Bytes that the endpoint of a peer that has gone counts while messages of it wait: what it takes
in memory, with its inbox. There may be as many as there are members that come, send and go."""

_TOMBSTONES = 4096
"""Ended sessions remembered, so that a peer that resumes one learns how far it had come."""


class Peer:
    """An authenticated identity that has, or had, a session with this node."""

    __slots__ = ("announced", "connected", "departing", "sessions")

    def __init__(self) -> None:
        self.sessions: list[Session] = []  # newest last
        self.announced = 0  # sessions of which the application knows
        self.departing: list[Session] = []  # ended, and the application does not know it yet
        self.connected = False  # whether the application was told so


class Registry:
    """The sessions of one node.

    Attributes:
        sessions: Those established, by id.
        peers: By node id.
        routes: For each peer the session to send over.
        opening: Sessions that were dialled and are not established yet. The future is done when
            they are, or fails with the `STTConnectError` that says why not.
        unconfirmed: Accepted and answered, but not yet used by the dialer. It may hold such a
            session for established although we have never heard so, hence it can be resumed like
            any other.
        connections: Those that have not ended, with or without a session.
        clones: Notices peers that live twice.
        budget: What all of them together hold and have promised; see `budget_of`.
        lost: Of the sessions that ended with messages undelivered while the node stops. Those that
            end before are told of when it happens, and not kept: their messages may be large.
        left_over: By peer, what the stopping node has acknowledged and could not hand on.

    """

    def __init__(self, runtime: Runtime, dialer: Dialer, routes: dict[bytes, Session]) -> None:
        self.runtime = runtime
        self.config: NodeConfig = runtime.config
        self.events: EventEmitter = runtime.events
        self.endpoints: EndpointManager = runtime.endpoints
        self.sessions: dict[bytes, Session] = {}
        self.peers: dict[bytes, Peer] = {}
        self.routes = routes
        self.opening: dict[Session, asyncio.Future[None]] = {}
        self.unconfirmed: dict[bytes, Session] = {}
        self.connections: set[Connection] = set()
        self.lost: list[STTSessionLostError] = []
        self.left_over: dict[bytes, list[bytes]] = {}
        self.reconnects = Reconnects(self, dialer)
        self.clones = Clones(runtime)
        self._departing: set[Session] = set()  # those of all peers
        self._tombstones: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()
        self._quiet_until = float("-inf")  # once it was said that a session stands still
        self._turn: FlushTurn
        self.loop_time: LoopTime
        self.budget = self._make_budget()

    def begin(self) -> None:
        """Begin a life of the node."""
        config = self.config
        self._turn = FlushTurn(
            self.loop, reassure_after=min(config.ping_interval, config.ping_timeout) / 3
        )
        self.loop_time = LoopTime(self.loop)
        self.budget = self._make_budget()
        # What a handler that could not be ended has left of a former life.
        self._departing.clear()
        self.peers.clear()
        self._quiet_until = float("-inf")  # this loop's clock may be another

    def end(self) -> None:
        """End it, when all sessions have ended."""
        self.budget.stop()

    def orphan(self, reason: str) -> tuple[STTSessionLostError, ...]:
        """End all sessions without a word, and without the loop: see `Session.orphan`.

        Returns:
            One error for each session that had messages undelivered.

        """
        self.peers.clear()  # what is left of tasks that told of them finds nothing to change
        for session in (*self.opening, *self.unconfirmed.values(), *self.sessions.values()):
            session.orphan(reason)
        errors = (session.error for session in self.sessions.values())
        return tuple(error for error in errors if error and (error.unsent or error.unknown))

    # ------------------------------------------------- what sessions need of their node

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's event loop."""
        return self.runtime.loop

    def check_caller(self) -> None:
        """Raise RuntimeError for a caller in another event loop, or in a forked child."""
        self.runtime.check_caller()

    def check_thread(self) -> None:
        """Raise RuntimeError in a forked child, and in debug mode for another thread's caller."""
        self.runtime.check_thread()

    @property
    def time_is_over(self) -> bool:
        """Whether the node cancels the handlers that still run."""
        return self.runtime.time_is_over

    def own(
        self, coroutine: Coroutine[Any, Any, None], worker: Pump | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node, which tells the pump what becomes of it."""
        return self.runtime.own(coroutine, worker)

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event. Raises only if the task is cancelled, or to interrupt the program."""
        await self.runtime.emit(event, **details)

    def ensure_endpoint(self, session: Session) -> None:
        """Make sure that the session's peer is an endpoint."""
        with contextlib.suppress(STTEndpointError):  # the user, or another session, has added it
            self.endpoints.add_endpoint_nowait(
                session.peer_node_id, session.address, temporary=True
            )

    # ----------------------------------------------------- what they hold and have promised

    def _make_budget(self) -> Ledger:
        return Ledger(
            self.config,
            inboxes=partial(self.endpoints.held_bytes, FRAME_COST, _ENDPOINT_COST),
            inbox_of=partial(self.endpoints.held_by, overhead=FRAME_COST),
            awaits=self.endpoints.awaits,
            call_later=self._call_later,
            relieve=self._relieve,
        )

    def _call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, call)

    def budget_of(self, peer_node_id: bytes) -> Share:
        """Return the budget for the machine of one more session, which leaves it at its end."""
        return Share(self.budget, peer_node_id)

    def held_bytes(self) -> int:
        """Add up what was received and the application has not taken, with a share for each piece.

        Takes a fraction of a microsecond for each session.
        """
        return self.endpoints.held_bytes(FRAME_COST, _ENDPOINT_COST) + sum(
            session.machine.held_cost for session in (*self.sessions.values(), *self._departing)
        )

    def traffic_of(self, peer_node_id: bytes) -> Iterator[Traffic]:
        """Return what went over each of the peer's present sessions."""
        peer = self.peers.get(peer_node_id)
        return (session.traffic for session in (() if peer is None else peer.sessions))

    def promised_bytes(self) -> int:
        """Add up what the peers may send with the credit that they have."""
        return sum(
            session.machine.promised_cost
            for session in (*self.sessions.values(), *self.opening, *self.unconfirmed.values())
        )

    def unacknowledged_bytes(self) -> int:
        """Add up what was accepted for sending and is not acknowledged."""
        return sum(session.machine.outbox.unacked_cost for session in self.sessions.values())

    def _relieve(self) -> None:
        """End sessions that keep the room for a message that has begun, and do not use it."""
        late = self.loop.time() - _UNFINISHED_SECONDS
        for session in list(self.sessions.values()):
            machine = session.machine
            since = machine.stuck_since
            if (
                since is not None
                and since <= late
                and machine.committed > machine.budget.first_window
            ):
                error = STTLimitError("a message was left unfinished while memory was short")
                session.lose(str(error), error)

    # ---------------------------------------------------------------- connections

    def make_session(
        self,
        machine: SessionMachine,
        *,
        peer_node_id: bytes,
        peer_incarnation: bytes,
        dial_address: Address | None,
    ) -> Session:
        """Return a new session, which nobody knows yet."""
        kind = CheckedSession if self.loop.get_debug() else Session
        return kind(
            self,
            machine,
            peer_node_id=peer_node_id,
            peer_incarnation=peer_incarnation,
            dial_address=dial_address,
        )

    def connect_session(self, session: Session, transport: Transport, channel: Channel) -> None:
        """Let a session go on over a transport whose handshake is done."""
        connection = Connection(
            transport,
            channel,
            session,
            self.loop,
            self._turn,
            self.loop_time,
            self._connection_gone,
        )
        self.connections.add(connection)
        transport.hand_over(connection)
        session.attach(connection)

    def _connection_gone(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.runtime.ended()

    # ----------------------------------------------------- what sessions tell of themselves

    def session_opened(self, session: Session) -> None:
        """Note that both sides hold the session for established."""
        self.runtime.counters.sessions_opened += 1
        self.unconfirmed.pop(session.session_id, None)
        self.sessions[session.session_id] = session
        peer = self.peers.setdefault(session.peer_node_id, Peer())
        peer.sessions.append(session)
        self._route(session.peer_node_id)
        self.ensure_endpoint(session)
        session.tell(partial(self._announce_session, session, peer))
        session.tell(partial(self._announce_peer, session, peer))
        opening = self.opening.get(session)
        if opening is not None and not opening.done():
            opening.set_result(None)

    async def _announce_session(self, session: Session, peer: Peer) -> None:
        peer.announced += 1
        await self.emit("session_created", session_id=session.session_id)

    async def _announce_peer(self, session: Session, peer: Peer) -> None:
        if not peer.connected:
            peer.connected = True
            await self.emit("peer_connected", peer_node_id=session.peer_node_id)

    def session_refused(self, session: Session, cause: Exception | None) -> None:
        """Note that a session was never opened."""
        self.runtime.counters.handshakes_failed += 1
        session.machine.budget.leave()
        if session.dial_address is None:
            del self.unconfirmed[session.session_id]
            if isinstance(cause, STTProtocolError):
                self.offended(session, cause)
            return
        opening = self.opening.get(session)
        if opening is None or opening.done():
            return
        if isinstance(cause, STTConnectError):
            error = cause
        elif session.machine.refusal is WelcomeStatus.FORBIDDEN:
            error = STTConnectError("the peer does not allow this node to connect")
        elif session.machine.refusal is not None:
            error = STTConnectError("the peer takes no more sessions at present")
        elif self.runtime.stopping:
            error = STTConnectError("the node is stopping")
        else:
            error = STTHandshakeError("the connection ended before the session was established")
            error.__cause__ = cause
        opening.set_exception(error)

    def session_suspended(self, session: Session, cause: Exception | None) -> None:
        """Note that a session lost its connection, and see that it gets another one."""
        newest = self.peers[session.peer_node_id].sessions[-1]
        if session.dial_address is None and newest.peer_incarnation != session.peer_incarnation:
            session.lose("the peer was restarted", cause)
            return
        self._route(session.peer_node_id)
        self.reconnects.suspended(session, cause)

    def session_unused(self, session: Session) -> None:
        """Note that a session was accepted and lost its connection before its first use."""
        self.limit_suspended()

    def limit_suspended(self) -> None:
        """Give sessions up if too many have no connection: the oldest of those never used first."""
        limit = self.config.max_suspended
        if limit is None or len(self.reconnects) + len(self.unconfirmed) <= limit:
            return
        unused = self._unused()
        if len(self.reconnects) + len(unused) > limit:
            session = unused[0] if unused else self.reconnects.oldest()
            session.lose(f"more than {limit} sessions have no connection")

    def _unused(self) -> list[Session]:
        """List what was accepted, was never used and has no connection, oldest first."""
        return [session for session in self.unconfirmed.values() if not session.connected]

    def session_resumed(self, session: Session) -> None:
        """Note that a session goes on over a new connection."""
        self.runtime.counters.resumes += 1
        self._route(session.peer_node_id)
        self.reconnects.resumed(session)

    def offended(self, session: Session, cause: STTProtocolError) -> None:
        """Tell of what came over a session's connection and has ended no established session."""
        name = "limit_reached" if isinstance(cause, STTLimitError) else "protocol_error"
        self.runtime.report(name, {"peer_node_id": session.peer_node_id, "reason": str(cause)})

    def session_closing(self, session: Session) -> None:
        """Note that a session takes no more messages: send over another one, if there is one."""
        self._route(session.peer_node_id)
        self.reconnects.hurry(session)  # there is only so much time to deliver the rest

    def session_ended(self, session: Session, cause: Exception | None) -> None:
        """Note that a session is over, and tell the application."""
        del self.sessions[session.session_id]
        peer = self.peers[session.peer_node_id]
        peer.sessions.remove(session)
        peer.departing.append(session)
        self._departing.add(session)
        self.endpoints.note_traffic(session.peer_node_id, session.traffic)
        self.reconnects.forget(session)
        self._tombstones[session.session_id] = (session.peer_node_id, session.machine.position)
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        self.runtime.ended()
        facts = {"session_id": session.session_id, "peer_node_id": session.peer_node_id}
        if isinstance(cause, STTProtocolError):
            name = "limit_reached" if isinstance(cause, STTLimitError) else "protocol_error"
            details = facts | {"reason": str(cause)}
            session.tell(partial(self.runtime.emit_error, name, details))
        error = session.error
        if error is not None:
            self.runtime.counters.sessions_lost += 1
            if self.runtime.stopping and (error.unsent or error.unknown):
                self.lost.append(error)
            losses = facts | {
                "reason": str(error),
                "unsent": error.unsent,
                "unknown": error.unknown,
            }
            session.tell(partial(self.runtime.emit_error, "session_lost", losses))
        session.tell(partial(self._say_farewell, session, peer))
        session.tell(partial(self._say_farewell_to, session.peer_node_id, peer))
        session.tell(partial(self._forget, session, peer))

    async def _say_farewell(self, session: Session, peer: Peer) -> None:
        peer.announced -= 1
        await self.emit("session_closed", session_id=session.session_id)

    async def _say_farewell_to(self, peer_node_id: bytes, peer: Peer) -> None:
        if peer.announced == 0 and peer.connected:
            peer.connected = False
            await self.emit("peer_disconnected", peer_node_id=peer_node_id)

    async def _forget(self, session: Session, peer: Peer) -> None:
        """Let go of what has ended, now that the application knows it."""
        peer_node_id = session.peer_node_id
        session.machine.budget.leave()
        peer.departing.remove(session)
        self._departing.discard(session)
        gone = not peer.sessions and not peer.departing
        if gone and self.peers.get(peer_node_id) is peer:
            del self.peers[peer_node_id]
            if self.endpoints.is_temporary(peer_node_id):
                self.endpoints.retire_endpoint(peer_node_id)

    def undelivered(self, session: Session, messages: tuple[bytes, ...]) -> Step:
        """Note messages that cannot be handed on any more; return the step that tells of them."""
        self.left_over.setdefault(session.peer_node_id, []).extend(messages)
        details = {
            "session_id": session.session_id,
            "peer_node_id": session.peer_node_id,
            "reason": f"the node was stopped before {len(messages)} messages were handed on",
            "messages": messages,
        }
        return partial(self.runtime.emit_error, "undelivered", details)

    def stands_still(self, session: Session) -> None:
        """Warn that a handler waits long to send on the session whose messages it handles."""
        now = self.loop.time()
        if now < self._quiet_until:
            return
        self._quiet_until = now + _QUIET_SECONDS
        logger.warning(
            "a handler of data_received has waited %g s in send() on the session whose messages it "
            "handles (%s, with %s), while more of them wait for it. If the peer does the same, "
            "both wait forever: answer from a task of your own that reads a bounded queue, or "
            "with send_nowait()",
            STANDSTILL_SECONDS,
            session.session_id.hex(),
            session.peer_node_id.hex(),
        )

    def tell(self, session: Session, event: str) -> None:
        """Emit that a session was suspended or resumed, in order with all else about it.

        A resumption that ended before anyone heard of it is left out, so that a peer that resumes
        all the time does not make events pile up for a slow handler.
        """
        step = partial(self.emit, event, session_id=session.session_id)
        if event == "session_resumed":
            session.resumption = step
        elif session.take_back(session.resumption):
            return
        session.tell(step)

    def _route(self, peer_node_id: bytes) -> None:
        """Choose the session to send over: the newest that has a connection, else the newest."""
        self.routes.pop(peer_node_id, None)
        for session in self.peers[peer_node_id].sessions:
            route = self.routes.get(peer_node_id)
            if session.accepts and (
                session.state is SessionState.OPEN
                or route is None
                or route.state is SessionState.SUSPENDED
            ):
                self.routes[peer_node_id] = session

    # ----------------------------------------------------------------- looking after them

    def of_peer(self, peer_node_id: bytes) -> list[Session]:
        """Return the peer's established sessions, newest last."""
        peer = self.peers.get(peer_node_id)
        return [] if peer is None else list(peer.sessions)

    def count_of(self, peer_node_id: bytes) -> int:
        """Return how many sessions the peer has, those included of whose end nobody knows yet."""
        peer = self.peers.get(peer_node_id)
        known = 0 if peer is None else len(peer.sessions) + len(peer.departing)
        return known + len(self.unconfirmed_of(peer_node_id))

    def count(self) -> int:
        """Return how many sessions there are of all peers, counted alike."""
        return len(self.sessions) + len(self._departing) + len(self.unconfirmed)

    def unconfirmed_of(self, peer_node_id: bytes) -> list[Session]:
        """Return the peer's sessions that it has not used yet, newest last."""
        return [s for s in self.unconfirmed.values() if s.peer_node_id == peer_node_id]

    def throw_out(self, peer_node_id: bytes, error: STTConnectError) -> list[Session]:
        """End whatever there is with a peer; return its sessions, which have ended.

        Messages of the peer that were acknowledged are handed on all the same.
        """
        sessions = self.of_peer(peer_node_id) + self.unconfirmed_of(peer_node_id)
        for session in sessions:
            session.lose("the peer was kicked")
        for session in [s for s in self.opening if s.peer_node_id == peer_node_id]:
            session.lose("the peer was kicked", error)
        return sessions

    def resumable(self, session_id: bytes, peer_node_id: bytes) -> Session | None:
        """Return the session if it is this peer's, and was accepted here."""
        session = self.sessions.get(session_id) or self.unconfirmed.get(session_id)
        if session is None or session.peer_node_id != peer_node_id:
            return None
        return session if session.dial_address is None else None

    def controls_of(self, peer_node_id: bytes) -> Controls | None:
        """Return what the sessions of a peer count their control frames with; None without one."""
        sessions = self.of_peer(peer_node_id) or self.unconfirmed_of(peer_node_id)
        return sessions[0].machine.controls if sessions else None

    def position_at_end(self, session_id: bytes, peer_node_id: bytes) -> int | None:
        """Return how many frames of this peer's ended session had come; None if not known."""
        owner, position = self._tombstones.get(session_id, (b"", 0))
        return position if owner == peer_node_id else None

    def check(self, now: float) -> None:
        """Look for peers that have gone silent, by the loop's clock."""
        for session in list(self.sessions.values()):
            session.check(now)
        self.clones.check(now, self.config.ping_timeout)
        for session in list(self.unconfirmed.values()):
            if now - session.live_since < self.config.resume_window:
                break
            session.lose("the dialer did not use the session")

    def suspended_count(self) -> int:
        """Return how many sessions have no connection."""
        suspended = sum(s.state is SessionState.SUSPENDED for s in self.sessions.values())
        return suspended + len(self._unused())
