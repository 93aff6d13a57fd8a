"""`STTNode`: one program's place in its group. It composes everything else.

A node listens (if asked to), dials, and keeps the sessions that come of it. It tells the
application what happens through its `EventEmitter`, and shows each peer as an endpoint of its
`EndpointManager`, whose id is the peer's authenticated node id. What the parts do stands in their
own files; here they are put together, started, stopped, and given to the application.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, Never, Self
from weakref import WeakSet

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .accepting import Acceptor
from .access import Access, check_node_id
from .config import NodeConfig
from .connecting import Connector
from .dialing import Dialer
from .endpoints import EndpointManager, SendOutcome
from .errors import (
    STTListenError,
    STTSessionClosedError,
    STTSessionLostError,
    reason_of,
)
from .events import EventEmitter
from .fanout import fan_out
from .figures import NodeStats
from .forks import in_child
from .identity import Identity, check_seed, check_shared_seeds, derive_psk
from .keeper import Keeper
from .live_session import Session, SessionState
from .noise import Handshake
from .payload import as_bytes
from .registry import Registry
from .runtime import Counters, Runtime
from .stopping import StopReport, end_tasks
from .transports.tcp import TcpNetwork, descriptor_limit
from .unread import UnreadWarnings
from .workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from .access import Allow
    from .figures import Traffic
    from .transports.base import Address, Listener, Network

__all__ = ["STTNode"]

logger = logging.getLogger(__name__)

_INCARNATION_BYTES = 16
_STOPPED = "the node was stopped"
_EVENTS = (
    "session_created",
    "peer_connected",
    "data_received",
    "session_suspended",
    "session_resumed",
    "session_closed",
    "peer_disconnected",
    "error",
)

_deriving = Workers("stt-keys", 1)
"""Keys are derived one after the other anyway (`identity`), and must not wait for anything else."""
_CHECK_SECONDS = 1.0
"""How often sessions are looked at for silence: a fraction of the shortest sensible time-out."""


class STTNode:
    """One node: an identity that listens, dials and exchanges messages with its peers.

    Everything runs in the event loop in which `start` was awaited; a node is not thread-safe. It
    can be neither pickled nor copied.

    Args:
        node_seed: This node's own secret, at least 16 bytes. The same seed gives the same
            `node_id`; no two nodes that run at once may share one.
        shared_seed: The group's secret, at least 16 bytes: anyone who knows it may connect. Or
            several, while the group changes from one to another: the first is used to dial, all
            are accepted. See `set_shared_seed`.
        host: Where to listen: an IPv4 or IPv6 address or a name; ``""`` for all addresses.
        port: The port to listen on; 0 for any free one (`start` returns it).
        events: The emitter to use; a new one if None.
        config: Limits and time-outs; the defaults if None.
        network: What carries the bytes: TCP if None. `transports.memory.MemoryNetwork` runs
            several nodes in one process without sockets.
        allow: With whom this node has sessions, whoever dials: the node ids, or a function that
            is called with a node id when its owner has proven to be that node, and returns
            whether it is welcome. Every member of the group if None.

    Raises:
        STTSeedError: A seed is too short or not bytes, or there is none.
        TypeError: ``allow`` is something else, or holds something else than ``bytes``.
        ValueError: ``allow`` holds an id that has not 32 bytes.

    """

    def __init__(
        self,
        node_seed: bytes,
        shared_seed: bytes | Sequence[bytes],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        events: EventEmitter | None = None,
        config: NodeConfig | None = None,
        network: Network | None = None,
        allow: Allow | None = None,
    ) -> None:
        self._node_seed = check_seed(node_seed, "node_seed")
        self._shared_seeds = check_shared_seeds(shared_seed)
        self._identity: Identity | None = None  # derived when needed
        self._host = host
        self._port = port
        self._events = EventEmitter() if events is None else events
        self._config = NodeConfig() if config is None else config
        self._routes: dict[bytes, Session] = {}
        self._endpoints = EndpointManager(
            self._send_to_peer,
            inbox_messages=self.config.inbox_messages,
            inbox_bytes=self.config.inbox_bytes,
            send_timeout=self.config.send_timeout,
            routes=self._routes,
            status=self._peer_status,
            traffic=self._peer_traffic,
            on_wait=self._receiver_waits,
            on_wanted=self._connect_wanted,
            check_caller=self._check_thread,
        )
        self._network = TcpNetwork() if network is None else network
        self._access = Access(allow)
        self._make_parts(Counters())
        self._unread = UnreadWarnings(self._events)
        _nodes.add(self)

    def _make_parts(self, counters: Counters) -> None:
        """Make what serves one life of the node after the other, unless its loop is closed."""
        self._runtime = Runtime(self.config, self.events, self.endpoints, counters)
        self._dialer = Dialer(self._runtime, self._network, self._access)
        self._registry = Registry(self._runtime, self._dialer, self._routes)
        self._acceptor = Acceptor(self._registry, self._access)
        self._connector = Connector(self._registry, self._dialer)
        self._keeper = Keeper(self._registry, self._connector)
        self._listener: Listener | None = None
        self._started = False
        self._stopping: asyncio.Task[StopReport] | None = None

    def __reduce__(self) -> Never:
        raise TypeError("STTNode holds seeds and can neither be pickled nor copied")

    def __repr__(self) -> str:
        count = len(self._registry.sessions)
        state = f"{count} sessions" if self._runtime.running else "stopped"
        return f"<STTNode {self.node_id.hex()[:16]} {state}>"

    # ------------------------------------------------------------------ lifecycle

    @property
    def events(self) -> EventEmitter:
        """Where handlers are registered."""
        return self._events

    @events.setter
    def events(self, _: EventEmitter) -> Never:
        raise AttributeError(
            "a node's emitter cannot be replaced: pass yours to STTNode(events=...)"
        )

    @property
    def config(self) -> NodeConfig:
        """The limits and time-outs."""
        return self._config

    @config.setter
    def config(self, _: NodeConfig) -> Never:
        raise AttributeError(
            "a node's settings cannot be replaced: pass yours to STTNode(config=...)"
        )

    @property
    def endpoints(self) -> EndpointManager:
        """The node's peers, and what they have sent."""
        return self._endpoints

    @endpoints.setter
    def endpoints(self, _: EndpointManager) -> Never:
        raise AttributeError(
            "a node's endpoints cannot be replaced: add peers with node.endpoints.add_endpoint(...)"
        )

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
            RuntimeError: The node runs already, here or in another event loop; or was stopped
                meanwhile; or this is a forked child, and its parent has started the node.

        Handlers run in copies of the context in which this is called: they see the context
        variables of now, and not those of whoever dials or sends later.

        A stopped node may be started again, in another event loop too; its peers see a restarted
        one. So may one whose event loop was closed while it ran: whatever messages are lost with it
        are counted in the log. If cancelled, the node is not started.

        """
        self._runtime.check_caller()
        if self._runtime.running:
            raise RuntimeError("the node is already running: stop it first")
        await self._clear_remains()
        runtime = self._runtime
        incarnation = secrets.token_bytes(_INCARNATION_BYTES)
        runtime.begin(asyncio.get_running_loop(), incarnation)
        try:
            await self._use_seeds()
            self._check_not_stopped(incarnation)
            self._registry.begin()
            self._acceptor.begin(self.node_id)
            if server_mode:
                listener = await self._listen()
                try:
                    self._check_not_stopped(incarnation)
                except RuntimeError:
                    await listener.close()
                    raise
                self._listener = listener
        except BaseException:
            if runtime.incarnation == incarnation:
                runtime.end()
            raise
        self._started = True
        self.endpoints.open_inboxes()
        for endpoint_id in self.endpoints:
            if self.endpoints.wanted(endpoint_id):
                self._keeper.want(endpoint_id)
        self._check_timer = runtime.loop.call_later(_CHECK_SECONDS, self._check_sessions)
        return self.address

    def _check_not_stopped(self, incarnation: bytes) -> None:
        if self._runtime.incarnation != incarnation:
            raise RuntimeError("the node was stopped while it started")

    async def _use_seeds(self) -> None:
        """Shake hands with the keys of the present seeds from now on."""
        seeds: tuple[bytes, ...] = ()
        while seeds != self._shared_seeds:  # they may be replaced meanwhile
            seeds = self._shared_seeds
            identity, psks = await _deriving.run(partial(self._derive_keys, seeds))
        make = partial(Handshake, static=identity.private_key, ephemeral=X25519PrivateKey.generate)
        self._dialer.handshake = make(psk=psks[0], initiator=True)
        self._acceptor.handshakes = [make(psk=psk, initiator=False) for psk in psks]

    def _derive_keys(self, seeds: tuple[bytes, ...]) -> tuple[Identity, list[bytes]]:
        return self._know_identity(), [derive_psk(seed) for seed in seeds]

    async def set_shared_seed(self, shared_seed: bytes | Sequence[bytes]) -> None:
        """Use another shared seed, or others, for all handshakes from now on.

        Sessions and connections go on: each has keys of its own. A group changes its seed without
        an outage in three steps, each on all nodes before the next: ``[old, new]``, so that all
        accept the new one; ``[new, old]``, so that all dial with it; ``new``.

        Raises:
            STTSeedError: A seed is too short or not bytes, or there is none; nothing has changed.
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        If cancelled, it has happened or not.

        """
        self._runtime.check_caller()
        self._shared_seeds = check_shared_seeds(shared_seed)
        if self._started and self._runtime.running:
            await self._use_seeds()

    async def _listen(self) -> Listener:
        self._check_descriptors()
        try:
            return await self._network.listen(self._acceptor.accept, self._host, self._port)
        except OSError as error:
            raise STTListenError(
                f"cannot listen on {self._host or 'any address'} port {self._port}: "
                f"{reason_of(error)}; choose another host or port, or port 0 for a free one"
            ) from error

    def _check_descriptors(self) -> None:
        limit = descriptor_limit()
        most = self.config.max_sessions
        if limit is not None and limit <= most and isinstance(self._network, TcpNetwork):
            logger.warning(
                "this process may open only %d file descriptors, but up to %d sessions "
                "(max_sessions) need one each: raise the limit (ulimit -n, LimitNOFILE=, "
                "resource.setrlimit), or lower max_sessions",
                limit,
                most,
            )

    async def stop(self, drain: float | None = None) -> StopReport:
        """Stop: say goodbye to all peers, end every session, connection and task.

        Messages accepted before are delivered first, for up to ``drain`` seconds. What peers have
        sent is handed on meanwhile, and for at least ``close_timeout`` seconds after that; then
        the handlers that still run are cancelled.

        May be called twice, and from inside a handler that awaits it: what is left to be told of
        that handler's session is told meanwhile and does not wait for it. (Await it directly, or
        as a task, or with ``gather`` or ``wait_for``; the node does not see through more, and
        waits for the handler until the time is over.) If cancelled, the node goes on stopping.

        What waits in the inboxes can be received after that. Whoever waits for more gets
        STTEndpointError, until the node is started again. Whoever waits for one of the node's
        events in `wait_for` or `stream` gets STTEventError, unless another node that runs has the
        same emitter. (On a node that has never been started nor stopped a receive waits.)

        Args:
            drain: Seconds; ``close_timeout`` if None.

        Returns:
            One error for each session that could not deliver all of its messages during the stop;
            it tells which. Sessions lost before were told of then (``error``, ``session_lost``),
            and are not kept. Its ``undelivered`` has the messages of peers that no handler took
            in time, which ``error`` (``undelivered``) tells of, too.

        Raises:
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        A node whose event loop was closed does not run: what is left of it is cleared away.

        """
        self._runtime.check_caller()
        if not self._runtime.running:
            lost = StopReport(await self._clear_remains())
            self._end_waits()
            return lost
        runtime = self._runtime
        if not self._started:  # `start` is under way: it gives up when it sees this
            runtime.end()
            self._end_waits()
            return StopReport()
        if self._stopping is None:
            runtime.stopping = True
            seconds = self.config.close_timeout if drain is None else drain
            # Not create_task: an eager one might have ended before it is known here.
            self._stopping = asyncio.Task(self._stop(seconds), loop=runtime.loop)
        stopping = self._stopping
        await asyncio.sleep(0)  # an eager task runs before its maker can wait for it
        runtime.spare_caller()
        return await asyncio.shield(stopping)

    async def _stop(self, drain: float) -> StopReport:
        runtime, registry = self._runtime, self._registry
        if self._listener is not None:
            await self._listener.close()
        self._acceptor.abort()
        self._keeper.stop()
        self._dialer.abort()
        for session in [*registry.opening, *registry.unconfirmed.values()]:
            if session.session_id not in registry.sessions:
                session.lose("the node was stopped")
        for session in self.sessions:
            if session.state is SessionState.SUSPENDED and not (
                session.dial_address and session.machine.outbox.unacked_cost
            ):
                # Nobody would dial: we have nothing to deliver, or the peer finds nobody listening.
                session.lose("the node was stopped while the session had no connection")
            session.start_closing()
        end = runtime.loop.time() + drain
        await runtime.until_none(lambda: registry.sessions, drain)
        for session in self.sessions:
            session.lose("the node was stopped before its peer had acknowledged everything")
        self._check_timer.cancel()
        patience = max(end - runtime.loop.time(), self.config.close_timeout)
        await runtime.until_none(runtime.tasks, patience)
        await end_tasks(runtime)
        await runtime.until_none(lambda: registry.connections, self.config.close_timeout)
        for connection in list(registry.connections):
            connection.drop()
        await runtime.until_none(
            lambda: registry.connections or self._acceptor.answering, self.config.close_timeout
        )
        self._listener = self._stopping = None
        self._started = False
        report = StopReport(registry.lost, registry.left_over)
        registry.lost.clear()
        registry.left_over.clear()
        registry.end()
        runtime.end()
        self._end_waits()
        return report

    async def _clear_remains(self) -> tuple[STTSessionLostError, ...]:
        """Clear away what a life whose event loop was closed has left; return what was lost."""
        runtime, registry, listener = self._runtime, self._registry, self._listener
        if not runtime.bereft:
            return ()
        runtime.stopping = True  # whatever comes to its end now says nothing
        self._acceptor.abort()
        self._make_parts(runtime.counters)
        runtime.end()
        lost = registry.orphan("the event loop was closed while the node was running")
        self._routes.clear()
        for endpoint_id in self.endpoints:
            if self.endpoints.is_temporary(endpoint_id):
                self.endpoints.retire_endpoint(endpoint_id)
        if listener is not None:
            await listener.close()
        if lost:
            logger.warning(
                "the event loop was closed while the node was running, and messages of %d of its "
                "sessions are lost: stop a node before its loop ends, for instance with "
                "`async with node`",
                len(lost),
            )
        return lost

    def _end_waits(self) -> None:
        """Let nobody wait for what only a running node brings."""
        self.endpoints.close_inboxes(f"{_STOPPED}: no more messages will arrive")
        sharing = [node for node in _nodes if node.events is self.events]
        if not any(node._runtime.running for node in sharing):  # noqa: SLF001  of this class
            self.events.give_up(_EVENTS, f"{_STOPPED}: it emits no more events")

    async def __aenter__(self) -> Self:
        if not self._runtime.running:
            await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # A forked child that leaves the block leaves the node to its parent.
        if not self._runtime.orphaned:
            await self.stop()

    def orphan(self) -> None:
        """Be of no use: this is a forked child, and a node that runs is its parent's."""
        if self._runtime.running:
            self._runtime.orphan()
            self.endpoints.orphan()
            self._registry.orphan("it belongs to the parent of this forked process")
            self._listener = None

    def _check_sessions(self) -> None:
        """Look for peers that have gone silent."""
        loop = self._runtime.loop
        now = loop.time()
        self._check_timer = loop.call_at(now + _CHECK_SECONDS, self._check_sessions)
        # Something may have kept the loop from reading what has arrived by now. It reads in its
        # next turn, and behind what is due in it: the turn after that one judges.
        loop.call_soon(loop.call_soon, self._registry.check, now)
        self._unread.check(self.endpoints)

    # ---------------------------------------------------------------- peers

    async def connect(
        self, host: str, port: int, *, expect: bytes | None = None, timeout: float | None = None
    ) -> Session:
        """Dial a listening node; return the session once both sides hold it for established.

        If a name has several addresses, they are tried until one has a node that is wanted. If the
        listener ends the connection without an answer, it is tried again, for less than a second:
        it may have too many dialers at once. At most 256 dials run at a time; others wait.

        Args:
            host: A name or address.
            port: Its port.
            expect: The node id that whoever answers must prove; None: any member of the group
                that is allowed.
            timeout: Seconds for all of it; ``connect_timeout`` if None.

        Raises:
            STTHandshakeError: Somebody is there, but does not answer, or not with the same shared
                seed.
            STTIdentityError: The peer is another than expected, is not allowed or is banned, or
                is this very node.
            STTSilenceError: Both of these: ``expect`` was given, and whoever is there does not
                answer, which is what another node does.
            STTConnectError: Nobody could be reached there in that time, or takes no more sessions,
                or allows none with this node.
            RuntimeError: The node does not run, or runs in another event loop, or in this forked
                child's parent.

        After an error or a cancel there is no session and no connection.

        """
        self._runtime.check_caller()
        if not (self._started and self._runtime.running):
            raise RuntimeError("the node is not running: await node.start() first")
        return await self._connector.connect(host, port, expect=expect, timeout=timeout)

    async def kick(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """End all sessions with a peer at once, without its consent. It may come again: see `ban`.

        That includes those that are suspended, that close, or that are not established yet, and
        dials under way that expect this peer: whoever waits for one gets an `STTConnectError`. A
        dial by host and port alone whose listener has not said yet who it is goes on.

        Messages of the peer that arrived before, and were acknowledged to it, are still handed on,
        and then ``session_closed``. Nothing arrives after this returns.

        Returns:
            One error for each session that had messages undelivered; it tells which. The event
            ``error`` (``session_lost``) tells the same.

        Raises:
            TypeError: The node id is not bytes.
            ValueError: It has not 32 bytes.
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        """
        self._runtime.check_caller()
        check_node_id(peer_node_id)
        self._dialer.refuse(peer_node_id)
        sessions = self._registry.throw_out(peer_node_id, self._dialer.refusal(peer_node_id))
        errors = (session.error for session in sessions)
        return tuple(error for error in errors if error and (error.unsent or error.unknown))

    async def ban(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """Have no session with a peer from now on, whoever dials, until `unban`; `kick` it now.

        No dial under way comes to a session with it either, and whoever waits for one gets an
        `STTIdentityError`. A ban lasts as long as this object, not longer: keep a list, or use
        ``allow``, for more. Returns and raises as `kick`.
        """
        self._runtime.check_caller()
        self._access.ban(peer_node_id)
        return await self.kick(peer_node_id)

    async def unban(self, peer_node_id: bytes) -> None:
        """Take a ban back. Does nothing if there is none."""
        self._runtime.check_caller()
        self._access.unban(peer_node_id)

    @property
    def banned(self) -> frozenset[bytes]:
        """The node ids of the peers that are banned now."""
        return self._access.banned

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial a peer without waiting for the back-off to pass: say, when the network is back.

        The address is the one that its endpoint has now: if the peer has moved, call
        ``endpoints.update_endpoint`` first. A dial under way that goes elsewhere is given up.

        Concerns sessions that lost their connection and were dialled by this node, and endpoints
        that were added with ``connect=True``. Does nothing if no dial is due.
        """
        self._runtime.check_thread()
        self._registry.reconnects.retry_now(endpoint_id)
        self._keeper.retry_now(endpoint_id)

    # ------------------------------------------------------------------- sending

    def get_session(self, session_id: bytes) -> Session | None:
        """Return the session with this id; None if there is none (any more)."""
        return self._registry.sessions.get(session_id)

    def get_session_for_endpoint(self, endpoint_id: bytes) -> Session | None:
        """Return the session over which a message to this peer goes now; None without one."""
        return self._registry.routes.get(endpoint_id)

    @property
    def sessions(self) -> list[Session]:
        """All sessions, those without a connection at present included, as they are now."""
        return list(self._registry.sessions.values())

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
        self._runtime.check_caller()
        return await fan_out(
            session_ids,
            as_bytes(data),
            known=self._registry.sessions,
            routes=self._registry.sessions,
            send=self._send_over,
            timeout=self.config.send_timeout if timeout is None else timeout,
        )

    async def send_to_all(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> dict[bytes, SendOutcome]:
        """Send data to every peer that has a session; return each one's outcome by node id."""
        self._runtime.check_caller()
        return await self.endpoints.send_to_many(
            list(self._registry.routes),
            data,
            timeout=self.config.send_timeout if timeout is None else timeout,
        )

    async def _send_over(self, session_id: bytes, data: bytes) -> None:
        session = self._registry.sessions.get(session_id)
        if session is None:
            raise STTSessionClosedError("the session has ended")
        await session.send(data)

    async def _send_to_peer(self, endpoint_id: bytes, data: bytes) -> None:
        self._runtime.check_caller()
        session = self._registry.routes.get(endpoint_id)
        if session is None:
            session = await self._connector.connect_to(endpoint_id)
        await session.send(data)

    # ----------------------------------------------------------------- endpoints

    def _peer_status(self, endpoint_id: bytes) -> dict[str, Any]:
        session = self._registry.routes.get(endpoint_id)
        if session is None:
            if self._connector.is_dialing(endpoint_id):
                state = "connecting"
            else:
                state = "waiting" if self._keeper.waits(endpoint_id) else "disconnected"
            return {"state": state, "rtt": None, "min_rtt": None}
        state = "connected" if session.state is SessionState.OPEN else "suspended"
        return {"state": state, "rtt": session.rtt, "min_rtt": session.min_rtt}

    def _peer_traffic(self, endpoint_id: bytes) -> Iterator[Traffic]:
        return self._registry.traffic_of(endpoint_id)

    def _connect_wanted(self, endpoint_id: bytes) -> None:
        self._runtime.check_thread()
        if self._started and self._runtime.running and not self._runtime.stopping:
            self._keeper.want(endpoint_id)

    def _check_thread(self) -> None:
        self._runtime.check_thread()

    def _receiver_waits(self) -> None:
        self._runtime.check_caller()
        self._unread.receiver_waits()

    def stats(self) -> NodeStats:
        """Return what the node has done and holds."""
        counters, registry = self._runtime.counters, self._registry
        return NodeStats(
            sessions=len(registry.sessions) + len(registry.unconfirmed),
            suspended=registry.suspended_count(),
            peers=len(registry.peers),
            half_open=len(self._acceptor.answering),
            buffered_bytes=registry.held_bytes(),
            promised_bytes=registry.promised_bytes(),
            unacknowledged_bytes=registry.unacknowledged_bytes(),
            sessions_opened=counters.sessions_opened,
            sessions_lost=counters.sessions_lost,
            resumes=counters.resumes,
            handshakes_failed=counters.handshakes_failed,
            handshakes_dropped=counters.handshakes_dropped,
            peers_denied=counters.peers_denied,
        )


_nodes: WeakSet[STTNode] = WeakSet()
"""All of this process."""


def _orphan_nodes() -> None:
    for node in list(_nodes):
        node.orphan()


in_child(_orphan_nodes)
