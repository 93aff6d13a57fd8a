"""`STTNode`: one program's place in its group. It composes everything else.

A node listens (if asked to), dials, and keeps the sessions that result. It tells the
application what happens through its `EventEmitter`, and shows each peer as an endpoint of its
`EndpointManager`, whose id is the peer's authenticated node id. Each part is described in its own
file; this one joins them behind the public interface.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, cast

from ..config import NodeConfig
from ..endpoints.fanout import fan_out
from ..endpoints.manager import EndpointManager
from ..endpoints.transport_side import TransportEndpoints
from ..errors import STTSessionClosedError
from ..events.handlers import check_handler, check_positions
from ..foundation.payload import as_bytes
from ..identity import NODE_ID_BYTES
from ..transports.tcp import TcpNetwork
from .access import Access, check_node_id
from .dialing import check_address, read_address
from .figures import snapshot_of, stats_of
from .keys import Keys
from .life import Life
from .node_emitter import NodeEvents
from .runtime import NOT_RUNNING, Counters, Runtime
from .stopping import StopReport
from .unread import UnreadWarnings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from types import TracebackType

    from ..endpoints import SendOutcome
    from ..endpoints.fanout import Remote
    from ..endpoints.requests import Askable
    from ..errors import STTSessionLostError
    from ..events import EventEmitter
    from ..sessions.answering import RequestHandler
    from ..sessions.public import Session
    from ..sessions.session import LiveSession
    from ..stats import NodeSnapshot, NodeStats, Traffic
    from ..transports.base import Address, Network
    from .access import Allow
    from .cluster_base import ClusterBase

__all__ = ["STTNode"]

H = TypeVar("H", bound="RequestHandler | None")

logger: logging.Logger = logging.getLogger(__name__)


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
        port: The port to listen on; 0 for any free one (`start` returns it). A node listens only
            if asked to: see `listening`.
        events: The emitter to use, which may serve several nodes; a new `NodeEvents` if None.
        config: Limits and timeouts; the defaults if None.
        network: What carries the bytes: TCP if None. `transports.memory.MemoryNetwork` runs
            several nodes in one process without sockets.
        allow: The peers this node has sessions with, whichever side dials: their node ids, or a
            function that gets the node id of a peer that has proven its identity, and returns
            whether that peer is welcome. Every member of the group if None.
        cluster: A `cluster.Cluster`, which makes this node one of several hubs that act as one. All
            of them have the same ``node_seed``. The node is in no cluster if None.

    Raises:
        STTSeedError: A seed is not bytes, too short, or the text of a seed file (see `load_seed`);
            or there is no shared seed; or both seeds are the same.
        TypeError: ``host`` is not a str, or ``port`` not an int; ``allow`` is of another type, or
            contains anything but ``bytes``.
        ValueError: ``host`` contains a port, or ``allow`` an id that is not 32 bytes long.

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
        cluster: ClusterBase | None = None,
    ) -> None:
        self._keys = Keys(node_seed, shared_seed)
        check_address(host, port)
        self._host = host
        self._port = port
        self._said_not_listening = False
        # A node emits as `NodeEvents` declares it, on any emitter; the checker may call it one.
        self._events = NodeEvents() if events is None else cast("NodeEvents", events)
        self._config = NodeConfig() if config is None else config
        self._routes: dict[bytes, LiveSession] = {}
        manager = EndpointManager(
            self._send_to_peer,
            inbox_messages=self.config.inbox_messages,
            inbox_bytes=self.config.inbox_bytes,
            send_timeout=self.config.send_timeout,
        )
        self._endpoints = TransportEndpoints(
            manager,
            routes=self._routes,
            status=self._peer_status,
            traffic=self._peer_traffic,
            on_wait=self._receiver_waits,
            on_wanted=self._connect_wanted,
            on_removed=self._endpoint_removed,
            read_address=self._read_address,
            mistaken_for=self._mistaken_for,
            absence=self._peer_absence,
            is_ending=self._is_ending,
            send_one=self._send_when_connected,
            wait_connected=self._wait_connected,
            askable=self._routes.get,
            connected=self._session_with,
            check_caller=self._check_thread,
            elsewhere=self._elsewhere,
        )
        self._cluster = cluster
        self._network = TcpNetwork() if network is None else network
        self._access = Access(allow)
        self._unread = UnreadWarnings(self._events)
        self._begin_life(Counters())

    def _begin_life(self, counters: Counters) -> None:
        """Make what serves the node from now on, whether it runs or not."""
        self._runtime = Runtime(self.config, self.events, self._endpoints, counters)
        self._life = Life(
            self._runtime,
            self._network,
            self._access,
            self._routes,
            self._unread,
            self._cluster,
        )
        self._registry = self._life.registry

    def __reduce__(self) -> Never:
        raise TypeError("STTNode holds seeds and can neither be pickled nor copied")

    def __repr__(self) -> str:
        count = len(self._registry.sessions)
        state = f"{count} sessions" if self._runtime.running else "stopped"
        return f"<STTNode {self.node_id.hex()[:16]} {state}>"

    # ------------------------------------------------------------------ lifecycle

    @property
    def events(self) -> NodeEvents:
        """Where handlers are registered: the emitter that you passed in, or a `NodeEvents`."""
        return self._events

    @events.setter
    def events(self, _: EventEmitter) -> Never:
        raise AttributeError(
            "a node's emitter cannot be replaced: pass yours to STTNode(events=...)"
        )

    @property
    def config(self) -> NodeConfig:
        """The limits and timeouts."""
        return self._config

    @config.setter
    def config(self, _: NodeConfig) -> Never:
        raise AttributeError(
            "a node's settings cannot be replaced: pass yours to STTNode(config=...)"
        )

    @property
    def endpoints(self) -> EndpointManager:
        """The node's peers, and what they have sent."""
        return self._endpoints.manager

    @endpoints.setter
    def endpoints(self, _: EndpointManager) -> Never:
        raise AttributeError(
            "a node's endpoints cannot be replaced: add peers with node.endpoints.add_endpoint(...)"
        )

    @property
    def cluster(self) -> ClusterBase:
        """The cluster that the node is a hub of; you can set it while the node does not run.

        Raises:
            AttributeError: It is in none: it was made without ``cluster``.
            RuntimeError: You set it while the node runs.

        """
        if self._cluster is None:
            raise AttributeError(
                "this node is in no cluster: pass a Cluster to STTNode(cluster=...)"
            )
        return self._cluster

    @cluster.setter
    def cluster(self, cluster: ClusterBase) -> None:
        if self._runtime.running:
            raise RuntimeError("a node that runs cannot join a cluster: stop it first")
        self._cluster = self._life.cluster = cluster

    @property
    def network(self) -> Network:
        """What carries the bytes."""
        return self._network

    @property
    def node_id(self) -> bytes:
        """The node's identity, 32 bytes. Derived on first use, which takes some 100 ms."""
        return self._keys.identity.node_id

    @property
    def address(self) -> Address | None:
        """Where the node listens: host and port; None while it does not listen."""
        return self._life.address

    async def start(self, server_mode: bool = False) -> Address | None:
        """Start the node; return `address`.

        Args:
            server_mode: Whether to listen and accept connections. Otherwise it only dials.

        Raises:
            STTListenError: It cannot listen there; the node is not started.
            RuntimeError: The node is already running, here or in another event loop; it was
                stopped while it started; or this is a forked child whose parent started it.

        Handlers run in copies of the context in which you call this: they see the context
        variables as they are now, not those of the code that dials or sends later.

        You may start a stopped node again, even in another event loop; its peers see a restarted
        node. The same holds for a node whose event loop was closed while it ran; the log counts
        the messages lost with it. If cancelled, the node is not started.

        """
        self._runtime.check_caller()
        if self._runtime.running:
            raise RuntimeError("the node is already running: stop it first")
        await self._clear_remains()
        await self._life.begin(self._keys, (self._host, self._port) if server_mode else None)
        if self._port and not server_mode and not self._said_not_listening:
            self._said_not_listening = True
            logger.warning(
                "this node was given port %d but only dials: to listen there, use `async with "
                "node.listening()` or start(server_mode=True)",
                self._port,
            )
        return self.address

    async def set_shared_seed(self, shared_seed: bytes | Sequence[bytes]) -> None:
        """Use another shared seed, or others, for all handshakes from now on.

        Sessions and connections go on: each has keys of its own. A group changes its seed without
        an outage in three steps, each on all nodes before the next: ``[old, new]``, so that all
        accept the new one; ``[new, old]``, so that all dial with it; ``new``.

        Raises:
            STTSeedError: As for `STTNode`; nothing has changed.
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        If cancelled, the new seeds may or may not be in use.

        """
        self._runtime.check_caller()
        self._keys.share(shared_seed)
        if self._life.started:
            await self._life.use_keys(self._keys)

    async def stop(self, drain: float | None = None) -> StopReport:
        """Stop: say goodbye to all peers, end every session, connection and task.

        Messages accepted before are delivered first, for up to ``drain`` seconds. Meanwhile, peers
        without a connection can resume their sessions, but none begins a new one. What peers have
        sent is handed on meanwhile, and for at least ``close_timeout`` seconds after that; then
        the handlers that still run are cancelled.

        You may call it more than once, and await it inside a handler: the remaining events of
        that handler's session do not wait for the handler. (Await it directly, as a task, or with
        ``gather`` or ``wait_for``. The node cannot see through anything more complex, and then
        waits for the handler until the time is over.) If cancelled, the node keeps stopping. If
        other code cancels the task that does so, the next caller, or one that is already waiting,
        completes the stop.

        You can still receive what is in the inboxes. After that, a receive raises
        STTEndpointError until the node is started again. A `wait_for`, `expect` or `stream` that is
        waiting for events of the node and no others raises STTEventError, unless another running
        node shares the emitter. (On a node that was never started or stopped, a receive waits.)

        Args:
            drain: Seconds; ``close_timeout`` if None.

        Returns:
            One error for each session that could not deliver all of its messages during the stop;
            it holds those messages. Sessions lost earlier were reported at that time (``error``,
            ``session_lost``) and are not included. ``undelivered`` has the messages of peers that
            no handler took in time; ``error`` (``undelivered``) reports them too.

        Raises:
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        If the node's event loop was closed, this clears away what is left of it.

        """
        self._runtime.check_caller()
        if not self._runtime.running:
            lost = StopReport(await self._clear_remains())
            self._life.end_waits()
            return lost
        return await self._life.stop(self.config.close_timeout if drain is None else drain)

    async def _clear_remains(self) -> tuple[STTSessionLostError, ...]:
        """Clear away what a life whose event loop was closed has left; return what was lost."""
        life = self._life
        if not life.runtime.bereft:
            return ()
        self._begin_life(life.runtime.counters)
        self._runtime.request_handler = life.runtime.request_handler
        return await life.clear_away()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        """Start the node, listen, and stop it at the end of the block.

        ``async with node.listening():`` is `start` with ``server_mode=True``, and `stop`;
        ``async with node:`` alone starts a node that only dials.

        Raises:
            STTListenError: It cannot listen there; the node is not started.
            RuntimeError: As for `start`.

        """
        await self.start(server_mode=True)
        async with self:
            yield self

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

    # ---------------------------------------------------------------- peers

    def on_request(self, handler: H) -> H:
        """Register the handler that answers the requests of peers, as a decorator or in a call.

        There is one handler. Another one replaces it for requests whose turn comes later; with
        None, requests are refused, as they are before the first call.

        Args:
            handler: Async; called with the asking peer's node id and the request, as
                ``handler(peer_node_id, data)``; returns the reply, bytes-like, up to 9 bytes
                shorter than the longest message. It is cancelled, once, when the peer no longer
                waits or the session ends, unless it closes the session or stops the node itself. If
                it raises `STTRequestFailedError`, the peer gets its ``data``; any other exception
                is reported as ``handler_failed`` here, and the peer hears only that it failed.

        Returns:
            The handler.

        Raises:
            STTEventError: It is not async, or cannot be called with two arguments.

        """
        if handler is not None:
            check_handler(handler, "requests")
            check_positions(handler, "requests", ("peer_node_id", "data"))
        self._runtime.request_handler = handler
        return handler

    async def connect(
        self, host: str, port: int, *, expect: bytes | None = None, timeout: float | None = None
    ) -> Session:
        """Dial a listening node; return the session once it is established on both sides.

        If a name has several addresses, the node tries each until one leads to the peer you want.
        If the listener closes the connection without an answer, the node retries for less than a
        second: too many peers may be dialing it at once. At most 256 dials run at a time; others
        wait.

        Args:
            host: A name or address.
            port: Its port.
            expect: The node id that the peer must prove to have; None: any allowed member of the
                group.
            timeout: Seconds for the whole call; ``connect_timeout`` if None.

        Raises:
            STTHandshakeError: Something accepts the connection but does not answer, or has
                another shared seed.
            STTIdentityError: The peer is not the one you expect, is not allowed, is banned, or is
                this node itself.
            STTSilenceError: Both of these: you gave ``expect``, and nothing answers, which is
                also how a node other than the expected one behaves.
            STTConnectError: No node could be reached there in time, or it accepts no more
                sessions, or none with this node.
            TypeError: An argument has the wrong type.
            ValueError: ``host`` contains a port, or ``expect`` is not 32 bytes long.
            RuntimeError: The node is not running, or runs in another event loop, or in this
                forked child's parent.

        After an error or a cancellation there is no session and no connection.

        """
        self._runtime.check_caller()
        if not self._life.started:
            raise RuntimeError(NOT_RUNNING)
        check_address(host, port)
        if expect is not None:
            check_node_id(expect)
        return await self._life.connector.connect(host, port, expect=expect, timeout=timeout)

    async def kick(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """End all sessions with a peer at once, without its consent. It may reconnect: see `ban`.

        That includes sessions that are suspended, closing or not yet established, and dials in
        progress that expect this peer: code that waits for one gets an `STTConnectError`. A dial
        by host and port alone goes on if its listener has not identified itself yet.

        Messages of the peer that this node has acknowledged are still handed over, followed by
        ``session_closed``. Nothing arrives after this returns.

        Returns:
            One error for each session with undelivered messages; it holds them. The event
            ``error`` (``session_lost``) reports the same.

        Raises:
            TypeError: The node id is not bytes.
            ValueError: It is not 32 bytes long.
            RuntimeError: The node runs in another event loop, or in this forked child's parent.

        """
        self._runtime.check_caller()
        check_node_id(peer_node_id)
        if self._cluster is not None:
            self._cluster.tell("kick", peer_node_id)
        return self._life.kick(peer_node_id)

    async def ban(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """Have no session with a peer, whichever side dials, until `unban`; `kick` it now.

        No dial in progress leads to a session with it either: code that waits for one gets an
        `STTIdentityError`. A ban lasts as long as this object; to make it last longer, keep a
        list, or use ``allow``. Returns and raises as `kick` does.
        """
        self._runtime.check_caller()
        self._access.ban(peer_node_id)
        if self._cluster is not None:
            self._cluster.tell("ban", peer_node_id)
        return self._life.kick(peer_node_id)

    async def unban(self, peer_node_id: bytes) -> None:
        """Lift a ban. Does nothing if there is none."""
        self._runtime.check_caller()
        self._access.unban(peer_node_id)
        if self._cluster is not None:
            self._cluster.tell("unban", peer_node_id)

    @property
    def banned(self) -> frozenset[bytes]:
        """The node ids of the banned peers."""
        return self._access.banned

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial a peer now instead of waiting for the back-off, say when the network is back.

        It uses the endpoint's current address: if the peer has moved, call
        ``endpoints.update_endpoint`` first. A dial in progress to another address is abandoned.

        This affects sessions that this node dialed and that have lost their connection, and
        endpoints added with ``connect=True``. Does nothing if no dial is due.
        """
        self._runtime.check_thread()
        self._registry.reconnects.retry_now(endpoint_id)
        self._life.keeper.retry_now(endpoint_id)

    # ------------------------------------------------------------------- sending

    def get_session(self, session_id: bytes) -> Session | None:
        """Return the session with this id; None if there is none, or if it has ended."""
        return self._registry.sessions.get(session_id)

    def get_session_for_endpoint(self, endpoint_id: bytes) -> Session | None:
        """Return the session that carries messages to this peer now; None if there is none."""
        return self._registry.routes.get(endpoint_id)

    @property
    def sessions(self) -> list[Session]:
        """All sessions at this moment, including those without a connection."""
        return list(self._registry.sessions.values())

    async def send_to_sessions(
        self,
        session_ids: Iterable[bytes],
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
    ) -> dict[bytes, SendOutcome]:
        """Send the same data over several sessions; return each one's outcome by session id.

        As with `EndpointManager.send_to_many`, a slow or failing recipient delays no other. The
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
        if session is not None:
            await session.send(data)
        elif (lane := self._elsewhere(endpoint_id)) is not None:
            await lane.send(data)
        else:
            session = await self._life.connector.connect_to(endpoint_id)
            await session.send(data)

    async def _send_when_connected(self, endpoint_id: bytes, data: bytes) -> None:
        """Send to one peer; wait for its session if the node keeps it connected."""
        self._runtime.check_caller()
        keeper = self._life.keeper
        while (session := await keeper.session_with(endpoint_id, kept=True)) is not None:
            try:
                await session.send(data)
            except STTSessionClosedError:
                if self._registry.routes.get(endpoint_id) is session:
                    raise
            else:
                return
        await self._send_to_peer(endpoint_id, data)

    def _elsewhere(self, endpoint_id: bytes) -> Remote | None:
        return None if self._cluster is None else self._cluster.route_to(endpoint_id)

    async def _session_with(self, endpoint_id: bytes) -> Askable:
        """Return a peer's session; wait for it if the node keeps it connected, else dial."""
        self._runtime.check_caller()
        life = self._life
        session = await life.keeper.session_with(endpoint_id, kept=True)
        found = session or self._elsewhere(endpoint_id)
        return found or await life.connector.connect_to(endpoint_id)

    async def _wait_connected(self, endpoint_id: bytes) -> None:
        self._runtime.check_caller()
        await self._life.keeper.session_with(endpoint_id, kept=False)

    # ----------------------------------------------------------------- endpoints

    def _peer_status(self, endpoint_id: bytes) -> dict[str, Any]:
        return self._life.keeper.status(endpoint_id)

    def _peer_traffic(self, endpoint_id: bytes) -> Iterator[Traffic]:
        return self._registry.traffic_of(endpoint_id)

    def _mistaken_for(self, endpoint_id: bytes) -> str:
        if endpoint_id not in self._registry.sessions:
            return ""
        return "that is the id of a session: use its peer's, node.get_session(id).peer_node_id"

    def _peer_absence(self, endpoint_id: bytes) -> str:
        return self._life.keeper.absence(endpoint_id)

    def _is_ending(self) -> bool:
        return self._runtime.stopping

    def _read_address(self, endpoint_id: bytes, address: Any, *, connect: bool) -> Any:
        address = read_address(address, connect=connect)
        if connect and self._keys.is_own(endpoint_id):
            raise ValueError(
                "connect=True with this node's own id: a node does not connect to itself; "
                "leave it out"
            )
        if address is not None and len(endpoint_id) != NODE_ID_BYTES:
            raise ValueError(
                f"an address needs the peer's node id, {NODE_ID_BYTES} bytes, not "
                f"{len(endpoint_id)}: on the peer, it is `node.node_id`, and `stt id` prints it"
            )
        return address

    def _connect_wanted(self, endpoint_id: bytes) -> None:
        self._runtime.check_thread()
        if self._life.started and not self._runtime.stopping:
            self._life.keeper.want(endpoint_id)

    def _endpoint_removed(self, endpoint_id: bytes) -> None:
        self._registry.arrivals.note(endpoint_id)

    def _check_thread(self) -> None:
        self._runtime.check_thread()

    def _receiver_waits(self) -> None:
        self._runtime.check_caller()
        self._unread.receiver_waits()

    # ------------------------------------------------------------------- figures

    def stats(self) -> NodeStats:
        """Return what the node has done and holds."""
        self._runtime.check_thread()
        return stats_of(self._life)

    def snapshot(self) -> NodeSnapshot:
        """Return the node as it is at this moment: its counters, its endpoints, its cluster.

        Nothing is counted for it that the sessions do not count anyway, so a node that nobody looks
        at pays nothing. It takes some 10 microseconds for each endpoint.

        Raises:
            RuntimeError: This is a forked child, and the node is its parent's; or, in asyncio's
                debug mode, another thread than the node's calls.

        """
        self._runtime.check_thread()
        return snapshot_of(self._life, self.node_id)
