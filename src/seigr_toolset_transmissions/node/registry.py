"""All sessions of a node, the peers behind them, and what the application is told about both.

The registry is the `SessionOwner` of every session. Sessions report to it what happens to them. It
keeps the books (which session leads to which peer, which are suspended, which have ended), and
emits the events in the order that ``docs/events.md`` promises.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    STTConnectError,
    STTEndpointError,
    STTHandshakeError,
    STTLimitError,
    STTProtocolError,
    STTSessionLostError,
)
from ..events.handlers import describe
from ..foundation.ids import short
from ..protocol.frames import WelcomeStatus
from ..protocol.outbox import FRAME_COST
from ..protocol.phase import Link
from ..sessions.checked import CheckedSession
from ..sessions.connection import Connection, FlushTurn
from ..sessions.loop_time import LoopTime
from ..sessions.public import SessionState
from ..sessions.pump import STANDSTILL_SECONDS
from ..sessions.session import LiveSession
from .arrivals import Arrivals
from .clones import Clones
from .ledger import Ledger, Share
from .reconnect import Reconnects
from .runtime import NO_MORE_MESSAGES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from ..config import NodeConfig
    from ..endpoints.transport_side import TransportEndpoints
    from ..events import EventEmitter
    from ..protocol.controls import Controls
    from ..protocol.machine import SessionMachine
    from ..protocol.noise import Channel
    from ..sessions.answering import RequestHandler
    from ..sessions.pump import Step
    from ..sessions.worker import Worker
    from ..stats import Traffic
    from ..transports.base import Address, Transport
    from .dialing import Dialer
    from .runtime import Runtime

__all__ = ["Peer", "Registry"]

logger: logging.Logger = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
"""At most one warning in this period that a handler holds up its session."""

_UNFINISHED_SECONDS = 30.0
"""How long a message that has begun to arrive may make no progress over a connection while others
wait for the room that it takes."""

_ENDPOINT_COST = 1536
"""Bytes that are counted for the endpoint of a peer that has gone while its messages wait: the
memory that the endpoint and its inbox take. Every member that comes, sends and goes leaves one."""

_FAREWELLS = "session_closed", "peer_disconnected"

_TOMBSTONES = 4096
"""Ended sessions remembered, so that a peer that resumes one learns how far it had come."""


class Peer:
    """An authenticated identity that has, or had, a session with this node."""

    __slots__ = ("announced", "connected", "departing", "draining", "sessions")

    def __init__(self) -> None:
        self.sessions: list[LiveSession] = []  # newest last
        self.announced: int = 0  # sessions that the application knows of
        self.departing: list[LiveSession] = []  # ended, and the application does not know it yet
        self.draining: int = 0  # how many of these may still hand over messages
        self.connected: bool = False  # whether the application was told that the peer is connected


class Registry:
    """The sessions of one node.

    Attributes:
        sessions: The established sessions, by id.
        peers: The peers, by node id.
        routes: For each peer, the session to send over.
        arrivals: The calls that wait until a peer has a route.
        followers: Called with a peer's node id whenever its route may have changed.
        opening: Sessions that this node dialed and that are not established yet. The future is
            done when the session is, or fails with the `STTConnectError` that says why not.
        unconfirmed: Sessions that were accepted and answered, but that the dialer has not used
            yet. It may consider such a session established although we have not heard from it,
            so the session can be resumed like any other.
        connections: The connections that have not ended, with or without a session.
        clones: Notices peers with more than one live process.
        budget: What all sessions together hold and have promised; see `budget_of`.
        lost: The errors of sessions that ended with messages undelivered while the node stops.
            Losses before that are reported as they happen and not kept: their messages may be
            large.
        left_over: By peer, what the stopping node has acknowledged and could not hand over.

    """

    def __init__(self, runtime: Runtime, dialer: Dialer, routes: dict[bytes, LiveSession]) -> None:
        self.runtime = runtime
        self.config: NodeConfig = runtime.config
        self.events: EventEmitter = runtime.events
        self.endpoints: TransportEndpoints = runtime.endpoints
        self.sessions: dict[bytes, LiveSession] = {}
        self.peers: dict[bytes, Peer] = {}
        self.routes = routes
        self.arrivals: Arrivals = Arrivals()
        self.followers: set[Callable[[bytes], None]] = set()
        self.opening: dict[LiveSession, asyncio.Future[None]] = {}
        self.unconfirmed: dict[bytes, LiveSession] = {}
        self.connections: set[Connection] = set()
        self.lost: list[STTSessionLostError] = []
        self.left_over: dict[bytes, list[bytes]] = {}
        self.reconnects: Reconnects = Reconnects(self, dialer)
        self.clones: Clones = Clones(runtime)
        self._departing: set[LiveSession] = set()  # those of all peers
        self._tombstones: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()
        self._quiet_until = float("-inf")  # after a warning that a handler holds up its session
        self._turn: FlushTurn
        self.loop_time: LoopTime
        self.budget: Ledger = self._make_budget()

    def begin(self) -> None:
        """Begin a life of the node."""
        config = self.config
        self._turn = FlushTurn(
            self.loop, reassure_after=min(config.ping_interval, config.ping_timeout) / 3
        )
        self.loop_time = LoopTime(self.loop)
        self.budget = self._make_budget()
        # What is left of a former life, of a handler that could not be ended.
        self._departing.clear()
        self.peers.clear()
        self._quiet_until = float("-inf")  # this loop's clock may be another

    def end(self) -> None:
        """End this life of the node; all sessions have ended."""
        self.budget.stop()

    def orphan(self, reason: str) -> tuple[STTSessionLostError, ...]:
        """End all sessions without telling their peers, and without the loop.

        See `LiveSession.orphan`.

        Returns:
            One error for each session with undelivered messages.

        """
        self.peers.clear()  # so that tasks that were emitting their events find nothing to change
        for session in (*self.opening, *self.unconfirmed.values(), *self.sessions.values()):
            session.orphan(reason)
        for session in self.sessions.values():
            self.runtime.counters.count(session.stats)  # `traffic` would need the loop
        errors = (session.error for session in self.sessions.values())
        return tuple(error for error in errors if error and (error.unsent or error.unknown))

    # ------------------------------------------------- what sessions need of their node

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's event loop."""
        return self.runtime.loop

    def check_caller(self) -> None:
        """Raise RuntimeError if the caller is in another event loop, or in a forked child."""
        self.runtime.check_caller()

    def check_thread(self) -> None:
        """Raise RuntimeError in a forked child, and in debug mode in another thread."""
        self.runtime.check_thread()

    @property
    def time_is_over(self) -> bool:
        """Whether the node cancels the handlers that still run."""
        return self.runtime.time_is_over

    @property
    def request_handler(self) -> RequestHandler | None:
        """What answers requests."""
        return self.runtime.request_handler

    def own(
        self, coroutine: Coroutine[Any, Any, None], worker: Worker | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node, which tells the worker when the task ends."""
        return self.runtime.own(coroutine, worker)

    def emit(self, event: str, **details: Any) -> Coroutine[Any, Any, None]:
        """Emit an event. Raises only what cancels the task or interrupts the program."""
        return self.runtime.emit(event, **details)

    def ensure_endpoint(self, session: LiveSession) -> None:
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
        """Return a budget for the machine of a new session; it must `leave` when it ends."""
        return Share(self.budget, peer_node_id)

    def held_bytes(self) -> int:
        """Add up what was received and not taken by the application, with each message's overhead.

        Takes a fraction of a microsecond per session.
        """
        return self.endpoints.held_bytes(FRAME_COST, _ENDPOINT_COST) + sum(
            session.machine.held_cost for session in (*self.sessions.values(), *self._departing)
        )

    def traffic_of(self, peer_node_id: bytes) -> Iterator[Traffic]:
        """Return the traffic of each of the peer's present sessions."""
        peer = self.peers.get(peer_node_id)
        return (session.traffic for session in (() if peer is None else peer.sessions))

    def promised_bytes(self) -> int:
        """Add up what the peers may send with the credit that they have."""
        return sum(
            session.machine.promised_cost
            for session in (*self.sessions.values(), *self.opening, *self.unconfirmed.values())
        )

    def unacknowledged_bytes(self) -> int:
        """Add up what was accepted for sending and not acknowledged."""
        return sum(session.machine.outbox.unacked_cost for session in self.sessions.values())

    def _relieve(self) -> None:
        """End sessions that hold room for a message that has begun, and do not use it.

        A peer whose connection broke has the usual time to come back, and then to go on. Both are
        counted from its last progress, so that it cannot keep the room by coming and going.
        """
        now = self.loop.time()
        for session in list(self.sessions.values()):
            machine = session.machine
            since, patience = machine.stuck_since, _UNFINISHED_SECONDS
            if machine.link is not Link.UP or now - session.live_since < _UNFINISHED_SECONDS:
                patience += self.config.resume_window
            if (
                since is not None
                and now - since >= patience
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
        peer_is_hub: bool,
        dial_address: Address | None,
    ) -> LiveSession:
        """Return a new session, which is not in the books yet."""
        kind = CheckedSession if self.loop.get_debug() else LiveSession
        return kind(
            self,
            machine,
            peer_node_id=peer_node_id,
            peer_incarnation=peer_incarnation,
            peer_is_hub=peer_is_hub,
            dial_address=dial_address,
        )

    def connect_session(self, session: LiveSession, transport: Transport, channel: Channel) -> None:
        """Continue a session over a transport whose handshake is done."""
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

    # ----------------------------------------------------------- what sessions report

    def session_opened(self, session: LiveSession) -> None:
        """Note that both sides consider the session established."""
        self.runtime.counters.sessions_opened += 1
        self.unconfirmed.pop(session.session_id, None)
        self.sessions[session.session_id] = session
        peer = self.peers.setdefault(session.peer_node_id, Peer())
        peer.sessions.append(session)
        self._route(session.peer_node_id)
        self.ensure_endpoint(session)
        self.endpoints.session_began(session.peer_node_id)
        if self._observes("session_created", "peer_connected"):
            session.tell("session_created", partial(self._announce_session, session, peer))
            session.tell("peer_connected", partial(self._announce_peer, session, peer))
        else:  # no task for events that nobody observes
            peer.announced += 1
            peer.connected = True
        opening = self.opening.get(session)
        if opening is not None and not opening.done():
            opening.set_result(None)
        logger.info("connected to %s at %s port %d (session %s)", *_shown(session))

    async def _announce_session(self, session: LiveSession, peer: Peer) -> None:
        peer.announced += 1
        await self.emit("session_created", session_id=session.session_id)

    async def _announce_peer(self, session: LiveSession, peer: Peer) -> None:
        if not peer.connected:
            peer.connected = True
            await self.emit("peer_connected", peer_node_id=session.peer_node_id)

    def session_refused(self, session: LiveSession, cause: Exception | None) -> None:
        """Note that a session was never opened."""
        self.runtime.counters.handshakes_failed += 1
        session.machine.budget.leave()
        if session.dial_address is None:
            del self.unconfirmed[session.session_id]
            self.runtime.ended()
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
            error = STTConnectError("the peer accepts no more sessions at present")
        elif self.runtime.stopping:
            error = STTConnectError("the node is stopping")
        else:
            error = STTHandshakeError("the connection ended before the session was established")
            error.__cause__ = cause
        opening.set_exception(error)

    def session_suspended(self, session: LiveSession, cause: Exception | None) -> None:
        """Note that a session has lost its connection, and arrange for another one."""
        newest = self.peers[session.peer_node_id].sessions[-1]
        replaced = newest.peer_incarnation != session.peer_incarnation and not newest.peer_is_hub
        if session.dial_address is None and replaced:
            session.lose("the peer was restarted", cause)
            return
        self._route(session.peer_node_id)
        self.reconnects.suspended(session, cause)
        reason = "the connection ended" if cause is None else cause
        logger.info(
            "lost the connection to %s at %s port %d (session %s): %s", *_shown(session), reason
        )

    def broken_for(self, session: LiveSession) -> float | None:
        """Return for how many seconds the session has been suspended; None if it is not."""
        return self.reconnects.broken_for(session)

    def session_unused(self, session: LiveSession) -> None:
        """Note that an accepted session lost its connection before its first use."""
        self.limit_suspended()

    def limit_suspended(self) -> None:
        """Give up a session if too many have no connection: one that was never used, if any."""
        limit = self.config.max_suspended
        if limit is None or len(self.reconnects) + len(self.unconfirmed) <= limit:
            return
        unused = self._unused()
        if len(self.reconnects) + len(unused) > limit:
            session = unused[0] if unused else self.reconnects.oldest()
            session.lose(f"more than {limit} sessions have no connection")

    def _unused(self) -> list[LiveSession]:
        """List accepted sessions that were never used and have no connection, oldest first."""
        return [session for session in self.unconfirmed.values() if not session.connected]

    def session_resumed(self, session: LiveSession) -> None:
        """Note that a session goes on over a new connection."""
        self.runtime.counters.resumes += 1
        self._route(session.peer_node_id)
        self.reconnects.resumed(session)
        logger.info("resumed with %s at %s port %d (session %s)", *_shown(session))

    def offended(self, session: LiveSession, cause: STTProtocolError) -> None:
        """Report what a peer did wrong on a connection, if that ended no established session."""
        name = "limit_reached" if isinstance(cause, STTLimitError) else "protocol_error"
        self.runtime.report(name, {"peer_node_id": session.peer_node_id, "reason": str(cause)})

    def session_closing(self, session: LiveSession) -> None:
        """Note that a session accepts no more messages: send over another one, if there is one."""
        self._route(session.peer_node_id)
        self.reconnects.hurry(session)  # there is only so much time to deliver the rest

    def session_ended(self, session: LiveSession, cause: Exception | None) -> None:
        """Note that a session is over, and tell the application."""
        del self.sessions[session.session_id]
        peer = self.peers[session.peer_node_id]
        peer.sessions.remove(session)
        peer.departing.append(session)
        peer.draining += 1
        self._departing.add(session)
        traffic = session.traffic
        self.endpoints.note_traffic(session.peer_node_id, traffic)
        self.runtime.counters.count(traffic)
        self.reconnects.forget(session)
        self._tombstones[session.session_id] = (session.peer_node_id, session.machine.position)
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        self.runtime.ended()
        facts = {"session_id": session.session_id, "peer_node_id": session.peer_node_id}
        if isinstance(cause, STTProtocolError):
            name = "limit_reached" if isinstance(cause, STTLimitError) else "protocol_error"
            details = facts | {"reason": str(cause)}
            session.tell("error", partial(self.runtime.emit_error, name, details))
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
            session.tell("error", partial(self.runtime.emit_error, "session_lost", losses))
        if session.telling or self.runtime.stopping or self._observes(*_FAREWELLS):
            self._tell_of_end(session, peer)
        else:  # code that waited for the end may register for the events once it runs
            self.loop.call_soon(self._depart, session, peer)
        logger.info(
            "ended with %s at %s port %d (session %s): %s",
            *_shown(session),
            "closed, with everything delivered" if error is None else error,
        )

    def _observes(self, one: str, other: str) -> bool:
        return self.events.observed(one) or self.events.observed(other)

    def _depart(self, session: LiveSession, peer: Peer) -> None:
        """Let go of a session that has ended, without a task if nobody observes its events."""
        if self._observes(*_FAREWELLS):
            self._tell_of_end(session, peer)
            return
        self._drained(session, peer)
        peer.announced -= 1
        if not peer.announced:
            peer.connected = False
        self._let_go(session, peer)

    def _tell_of_end(self, session: LiveSession, peer: Peer) -> None:
        session.tell("session_closed", partial(self._say_farewell, session, peer))
        session.tell("peer_disconnected", partial(self._say_farewell_to, session, peer))
        session.tell("peer_disconnected", partial(self._forget, session, peer))

    async def _say_farewell(self, session: LiveSession, peer: Peer) -> None:
        self._drained(session, peer)
        peer.announced -= 1
        await self.emit("session_closed", session_id=session.session_id)

    async def _say_farewell_to(self, session: LiveSession, peer: Peer) -> None:
        if peer.announced == 0 and peer.connected:
            peer.connected = False
            await self.emit("peer_disconnected", peer_node_id=session.peer_node_id)

    def _drained(self, session: LiveSession, peer: Peer) -> None:
        """End the receives that wait for a peer without sessions and without more messages."""
        peer.draining -= 1
        if peer.sessions or peer.draining or self.runtime.stopping:
            return  # receives that wait while the node stops are told that it was stopped
        name = session.peer_node_id.hex()
        if session.error is not None:
            how = f"the session with peer {name} was lost: {session.error}"
        elif session.machine.closed_here:
            how = f"this side closed its session with peer {name}"
        else:
            how = f"peer {name} closed its session"
        self.endpoints.session_over(session.peer_node_id, how)

    async def _forget(self, session: LiveSession, peer: Peer) -> None:
        self._let_go(session, peer)

    def _let_go(self, session: LiveSession, peer: Peer) -> None:
        """Let go of a session that has ended, now that the application knows."""
        peer_node_id = session.peer_node_id
        session.machine.budget.leave()
        peer.departing.remove(session)
        self._departing.discard(session)
        gone = not peer.sessions and not peer.departing
        if gone and self.peers.get(peer_node_id) is peer:
            del self.peers[peer_node_id]
            reason = NO_MORE_MESSAGES if self.runtime.stopping else None
            self.endpoints.let_go(peer_node_id, reason)

    def undelivered(self, session: LiveSession, messages: tuple[bytes, ...]) -> Step:
        """Note messages that can no longer be handed over; return the step that reports them."""
        self.left_over.setdefault(session.peer_node_id, []).extend(messages)
        details = {
            "session_id": session.session_id,
            "peer_node_id": session.peer_node_id,
            "reason": f"the node was stopped before {len(messages)} messages were handed over",
            "messages": messages,
        }
        return partial(self.runtime.emit_error, "undelivered", details)

    def stands_still(self, session: LiveSession) -> None:
        """Warn that a handler has long waited to send on the session whose messages it handles."""
        self._warn(
            "a handler of data_received has waited %g s in send() on the session whose messages it "
            "handles (%s, with %s), while more of them wait for it. If the peer does the same, "
            "both wait forever: answer from a task of your own that reads a bounded queue, or "
            "with send_nowait()",
            STANDSTILL_SECONDS,
            short(session.session_id),
            short(session.peer_node_id),
        )

    def handler_lasts(self, session: LiveSession, event: str) -> None:
        """Warn that a handler runs for long while more events of its session wait for it."""
        names = ", ".join(map(describe, self.events.handlers(event)))
        self._warn(
            "a handler of %s%s has run for %g s, while more messages or events of its session "
            "(%s, with %s) wait for it. If it waits for an answer from that peer, it may "
            "wait forever: start a task for what waits (asyncio.create_task), and let the handler "
            "return",
            event,
            names and f" ({names})",
            self.config.handler_warning,
            short(session.session_id),
            short(session.peer_node_id),
        )

    def _warn(self, text: str, *args: object) -> None:
        """Log a warning about a handler that holds up its session, unless there was one lately."""
        now = self.loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            logger.warning(text, *args)

    def tell(self, session: LiveSession, event: str) -> None:
        """Emit that a session was suspended or resumed, in order with its other events.

        A resumption that is over before it was emitted is left out, so that a peer that resumes
        all the time does not make events pile up for a slow handler.
        """
        step = partial(self.emit, event, session_id=session.session_id)
        if event == "session_resumed":
            session.resumption = step
        elif session.take_back(session.resumption):
            return
        session.tell(event, step)

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
        if peer_node_id in self.arrivals.waiting:
            self.arrivals.note(peer_node_id)
        for follow in self.followers:
            follow(peer_node_id)

    # ----------------------------------------------------------------- looking after them

    def of_peer(self, peer_node_id: bytes) -> list[LiveSession]:
        """Return the peer's established sessions, newest last."""
        peer = self.peers.get(peer_node_id)
        return [] if peer is None else list(peer.sessions)

    def count_of(self, peer_node_id: bytes) -> int:
        """Return how many sessions the peer has, with those that have ended but not departed."""
        peer = self.peers.get(peer_node_id)
        known = 0 if peer is None else len(peer.sessions) + len(peer.departing)
        return known + len(self.unconfirmed_of(peer_node_id))

    def count(self) -> int:
        """Return how many sessions all peers have, counted in the same way."""
        return len(self.sessions) + len(self._departing) + len(self.unconfirmed)

    def unconfirmed_of(self, peer_node_id: bytes) -> list[LiveSession]:
        """Return the sessions that the peer has dialed and not used yet, newest last."""
        return [s for s in self.unconfirmed.values() if s.peer_node_id == peer_node_id]

    def throw_out(self, peer_node_id: bytes, error: STTConnectError) -> list[LiveSession]:
        """End everything with a peer; return its sessions, which have ended.

        Messages of the peer that were acknowledged are still handed over.
        """
        sessions = self.of_peer(peer_node_id) + self.unconfirmed_of(peer_node_id)
        for session in sessions:
            session.lose("the peer was kicked")
        for session in [s for s in self.opening if s.peer_node_id == peer_node_id]:
            session.lose("the peer was kicked", error)
        return sessions

    def resumable(self, session_id: bytes, peer_node_id: bytes) -> LiveSession | None:
        """Return the session if it is this peer's and was accepted here, else None."""
        session = self.sessions.get(session_id) or self.unconfirmed.get(session_id)
        if session is None or session.peer_node_id != peer_node_id:
            return None
        return session if session.dial_address is None else None

    def controls_of(self, peer_node_id: bytes) -> Controls | None:
        """Return the limits on control frames that a peer's sessions share; None without any."""
        sessions = self.of_peer(peer_node_id) or self.unconfirmed_of(peer_node_id)
        return sessions[0].machine.controls if sessions else None

    def position_at_end(self, session_id: bytes, peer_node_id: bytes) -> int | None:
        """Return how many frames of this peer's ended session had arrived; None if unknown."""
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


def _shown(session: LiveSession) -> tuple[str, str, int, str]:
    """Return what the log says about a session: its peer, the peer's address, and its id."""
    return short(session.peer_node_id), *session.address, short(session.session_id)
