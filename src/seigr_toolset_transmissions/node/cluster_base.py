"""What a node sees of the cluster that it is a hub of. `cluster.Cluster` implements it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ..endpoints.endpoint import EndpointInfo
    from ..endpoints.fanout import Remote
    from ..errors import STTSessionLostError
    from ..protocol.hello import Hello
    from ..sessions.handshaking import Landing
    from ..stats import HubInfo, Presence, Tally
    from ..transports.base import Transport
    from .accepting import Acceptor
    from .access import Access
    from .keys import Keys
    from .registry import Registry
    from .runtime import Runtime

__all__ = ["ClusterBase", "HubLife", "PresenceStream"]


class HubLife(Protocol):
    """The parts of a running node that its cluster uses."""

    runtime: Runtime
    registry: Registry
    access: Access
    acceptor: Acceptor

    def kick(self, peer_node_id: bytes) -> tuple[STTSessionLostError, ...]:
        """End all sessions with a peer, at this hub alone."""


class PresenceStream(Protocol):
    """What `ClusterBase.watch` gives: an async iterator over what endpoints do."""

    def __aiter__(self) -> PresenceStream: ...

    async def __anext__(self) -> Presence: ...

    @property
    def skipped(self) -> int:
        """How many changes you have not been given, because the same endpoint changed again."""


class ClusterBase(ABC):
    """All hubs of a cluster, as one of them sees them: what `STTNode.cluster` is."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of this hub."""

    @property
    @abstractmethod
    def hubs(self) -> list[HubInfo]:
        """The other hubs that this one has a link to, in the order in which they joined."""

    @abstractmethod
    def locate(self, endpoint_id: bytes) -> str | None:
        """Return the name of the hub that an endpoint is connected to; None if no hub has it.

        Other hubs report within 50 ms which endpoints have come and gone.
        """

    @abstractmethod
    async def broadcast(
        self,
        data: bytes | bytearray | memoryview,
        *,
        where: Mapping[str, Any] | None = None,
        exclude: Iterable[bytes] = (),
        timeout: float | None = None,
    ) -> Tally:
        """Send data to all endpoints that are connected to a hub of the cluster.

        Args:
            data: The message.
            where: What the metadata must hold, such as ``{"room": "7"}``, as each hub knows it;
                values are str, int, float, bool, bytes or None. None: all endpoints.
            exclude: Ids of endpoints to leave out.
            timeout: How many seconds the slowest endpoint may take to accept the message;
                the node's ``send_timeout`` if None. Hubs have one second more to report it.

        Returns:
            How many endpoints have accepted it, how many have not, and which hubs did not report in
            time. Those hubs may have passed it on.

        Raises:
            TypeError: The data is not bytes-like, or ``where`` has a value that cannot be sent to
                other hubs.
            RuntimeError: The node is not running.

        If cancelled, all, some or none of the endpoints get the message.

        """

    @abstractmethod
    async def find(self, *, timeout: float | None = None, **metadata: Any) -> list[bytes]:
        """Return the ids of the endpoints of all hubs whose metadata hold these values.

        Hubs that do not answer within ``timeout`` seconds (``send_timeout`` if None) are left out,
        with a warning in the log. Raises what `broadcast` does for ``where``.
        """

    @abstractmethod
    async def get_endpoint(
        self, endpoint_id: bytes, *, timeout: float | None = None
    ) -> EndpointInfo | None:
        """Return what is known about an endpoint of any hub; None if no hub has it.

        ``"hub"`` is one of the keys: the name of its hub. Metadata of another hub's endpoint are
        a copy, with what JSON can carry, and bytes.

        Raises:
            STTTimeoutError: Its hub did not answer in time, or is lost.
            RuntimeError: The node is not running.

        """

    @abstractmethod
    def watch(self) -> AbstractAsyncContextManager[PresenceStream]:
        """Watch which endpoints join and leave the cluster, or move from hub to hub.

        Use it as ``async with cluster.watch() as changes: async for change in changes: ...``. It
        covers all hubs, this one included. Endpoints that are there already come first, as if they
        joined just now, those of each hub as soon as it has said which they are.

        A hub without a connection keeps its endpoints. When it is lost (``hub_lost``), they have
        left, even if some are still connected to it. An endpoint that is connected to two hubs for
        a while is where `locate` says it is.

        Nothing waits for a slow reader. If an endpoint changes again before you have read what it
        did last, you get one change from what you know to what is so now, or none if nothing has
        changed in the end, and ``changes.skipped`` counts what you did not get. Cancelling a read
        loses nothing.

        When the node stops, the iteration ends after what has happened until then. Leaving the
        block ends it at once.

        While one of the hubs watches, the others tell it whole ids, 32 bytes for each endpoint that
        is there or joins, and it keeps some 300 bytes for each. Otherwise, watching costs nothing.

        Raises:
            RuntimeError: On entering: the node is not running, or runs in another event loop.

        """

    # -- for the node -------------------------------------------------------------------------

    @abstractmethod
    def begin(self, life: HubLife, keys: Keys) -> None:
        """Join the cluster, which may take a while; the node has started."""

    @abstractmethod
    def pass_on(self, transport: Transport, hello: Hello, message: bytes) -> Landing:
        """Pass a connection on to the hub that its first message names, if that is another one.

        Args:
            transport: The connection; it is taken over if it is passed on.
            hello: What the message says.
            message: Its bytes.

        """

    @abstractmethod
    async def drain(self, seconds: float) -> None:
        """Wait until endpoints of other hubs have acknowledged everything, or the time is over."""

    @abstractmethod
    async def end(self) -> None:
        """Leave the cluster, and report what endpoints of other hubs have not acknowledged.

        If cancelled, another call goes on with it.
        """

    @abstractmethod
    def route_to(self, endpoint_id: bytes) -> Remote | None:
        """Return the way to an endpoint of another hub; None if no other hub has it."""

    @abstractmethod
    def tell(self, order: str, endpoint_id: bytes) -> None:
        """Have all hubs ``kick``, ``ban`` or ``unban`` a peer, as this one does."""
