"""Starts and stops a node, and owns the parts that exist while it runs."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..foundation.forks import in_child
from ..foundation.ids import short
from .accepting import Acceptor, listen
from .connecting import Connector
from .dialing import Dialer
from .event_types import ARGUMENTS
from .keeper import Keeper
from .registry import Registry
from .runtime import NO_MORE_MESSAGES
from .stopping import StopReport, end_sessions, end_work

if TYPE_CHECKING:
    from ..errors import STTSessionLostError
    from ..sessions.session import LiveSession
    from ..transports.base import Address, Listener, Network
    from .access import Access
    from .cluster_base import ClusterBase
    from .keys import Keys
    from .runtime import Runtime
    from .unread import UnreadWarnings

__all__ = ["Life"]

logger: logging.Logger = logging.getLogger(__name__)

_INCARNATION_BYTES = 16

_CHECK_SECONDS = 1.0
"""How often sessions are checked for silence: a fraction of the shortest sensible timeout."""


class Life:
    """All that a node needs to run, once or several times in succession.

    If its event loop is closed while it runs, nothing in it can go on, and another `Life` takes its
    place.

    Args:
        runtime: What all parts share.
        network: What carries the bytes.
        access: Decides which peers may have sessions with the node.
        routes: For each peer, by node id, the session that carries messages to it; kept here.
        unread: Warns about messages that nobody receives.
        cluster: What the node is a hub of; None if of nothing.

    """

    def __init__(
        self,
        runtime: Runtime,
        network: Network,
        access: Access,
        routes: dict[bytes, LiveSession],
        unread: UnreadWarnings,
        cluster: ClusterBase | None = None,
    ) -> None:
        self.runtime = runtime
        self._network = network
        self._routes = routes
        self._unread = unread
        self.cluster: ClusterBase | None = cluster
        self.access: Access = access
        self.dialer: Dialer = Dialer(runtime, network, access)
        self.registry: Registry = Registry(runtime, self.dialer, routes)
        self.acceptor: Acceptor = Acceptor(self.registry, access)
        self.connector: Connector = Connector(self.registry, self.dialer)
        self.keeper: Keeper = Keeper(self.registry, self.connector)
        self._listener: Listener | None = None
        self._started = False
        self._stopping: asyncio.Task[StopReport] | None = None
        _lives.add(self)

    @property
    def address(self) -> Address | None:
        """Where the node listens: host and port; None while it does not listen."""
        return None if self._listener is None else self._listener.address

    @property
    def started(self) -> bool:
        """Whether the node runs and is no longer starting."""
        return self._started and self.runtime.running

    async def begin(self, keys: Keys, listen_at: Address | None) -> None:
        """Start, and listen if there is an address. See `node.STTNode.start`."""
        runtime = self.runtime
        incarnation = secrets.token_bytes(_INCARNATION_BYTES)
        runtime.begin(asyncio.get_running_loop(), incarnation, is_hub=self.cluster is not None)
        try:
            await self.use_keys(keys)
            self._check_not_stopped(incarnation)
            self.registry.begin()
            self.acceptor.begin(keys.identity.node_id, self.cluster)
            if listen_at is not None:
                most = runtime.config.max_sessions
                listener = await listen(self._network, self.acceptor, *listen_at, most)
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
        endpoints = runtime.endpoints
        endpoints.open_inboxes(checked=runtime.loop.get_debug())
        for endpoint_id in endpoints.manager:
            if endpoints.wanted(endpoint_id):
                self.keeper.want(endpoint_id)
        self._check_timer = runtime.loop.call_later(_CHECK_SECONDS, self._check_sessions)
        if self.cluster is not None:
            self.cluster.begin(self, keys)
        node = short(keys.identity.node_id)
        if self.address is None:
            logger.info("node %s started; it only dials", node)
        else:
            logger.info("node %s listens at %s port %d", node, *self.address)

    def _check_not_stopped(self, incarnation: bytes) -> None:
        if self.runtime.incarnation != incarnation:
            raise RuntimeError("the node was stopped while it started")

    async def use_keys(self, keys: Keys) -> None:
        """Shake hands with these keys from now on."""
        self.dialer.handshake, self.acceptor.handshakes = await keys.handshakes()

    async def stop(self, drain: float) -> StopReport:
        """Stop. See `node.STTNode.stop`."""
        runtime = self.runtime
        if not self._started:  # `begin` is under way: it gives up when it sees this
            runtime.end()
            self.end_waits()
            return StopReport()
        end = runtime.loop.time() + drain
        runtime.spare_caller()  # before the sessions end, which cancels their request handlers
        while True:
            if self._stopping is None or self._stopping.done():
                runtime.stopping = True
                seconds = max(0, end - runtime.loop.time())
                # Not create_task: an eager one might have ended before it is known here.
                self._stopping = asyncio.Task(self._stop(seconds), loop=runtime.loop)
            stopping = self._stopping
            await asyncio.sleep(0)  # an eager task runs before its maker can wait for it
            runtime.spare_caller()
            await asyncio.wait((stopping,))
            if not stopping.cancelled():  # else by code that cancels all tasks of the program
                return stopping.result()

    async def _stop(self, drain: float) -> StopReport:
        runtime, cluster = self.runtime, self.cluster
        if cluster is not None and any(hub.connected for hub in cluster.hubs):
            # Other hubs get what comes now, and pass on to this one what belongs to its sessions.
            await self._stop_listening()
        self.keeper.stop()
        self.dialer.abort()
        end = runtime.loop.time() + drain
        if cluster is None:
            await end_sessions(self.registry, drain)
        else:
            await asyncio.gather(end_sessions(self.registry, drain), cluster.drain(drain))
        await self._stop_listening()
        self.acceptor.abort()
        if cluster is not None:
            await cluster.end()
        self._check_timer.cancel()
        patience = max(end - runtime.loop.time(), runtime.config.close_timeout)
        report = await end_work(self.registry, self.acceptor, patience)
        self._listener = self._stopping = None
        self._started = False
        runtime.end()
        self.end_waits()
        logger.info(
            "the node stopped; sessions that lost messages: %d, peers whose messages no handler "
            "took: %d",
            len(report),
            len(report.undelivered),
        )
        return report

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            await self._listener.close()

    def kick(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """End all sessions with a peer, at this hub alone. See `node.STTNode.kick`."""
        self.dialer.refuse(peer_node_id)
        sessions = self.registry.throw_out(peer_node_id, self.dialer.refusal(peer_node_id))
        errors = (session.error for session in sessions)
        return tuple(error for error in errors if error and (error.unsent or error.unknown))

    def end_waits(self) -> None:
        """End all calls that wait for something that only a running node brings."""
        self.runtime.endpoints.close_inboxes(NO_MORE_MESSAGES)
        events = self.runtime.events
        if not any(life.runtime.running for life in _lives if life.runtime.events is events):
            events.give_up(ARGUMENTS, "the node was stopped: it emits no more events")

    async def clear_away(self) -> tuple[STTSessionLostError, ...]:
        """Clear away what is left after the event loop was closed; return what was lost."""
        runtime, endpoints = self.runtime, self.runtime.endpoints
        runtime.stopping = True  # so that nothing that ends now reports it
        self.acceptor.abort()
        runtime.end()
        lost = self.registry.orphan("the event loop was closed while the node was running")
        self._routes.clear()
        for endpoint_id in endpoints.manager:
            if endpoints.is_temporary(endpoint_id):
                endpoints.retire_endpoint(endpoint_id, NO_MORE_MESSAGES)
        if self._listener is not None:
            await self._listener.close()
        if lost:
            logger.warning(
                "the event loop was closed while the node was running, and messages of %d of its "
                "sessions are lost: stop a node before its loop ends, for instance with "
                "`async with node`",
                len(lost),
            )
        return lost

    def _check_sessions(self) -> None:
        """Look for peers that have gone silent."""
        loop = self.runtime.loop
        now = loop.time()
        self._check_timer = loop.call_at(now + _CHECK_SECONDS, self._check_sessions)
        # Something may have kept the loop from reading what has arrived by now. It reads in its
        # next turn, after what is due in that turn. So judge in the turn after it.
        loop.call_soon(loop.call_soon, self.registry.check, now)
        self._unread.check(self.runtime.endpoints)

    def orphan(self) -> None:
        """Be of no use any more: this is a forked child, and a running node is its parent's."""
        if self.runtime.running:
            self.runtime.orphan()
            self.runtime.endpoints.orphan()
            self.registry.orphan("it belongs to the parent of this forked process")
            self._listener = None


_lives: WeakSet[Life] = WeakSet()
"""All lives in this process."""


def _orphan_all() -> None:
    for life in list(_lives):
        life.orphan()


in_child(_orphan_all)
