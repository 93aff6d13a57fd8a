"""`STTNode`: one program's place in its group. It composes everything else and owns every task.

A node listens (if asked to), dials, and keeps the sessions that come of it. It tells the
application what happens through its `EventEmitter`, and shows each peer as an endpoint of its
`EndpointManager`, whose id is the peer's authenticated node id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import ref

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .config import NodeConfig
from .connection import Connection, FlushTurn
from .endpoints import EndpointManager, SendOutcome
from .errors import (
    STTConnectError,
    STTEndpointError,
    STTHandshakeError,
    STTIdentityError,
    STTLimitError,
    STTListenError,
    STTProtocolError,
    STTSessionClosedError,
    STTSessionLostError,
)
from .events import EventEmitter
from .fanout import fan_out
from .frames import Welcome, WelcomeStatus
from .handshaking import Answering, Dialed, FirstMessages, dial
from .hello import VERSION, Opening, OpeningKind, Reply
from .identity import Identity, check_seed, derive_psk, node_id_of
from .keeper import Keeper
from .live_session import Session, SessionState
from .noise import Handshake
from .payload import as_bytes
from .reconnect import Reconnects
from .records import seal
from .session import Link, SessionMachine
from .transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from types import TracebackType

    from .noise import Channel
    from .transports.base import Address, Listener, Network, Receiver, Transport

__all__ = ["NodeStats", "STTNode"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_INCARNATION_BYTES = 16
_FIRST_MESSAGES = 65_536
"""First handshake messages remembered: at 100 dials a second, those of the last ten minutes."""
_TOMBSTONES = 4096
"""Ended sessions remembered, so that a peer that resumes one learns how far it had come."""
_CHECK_SECONDS = 1.0
"""How often sessions are looked at for silence: a fraction of the shortest sensible time-out."""
_REPORT_SECONDS = 1.0
"""Failed handshakes of strangers are reported at most this often, with their count, so that a
flood of them does not become a flood of events."""
_CANCEL_SECONDS = 1.0
"""How long a handler that was cancelled may take to end."""

_inside: ContextVar[ref[asyncio.Task[Any]] | None] = ContextVar("_inside", default=None)
"""The task of a node in which, or on whose behalf, the present code runs: who waits for its end
would wait for itself."""


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What a node has done since it was made, and what it holds now."""

    sessions: int
    """Sessions now, those without a connection included."""
    suspended: int
    """Of these, how many have no connection."""
    peers: int
    sessions_opened: int
    sessions_lost: int
    """Sessions that ended without an acknowledged close."""
    resumes: int
    handshakes_failed: int
    """Connections that did not become a session, in either direction."""


class _Peer:
    """An authenticated identity that has, or had, a session with this node."""

    __slots__ = ("announced", "connected", "sessions", "untold")

    def __init__(self) -> None:
        self.sessions: list[Session] = []  # newest last
        self.announced = 0  # sessions of which the application knows
        self.untold = 0  # sessions whose end the application does not know yet
        self.connected = False  # whether the application was told so


class STTNode:
    """One node: an identity that listens, dials and exchanges messages with its peers.

    Everything runs in the event loop in which `start` was awaited; a node is not thread-safe.

    Args:
        node_seed: This node's own secret, at least 16 bytes. The same seed gives the same
            `node_id`; no two nodes that run at once may share one.
        shared_seed: The group's secret, at least 16 bytes: who knows it may connect.
        host: Where to listen: an IPv4 or IPv6 address or a name; ``""`` for all addresses.
        port: The port to listen on; 0 for any free one (`start` returns it).
        events: The emitter to use; a new one if None.
        config: Limits and time-outs; the defaults if None.
        network: What carries the bytes: TCP if None. `transports.memory.MemoryNetwork` runs
            several nodes in one process without sockets.

    Raises:
        STTSeedError: A seed is too short or not bytes.

    """

    def __init__(
        self,
        node_seed: bytes,
        shared_seed: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        events: EventEmitter | None = None,
        config: NodeConfig | None = None,
        network: Network | None = None,
    ) -> None:
        self._node_seed = check_seed(node_seed, "node_seed")
        self._shared_seed = check_seed(shared_seed, "shared_seed")
        self._identity: Identity | None = None  # derived when needed
        self._host = host
        self._port = port
        self.events = EventEmitter() if events is None else events
        self.config = NodeConfig() if config is None else config
        self._network = TcpNetwork() if network is None else network
        self.endpoints = EndpointManager(
            self._send_to_peer,
            inbox_messages=self.config.inbox_messages,
            inbox_bytes=self.config.inbox_bytes,
            send_nowait=self._try_send_to_peer,
            status=self._peer_status,
            on_wait=self._warn_of_handlers,
            on_wanted=self._connect_wanted,
        )
        self._loop: asyncio.AbstractEventLoop | None = None  # while the node runs
        self._stopping: asyncio.Task[tuple[STTSessionLostError, ...]] | None = None
        self._listener: Listener | None = None
        self._incarnation = b""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answering: set[Answering] = set()
        self._connections: set[Connection] = set()
        self._stop_callers: set[asyncio.Task[Any]] = set()  # they wait for `stop`: not it for them
        self._quiet: asyncio.Event | None = None  # set when something ends; None until started
        self._sessions: dict[bytes, Session] = {}
        self._peers: dict[bytes, _Peer] = {}
        self._routes: dict[bytes, Session] = {}  # for each peer the session to send over
        self._opening: dict[Session, asyncio.Future[None]] = {}  # dialled, not yet established
        # Accepted and answered, but not yet used by the dialer. It may hold such a session for
        # established although we have never heard so, hence it can be resumed like any other.
        self._unconfirmed: dict[bytes, Session] = {}
        self._dialing: set[asyncio.Task[Dialed]] = set()
        self._dials: dict[bytes, asyncio.Task[Session]] = {}  # of endpoints with an address
        self._tombstones: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()
        self._first_messages = FirstMessages(_FIRST_MESSAGES)
        self._reconnects = Reconnects(self)
        self._keeper = Keeper(self)
        self._lost: list[STTSessionLostError] = []  # while stopping
        self._failures = 0  # handshakes, since the last report
        self._last_report = float("-inf")
        self._opened_count = self._lost_count = self._resumed_count = self._failed_count = 0
        self._warned = False

    def __repr__(self) -> str:
        state = "stopped" if self._loop is None else f"{len(self._sessions)} sessions"
        return f"<STTNode {self.node_id.hex()[:16]} {state}>"

    # ------------------------------------------------------------------ lifecycle

    @property
    def node_id(self) -> bytes:
        """The node's identity, 32 bytes. Derived on first use, which takes some 100 ms."""
        return self._know_identity().node_id

    def _know_identity(self) -> Identity:
        if self._identity is None:
            self._identity = Identity.from_seed(self._node_seed)
        return self._identity

    @property
    def address(self) -> Address | None:
        """Where the node listens: host and port; None while it does not."""
        return None if self._listener is None else self._listener.address

    async def start(self, server_mode: bool = False) -> Address | None:
        """Start the node; return `address`.

        Args:
            server_mode: Whether to listen and accept connections. Otherwise it only dials.

        Raises:
            STTListenError: It cannot listen there; the node is not started.
            RuntimeError: The node runs already, or was stopped meanwhile.

        A stopped node may be started again; its peers see a restarted one. If cancelled, the node
        is not started.

        """
        if self._loop is not None:
            raise RuntimeError("the node runs already: stop it first")
        loop = self._loop = asyncio.get_running_loop()
        incarnation = self._incarnation = secrets.token_bytes(_INCARNATION_BYTES)
        try:
            identity, psk = await asyncio.to_thread(self._derive_keys)
            self._check_not_stopped(incarnation)
            make = partial(
                Handshake,
                static=identity.private_key,
                ephemeral=X25519PrivateKey.generate,
                psk=psk,
            )
            self._dialer = make(initiator=True)
            self._answerer = make(initiator=False)
            self._turn = FlushTurn(loop)
            if server_mode:
                listener = await self._listen()
                try:
                    self._check_not_stopped(incarnation)
                except RuntimeError:
                    await listener.close()
                    raise
                self._listener = listener
        except BaseException:
            if self._incarnation == incarnation:
                self._loop = None
            raise
        self._quiet = asyncio.Event()
        self._peers.clear()  # what a handler that could not be ended has left of a former life
        for endpoint_id in self.endpoints:
            if self.endpoints.wanted(endpoint_id):
                self._keeper.want(endpoint_id)
        self._next_check = self.loop.time() + _CHECK_SECONDS
        self._check_timer = self.loop.call_at(self._next_check, self._check_sessions)
        return self.address

    def _check_not_stopped(self, incarnation: bytes) -> None:
        if self._incarnation != incarnation:
            raise RuntimeError("the node was stopped while it started")

    def _derive_keys(self) -> tuple[Identity, bytes]:
        return self._know_identity(), derive_psk(self._shared_seed)

    async def _listen(self) -> Listener:
        try:
            return await self._network.listen(self._accept, self._host, self._port)
        except OSError as error:
            raise STTListenError(
                f"cannot listen on {self._host or 'any address'} port {self._port}: "
                f"{error.strerror or error}; choose another host or port, or port 0 for a free one"
            ) from error

    async def stop(self, drain: float | None = None) -> tuple[STTSessionLostError, ...]:
        """Stop: say goodbye to all peers, end every session, connection and task.

        Messages accepted before are delivered first, for up to ``drain`` seconds. Handlers that
        run get ``close_timeout`` seconds to end and are cancelled then. May be called twice, and
        from inside a handler, whose own session's last events then follow its return. If
        cancelled, the node goes on stopping.

        Args:
            drain: Seconds; ``close_timeout`` if None.

        Returns:
            One error for each session that could not deliver all of its messages; it tells which.

        """
        if self._loop is None:
            return ()
        if self._quiet is None:  # `start` is under way: it gives up when it sees this
            self._loop = None
            self._incarnation = b""
            return ()
        inside = _inside.get()
        caller = None if inside is None else inside()
        if caller is not None:
            self._stop_callers.add(caller)
            self._quiet.set()
        if self._stopping is None:
            seconds = self.config.close_timeout if drain is None else drain
            # Not create_task: an eager one might have ended before it is known here.
            self._stopping = asyncio.Task(self._stop(seconds), loop=self._loop)
        return await asyncio.shield(self._stopping)

    async def _stop(self, drain: float) -> tuple[STTSessionLostError, ...]:
        self._lost = []
        if self._listener is not None:
            await self._listener.close()
        for answering in list(self._answering):
            answering.abort(STTConnectError("the node is stopping"))
        self._keeper.stop(spare=self._stop_callers)
        for task in self._dialing:
            task.cancel()
        for session in [*self._opening, *self._unconfirmed.values()]:
            if session.session_id not in self._sessions:
                session.lose("the node was stopped")
        for session in list(self._sessions.values()):
            if session.state is SessionState.SUSPENDED and not (
                session.dial_address and session.machine.unacked_cost
            ):
                # Nobody would dial: we have nothing to deliver, or the peer finds nobody listening.
                session.lose("the node was stopped while the session had no connection")
            session.start_closing()
        await self._until_quiet(lambda: self._sessions, drain)
        for session in list(self._sessions.values()):
            session.lose("the node was stopped before its peer had acknowledged everything")
        self._check_timer.cancel()
        for patience in (self.config.close_timeout, _CANCEL_SECONDS, _CANCEL_SECONDS):
            await self._until_quiet(self._handlers_running, patience)
            for task in self._handlers_running():
                task.cancel()
        for task in self._handlers_running():
            logger.error("a handler goes on although it was cancelled: %r", task)
        await self._until_quiet(lambda: self._connections, self.config.close_timeout)
        for connection in list(self._connections):
            connection.drop()
        await self._until_quiet(
            lambda: self._connections or self._answering, self.config.close_timeout
        )
        self._stop_callers.clear()
        self._listener = self._loop = self._quiet = self._stopping = None
        return tuple(self._lost)

    def _handlers_running(self) -> set[asyncio.Task[Any]]:
        return self._tasks - self._stop_callers

    async def _until_quiet(self, things: Callable[[], object], seconds: float) -> None:
        """Wait until there are no such things any more, or the time is over."""
        assert self._quiet is not None  # noqa: S101  made by start
        try:
            async with asyncio.timeout(seconds):
                while things():
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            pass

    async def __aenter__(self) -> Self:
        if self._loop is None:
            await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the node runs.

        Raises:
            RuntimeError: It does not run.

        """
        if self._loop is None:
            raise RuntimeError("the node is not running: await node.start() first")
        return self._loop

    @property
    def stopping(self) -> bool:
        """Whether `stop` is under way."""
        return self._stopping is not None

    def own(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of the node, which ends with it."""
        if self._loop is None:
            coroutine.close()
        context = copy_context()
        # Not create_task: an eager task factory would run application code within our own.
        task = asyncio.Task(coroutine, loop=self.loop, context=context)
        context.run(_inside.set, ref(task))
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._quiet is not None:
            self._quiet.set()

    # ---------------------------------------------------------------- connecting

    async def connect(
        self, host: str, port: int, *, expect: bytes | None = None, timeout: float | None = None
    ) -> Session:
        """Dial a listening node; return the session once both sides hold it for established.

        Args:
            host: A name or address.
            port: Its port.
            expect: The node id that whoever answers must prove; None: any member of the group.
            timeout: Seconds for all of it; ``connect_timeout`` if None.

        Raises:
            STTHandshakeError: Somebody answered, but not with the same shared seed.
            STTIdentityError: The peer is another than expected, or this very node.
            STTConnectError: Nobody could be reached there in that time, or takes no more sessions.
            RuntimeError: The node does not run.

        After an error or a cancel there is no session and no connection.

        """
        if self._quiet is None:
            raise RuntimeError("the node is not running: await node.start() first")
        session: Session | None = None
        established = False
        try:
            async with asyncio.timeout(self.config.connect_timeout if timeout is None else timeout):
                self._check_not_stopping()
                dialed = await self.dial(host, port, expect)
                session = self._open(dialed, (host, port))
                await self._opening[session]
                established = True
        except TimeoutError as error:
            raise STTConnectError(
                f"{host} port {port} did not answer in time; is an STT node listening there?"
            ) from error
        finally:
            if session is not None:
                del self._opening[session]
                if not established:
                    session.give_up()
        return session

    def _check_not_stopping(self) -> None:
        if self.stopping:
            raise STTConnectError("the node is stopping")

    async def dial(self, host: str, port: int, expect: bytes | None) -> Dialed:
        """Connect and shake hands up to the third message; raise as `connect`."""
        task = self.own(dial(self._network, host, port, self._dialer.copy()))
        self._dialing.add(task)
        try:
            dialed = await task
        except asyncio.CancelledError:
            if task.cancelled() and not _being_cancelled():  # by `stop`
                raise STTConnectError("the node is stopping") from None
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().transport.abort()  # we were cancelled before we could take it
            raise
        except OSError as error:
            self._failed_count += 1
            raise STTConnectError(
                f"cannot reach {host} port {port}: {error.strerror or error}; "
                "is the node there running, and listening?"
            ) from error
        except STTConnectError:
            self._failed_count += 1
            raise
        finally:
            self._dialing.discard(task)
        peer_node_id = dialed.peer_node_id
        if expect is not None and peer_node_id != expect:
            self._failed_count += 1
            dialed.transport.abort()
            raise STTIdentityError(
                f"{host} port {port} is node {peer_node_id.hex()}, not {expect.hex()}"
            )
        return dialed

    def _open(self, dialed: Dialed, address: Address) -> Session:
        """Ask for a new session; its future in `_opening` tells how that went."""
        config = self.config
        if self.stopping:
            dialed.transport.abort()
            self._check_not_stopping()
        channel = dialed.open(
            Opening(
                OpeningKind.NEW,
                config.max_message_bytes,
                self._incarnation,
                bytes(16),
                0,
                0,
                config.receive_window_bytes,
            )
        )
        machine = SessionMachine(
            channel.handshake_hash[:16],
            config,
            link=Link.OPENING,
            peer_max_message=dialed.reply.max_message_bytes,
            now=self.loop.time(),
        )
        session = Session(
            self,
            machine,
            peer_node_id=dialed.peer_node_id,
            peer_incarnation=dialed.reply.incarnation,
            dial_address=address,
        )
        self._opening[session] = self.loop.create_future()
        self.connect_session(session, dialed.transport, channel)
        return session

    def connect_session(self, session: Session, transport: Transport, channel: Channel) -> None:
        """Let a session go on over a transport whose handshake is done."""
        connection = Connection(
            transport, channel, session, self.loop, self._turn, self._connection_gone
        )
        self._connections.add(connection)
        transport.hand_over(connection)
        session.attach(connection)

    def _connection_gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._quiet is not None:
            self._quiet.set()

    def resume_opening(self, session: Session) -> Opening:
        """Return the opening with which to resume a session that lost its connection."""
        epoch, recv_next, credit = session.machine.reopening()
        return Opening(
            OpeningKind.RESUME,
            self.config.max_message_bytes,
            self._incarnation,
            session.session_id,
            epoch,
            recv_next,
            credit,
        )

    # ----------------------------------------------------------------- accepting

    def _accept(self) -> Receiver:
        answering = Answering(
            self._answerer.copy(),
            Reply(VERSION, self.config.max_message_bytes, self._incarnation),
            self._first_messages,
            done=self._admit,
            failed=self._handshake_failed,
            gone=self._answering_gone,
            deadline=self.config.handshake_timeout,
        )
        self._answering.add(answering)
        return answering

    def _answering_gone(self, answering: Answering) -> None:
        self._answering.discard(answering)
        if self._quiet is not None:
            self._quiet.set()

    def _handshake_failed(self, answering: Answering, cause: Exception | None) -> None:
        self._failed_count += 1
        if not answering.heard:
            return  # nothing was sent: a probe of the port, and nobody's error
        self._failures += 1
        now = self.loop.time()
        if self.stopping or now - self._last_report < _REPORT_SECONDS:
            return
        self._last_report = now
        details = {
            "address": answering.peer_address,
            "reason": str(cause or "the connection ended during the handshake"),
            "count": self._failures,
        }
        self._failures = 0
        self.own(self.emit_error("handshake_failed", details))

    def _admit(
        self, answering: Answering, transport: Transport, channel: Channel, opening: Opening
    ) -> None:
        """Decide what becomes of an authenticated dialer."""
        peer_node_id = node_id_of(channel.remote_static)
        if opening.kind is OpeningKind.RESUME:
            refusal = self._resume(peer_node_id, transport, channel, opening)
        else:
            refusal = self._begin(peer_node_id, transport, channel, opening)
        if refusal is not None:
            self._failed_count += 1
            transport.write(seal(channel.send_cipher, [refusal.encode()]))
            answering.end()
        else:
            self._answering.discard(answering)

    def _begin(
        self, peer_node_id: bytes, transport: Transport, channel: Channel, opening: Opening
    ) -> Welcome | None:
        """Open a new session with a dialer, or return the refusal."""
        config = self.config
        peer = self._peers.get(peer_node_id)
        others = peer.sessions if peer is not None else []
        for session in list(others):
            if session.peer_incarnation != opening.incarnation:
                # The peer was restarted. If its old connection seems to live, see whether it does.
                session.ping()
                if session.state is SessionState.SUSPENDED:
                    session.lose("the peer was restarted")
        unconfirmed = [s for s in self._unconfirmed.values() if s.peer_node_id == peer_node_id]
        if len(others) + len(unconfirmed) >= config.max_sessions_per_peer:
            gone = next((session for session in unconfirmed if not session.connected), None)
            if gone is not None:
                gone.lose("its dialer has left without a word and is here again")
                unconfirmed.remove(gone)
        full = len(self._sessions) + len(self._unconfirmed) >= config.max_sessions
        count = len(others) + len(unconfirmed)
        if full or count >= config.max_sessions_per_peer or self.stopping:
            if not self.stopping:
                self._report_limit(
                    peer_node_id, "max_sessions" if full else "max_sessions_per_peer"
                )
            return Welcome(WelcomeStatus.REFUSED, 0, 0)
        machine = SessionMachine(
            channel.handshake_hash[:16],
            config,
            link=Link.UP,
            peer_max_message=opening.max_message_bytes,
            peer_credit=opening.credit,
            now=self.loop.time(),
        )
        machine.welcome()
        session = Session(
            self,
            machine,
            peer_node_id=peer_node_id,
            peer_incarnation=opening.incarnation,
            dial_address=None,
        )
        self._unconfirmed[session.session_id] = session
        self.connect_session(session, transport, channel)
        return None

    def _resume(
        self, peer_node_id: bytes, transport: Transport, channel: Channel, opening: Opening
    ) -> Welcome | None:
        """Resume a dialer's session, or return the refusal."""
        session_id = opening.session_id
        session = self._sessions.get(session_id) or self._unconfirmed.get(session_id)
        if session is None or session.peer_node_id != peer_node_id:
            owner, position = self._tombstones.get(opening.session_id, (b"", 0))
            if owner == peer_node_id:
                return Welcome(WelcomeStatus.ENDED, position, 0)
            return Welcome(WelcomeStatus.UNKNOWN, 0, 0)
        if session.dial_address is not None or session.peer_incarnation != opening.incarnation:
            return Welcome(WelcomeStatus.UNKNOWN, 0, 0)
        try:
            session.machine.resume(opening.epoch, opening.recv_next, opening.credit)
        except STTProtocolError:
            return Welcome(WelcomeStatus.UNKNOWN, 0, 0)
        self.connect_session(session, transport, channel)
        session.go_live()
        return None

    # ------------------------------------------------- what sessions tell the node

    def session_opened(self, session: Session) -> None:
        """Note that both sides hold the session for established."""
        self._opened_count += 1
        self._unconfirmed.pop(session.session_id, None)
        self._sessions[session.session_id] = session
        peer = self._peers.setdefault(session.peer_node_id, _Peer())
        peer.sessions.append(session)
        peer.untold += 1
        self._route(session.peer_node_id)
        self.ensure_endpoint(session)
        session.tell(partial(self._announce, session, peer))
        opening = self._opening.get(session)
        if opening is not None and not opening.done():
            opening.set_result(None)

    async def _announce(self, session: Session, peer: _Peer) -> None:
        try:
            await self.emit("session_created", session_id=session.session_id)
        finally:
            peer.announced += 1
        if not peer.connected:
            peer.connected = True
            await self.emit("peer_connected", peer_node_id=session.peer_node_id)

    def session_refused(self, session: Session, cause: Exception | None) -> None:
        """Note that a session was never opened."""
        self._failed_count += 1
        self._unconfirmed.pop(session.session_id, None)
        opening = self._opening.get(session)
        if opening is None or opening.done():
            return
        if session.machine.refusal is not None:
            error = STTConnectError("the peer takes no more sessions at present")
        elif self.stopping:
            error = STTConnectError("the node is stopping")
        else:
            error = STTHandshakeError("the connection ended before the session was established")
            error.__cause__ = cause
        opening.set_exception(error)

    def session_suspended(self, session: Session, cause: Exception | None) -> None:
        """Note that a session lost its connection, and see that it gets another one."""
        newest = self._peers[session.peer_node_id].sessions[-1]
        if session.dial_address is None and newest.peer_incarnation != session.peer_incarnation:
            session.lose("the peer was restarted", cause)
            return
        self._route(session.peer_node_id)
        self._reconnects.suspended(session, cause)

    def session_resumed(self, session: Session) -> None:
        """Note that a session goes on over a new connection."""
        self._resumed_count += 1
        self._route(session.peer_node_id)
        self._reconnects.resumed(session)

    def tell(self, session: Session, event: str) -> None:
        """Emit an event about a session, in order with all else about it."""
        session.tell(partial(self.emit, event, session_id=session.session_id))

    def session_closing(self, session: Session) -> None:
        """Note that a session takes no more messages: send over another one, if there is one."""
        self._route(session.peer_node_id)

    def _route(self, peer_node_id: bytes) -> None:
        """Choose the session to send over: the newest that has a connection, else the newest."""
        self._routes.pop(peer_node_id, None)
        for session in self._peers[peer_node_id].sessions:
            route = self._routes.get(peer_node_id)
            if session.accepts and (
                session.state is SessionState.OPEN
                or route is None
                or route.state is SessionState.SUSPENDED
            ):
                self._routes[peer_node_id] = session

    def session_ended(self, session: Session, cause: Exception | None) -> None:
        """Note that a session is over, and tell the application."""
        del self._sessions[session.session_id]
        self._peers[session.peer_node_id].sessions.remove(session)
        self._reconnects.forget(session)
        self._tombstones[session.session_id] = (session.peer_node_id, session.machine.position)
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        if self._quiet is not None:
            self._quiet.set()
        facts = {"session_id": session.session_id, "peer_node_id": session.peer_node_id}
        if isinstance(cause, STTProtocolError):
            name = "limit_reached" if isinstance(cause, STTLimitError) else "protocol_error"
            session.tell(partial(self.emit_error, name, facts | {"reason": str(cause)}))
        error = session.error
        if error is not None:
            self._lost_count += 1
            if error.unsent or error.unknown:
                self._lost.append(error)
            details = facts | {
                "reason": str(error),
                "unsent": error.unsent,
                "unknown": error.unknown,
            }
            session.tell(partial(self.emit_error, "session_lost", details))
        session.tell(partial(self._say_farewell, session, self._peers[session.peer_node_id]))

    async def _say_farewell(self, session: Session, peer: _Peer) -> None:
        peer_node_id = session.peer_node_id
        try:
            await self.emit("session_closed", session_id=session.session_id)
            peer.announced -= 1
            if peer.announced == 0 and peer.connected:
                peer.connected = False
                await self.emit("peer_disconnected", peer_node_id=peer_node_id)
        finally:
            peer.untold -= 1
            if peer.untold == 0 and self._peers.get(peer_node_id) is peer:
                del self._peers[peer_node_id]
                if self.endpoints.is_temporary(peer_node_id):
                    self.endpoints.retire_endpoint(peer_node_id)

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event; a wrapper of ``emit`` that raises must not take the node down."""
        try:
            await self.events.emit(event, **details)
        except Exception:
            logger.exception("emitting %r failed", event)

    async def emit_error(self, error_type: str, details: dict[str, Any]) -> None:
        """Emit the event ``error``; see ``docs/events.md``."""
        await self.emit("error", error_type=error_type, details=details)

    def _report_limit(self, peer_node_id: bytes, limit: str) -> None:
        reason = f"a session was refused: {limit} is {getattr(self.config, limit)}"
        details = {"peer_node_id": peer_node_id, "reason": reason}
        self.own(self.emit_error("limit_reached", details))

    def _check_sessions(self) -> None:
        """Look for peers that have gone silent."""
        loop = self.loop
        now = loop.time()
        late = now - self._next_check > _CHECK_SECONDS
        self._next_check = now + _CHECK_SECONDS
        self._check_timer = loop.call_at(self._next_check, self._check_sessions)
        if late:
            # This process stood still, and what arrived meanwhile has yet to be read.
            return
        for session in list(self._sessions.values()):
            session.check(now)
        for session in list(self._unconfirmed.values()):
            if now - session.live_since < self.config.resume_window:
                break
            session.lose("the dialer did not use the session")

    # ------------------------------------------------------------------- sending

    def get_session(self, session_id: bytes) -> Session | None:
        """Return the session with this id; None if there is none (any more)."""
        return self._sessions.get(session_id)

    def get_session_for_endpoint(self, endpoint_id: bytes) -> Session | None:
        """Return the session over which a message to this peer goes now; None without one."""
        return self._routes.get(endpoint_id)

    @property
    def sessions(self) -> list[Session]:
        """All sessions, those without a connection at present included, as they are now."""
        return list(self._sessions.values())

    async def send_to_sessions(
        self,
        session_ids: Iterable[bytes],
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
    ) -> dict[bytes, SendOutcome]:
        """Send the same data over several sessions; return each one's outcome by session id.

        As `EndpointManager.send_to_many`: nobody waits for a slow or failing one, except that the
        call lasts up to ``timeout`` seconds (``send_timeout`` if None).
        """
        if isinstance(session_ids, bytes | bytearray | memoryview | str):
            name = type(session_ids).__name__
            raise TypeError(f"session_ids must be an iterable of ids, not one {name}")
        return await fan_out(
            session_ids,
            as_bytes(data),
            known=self._sessions,
            send_nowait=self._try_send_over,
            send=self._send_over,
            timeout=self.config.send_timeout if timeout is None else timeout,
        )

    async def send_to_all(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> dict[bytes, SendOutcome]:
        """Send data to every peer that has a session; return each one's outcome by node id."""
        return await self.endpoints.send_to_many(list(self._routes), data, timeout=timeout)

    def _try_send_over(self, session_id: bytes, data: bytes) -> bool:
        return self._sessions[session_id].try_send(data)

    async def _send_over(self, session_id: bytes, data: bytes) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            raise STTSessionClosedError("the session has ended")
        await session.send(data)

    def _try_send_to_peer(self, endpoint_id: bytes, data: bytes) -> bool:
        session = self._routes.get(endpoint_id)
        return session is not None and session.try_send(data)

    async def _send_to_peer(self, endpoint_id: bytes, data: bytes) -> None:
        session = self._routes.get(endpoint_id) or await self.dial_peer(endpoint_id)
        await session.send(data)

    async def dial_peer(self, endpoint_id: bytes) -> Session:
        """Connect to an endpoint at the address that the user gave; all who want it share a dial.

        Raises:
            STTEndpointError: It has no address to dial.
            STTConnectError: See `connect`.

        """
        task = self._dials.get(endpoint_id)
        if task is None:
            info = self.endpoints.get_endpoint(endpoint_id) or {}
            match info.get("address"):
                case (str(host), int(port), *_) if not self.endpoints.is_temporary(endpoint_id):
                    pass
                case address:
                    raise STTEndpointError(
                        f"endpoint {endpoint_id.hex()} has no session, and its address "
                        f"{address!r} is not a (host, port) that could be dialled"
                    )
            task = self.own(self.connect(host, port, expect=endpoint_id))
            self._dials[endpoint_id] = task
            task.add_done_callback(partial(self._dial_ended, endpoint_id))
        await asyncio.wait((task,))
        return task.result()

    def _dial_ended(self, endpoint_id: bytes, task: asyncio.Task[Session]) -> None:
        del self._dials[endpoint_id]
        if not task.cancelled():
            task.exception()  # retrieved: whoever waited may have been cancelled

    # ----------------------------------------------------------------- endpoints

    def ensure_endpoint(self, session: Session) -> None:
        """Make sure that the session's peer is an endpoint."""
        with contextlib.suppress(STTEndpointError):  # the user, or another session, has added it
            self.endpoints.add_endpoint_nowait(
                session.peer_node_id, session.address, temporary=True
            )

    def _peer_status(self, endpoint_id: bytes) -> dict[str, Any]:
        session = self._routes.get(endpoint_id)
        if session is None:
            if endpoint_id in self._dials:
                state = "connecting"
            else:
                state = "waiting" if self._keeper.waits(endpoint_id) else "disconnected"
            return {"state": state, "rtt": None, "min_rtt": None}
        state = "connected" if session.state is SessionState.OPEN else "suspended"
        return {"state": state, "rtt": session.rtt, "min_rtt": session.min_rtt}

    def _connect_wanted(self, endpoint_id: bytes) -> None:
        if self._loop is not None and not self.stopping:
            self._keeper.want(endpoint_id)

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial a peer without waiting for the back-off to pass: say, when the network is back.

        Concerns sessions that lost their connection and were dialled by this node, and endpoints
        that were added with ``connect=True``. Does nothing if no dial is due.
        """
        self._reconnects.retry_now(endpoint_id)
        self._keeper.retry_now(endpoint_id)

    def _warn_of_handlers(self) -> None:
        if not self._warned and self.events.handlers("data_received"):
            self._warned = True
            logger.warning(
                "receive_from/receive_any wait, but a handler is registered for data_received "
                "and takes all messages: remove it, or have it call node.endpoints.deliver()"
            )

    def stats(self) -> NodeStats:
        """Return what the node has done and holds."""
        return NodeStats(
            sessions=len(self._sessions),
            suspended=sum(s.state is SessionState.SUSPENDED for s in self._sessions.values()),
            peers=len(self._peers),
            sessions_opened=self._opened_count,
            sessions_lost=self._lost_count,
            resumes=self._resumed_count,
            handshakes_failed=self._failed_count,
        )


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
