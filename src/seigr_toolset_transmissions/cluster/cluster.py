"""`Cluster`: makes a node one of several hubs that act as one."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..endpoints.endpoint import check_id, check_ids
from ..foundation.payload import as_bytes
from ..identity import NODE_ID_BYTES
from ..node.cluster_base import ClusterBase
from ..sessions.handshaking import Landing
from ..stats import HubInfo
from ..transports.bus import Bus
from ..transports.nats import NatsBus
from ..transports.pipes import PipeNetwork
from .direct import DirectMeeting, ListMeeting
from .hub import Hub
from .meeting import BusMeeting, FolderMeeting
from .messages import LONGEST_NAME_BYTES, Kind, check_where
from .places import Folder, Server, read_address, read_where

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from ..endpoints.endpoint import EndpointInfo
    from ..endpoints.fanout import Remote
    from ..node.cluster_base import HubLife, PresenceStream
    from ..node.keys import Keys
    from ..protocol.hello import Hello
    from ..stats import Tally
    from ..transports.base import Address, Transport
    from .meeting import Meeting

__all__ = ["Cluster"]

_ORDERS = {"kick": Kind.KICK, "ban": Kind.BAN, "unban": Kind.UNBAN}


class Cluster(ClusterBase):
    """The hubs that share a node seed and a place to meet; pass one to ``STTNode(cluster=...)``.

    All hubs have the same ``node_seed``, so that devices see one node, whichever hub they reach.
    What one hub sends with ``node.endpoints`` to an endpoint that is connected to another hub goes
    there, with the same guarantee and the same outcomes. ``node.endpoints`` lists what is connected
    to this hub, and only this hub receives what that sends; this object knows the others.

    The node starts whether or not the others can be reached, and joins them when it can.

    Args:
        where: Where the hubs meet. ``"unix:///run/app/hubs"``: in a folder of this machine, which
            only hubs may enter. ``"nats://broker:4222"`` or ``"tls://broker:4222"``: at a NATS
            server (needs the extra ``nats``). Or a `transports.bus.Bus`, such as a
            `transports.nats.NatsBus` with credentials, which is opened and closed with the node.
            Or a list of the addresses of all hubs, such as ``["tcp://10.0.0.5:7000",
            "tcp://10.0.0.6:7000"]``, the same at each: they need no place to meet.
        name: The name of this hub, in events and at the other hubs, in 1 to 255 bytes of UTF-8;
            host name and process id if None. Give each hub its own: nothing else tells them apart
            there.
        grace: How many seconds a link may be without a connection before the hub counts as lost,
            and how long messages for an endpoint that has left wait for it to turn up again.
        direct: Whether hubs that meet on a bus reach each other over TCP, and use the bus for
            finding each other only. All hubs of a cluster must have the same. With a list of
            addresses they always do.
        address: With ``direct`` or a list, where other hubs reach this one, such as
            ``"tcp://10.0.0.5:7000"``; without a port, at any free one. It listens there; if the
            address is not this machine's, as with the published port of a container, at that port
            of all its addresses. None: with ``direct``, the address of the interface that leads to
            the NATS server, and a free port; with a list, the first of its addresses that is this
            machine's and that nothing else uses.

    Attributes:
        folder: A folder of this machine, which only hubs may enter: those on this machine that have
            the same pass connections on to each other as sockets (on Linux), and need not relay
            them. None: only hubs that meet in a folder do so, there. You may set it before the node
            starts.

    Raises:
        TypeError: ``where`` is neither text, nor a bus, nor a list of texts, or ``name`` is no
            text.
        ValueError: ``where`` or ``address`` is no such URL, or a folder whose path is too long for
            a Unix socket; ``direct`` or ``address`` does not go with ``where``; ``name`` is empty
            or too long; or ``grace`` is not above 0.
        ModuleNotFoundError: ``where`` is the URL of a NATS server, and nats-py is not installed.

    """

    def __init__(
        self,
        where: str | Bus | Sequence[str],
        *,
        name: str | None = None,
        grace: float = 10.0,
        direct: bool = False,
        address: str | None = None,
    ) -> None:
        own = None if address is None else read_address(address)
        place = where if isinstance(where, Bus) else read_where(where)
        if isinstance(place, Folder) and direct:
            raise ValueError("direct=True is for hubs that meet on a bus, not in a folder")
        if own is not None and not direct and not isinstance(place, list):
            raise ValueError("address= is for hubs with direct=True, or with a list of addresses")
        self._meet: Callable[[bytes], Meeting]
        if isinstance(place, Folder):
            self._meet = lambda _key: FolderMeeting(place.path)
        elif isinstance(place, list):
            self._meet = lambda _key: ListMeeting(place, own)
        else:
            bus = NatsBus(place.url) if isinstance(place, Server) else place
            self._meet = self._meeting_on(bus, direct, own)
        self._name = f"{socket.gethostname()}-{os.getpid()}" if name is None else name
        if not isinstance(self._name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not 1 <= len(self._name.encode()) <= LONGEST_NAME_BYTES:
            raise ValueError(
                f"name must have 1 to {LONGEST_NAME_BYTES} bytes in UTF-8, not {name!r}"
            )
        if not grace > 0:
            raise ValueError(f"grace must be a number of seconds above 0, not {grace!r}")
        self._grace = grace
        self.folder: str | None = None
        self._hub: Hub | None = None

    def __repr__(self) -> str:
        return f"<Cluster {self._name!r} with {len(self.hubs)} other hubs>"

    @property
    def name(self) -> str:
        """See `ClusterBase`."""
        return self._name

    @property
    def hubs(self) -> list[HubInfo]:
        """See `ClusterBase`."""
        if self._hub is None:
            return []
        return [
            HubInfo(link.name, link.is_up, link.session.rtt, self._hub.routes.count(link))
            for link, _ in self._hub.others.values()
            if link.name
        ]

    def locate(self, endpoint_id: bytes) -> str | None:
        """See `ClusterBase`."""
        check_id(endpoint_id)
        return None if self._hub is None else self._hub.locate(endpoint_id)

    async def broadcast(
        self,
        data: bytes | bytearray | memoryview,
        *,
        where: Mapping[str, Any] | None = None,
        exclude: Iterable[bytes] = (),
        timeout: float | None = None,
    ) -> Tally:
        """See `ClusterBase`."""
        hub = self._running()
        check_where(where or {})
        excluded = frozenset(check_ids(exclude, "exclude"))
        seconds = hub.send_timeout if timeout is None else timeout
        return await hub.inquiries.broadcast(as_bytes(data), where, excluded, seconds)

    async def find(self, *, timeout: float | None = None, **metadata: Any) -> list[bytes]:
        """See `ClusterBase`."""
        hub = self._running()
        check_where(metadata)
        return await hub.inquiries.find(metadata, hub.send_timeout if timeout is None else timeout)

    async def get_endpoint(
        self, endpoint_id: bytes, *, timeout: float | None = None
    ) -> EndpointInfo | None:
        """See `ClusterBase`."""
        check_id(endpoint_id)
        hub = self._running()
        seconds = hub.send_timeout if timeout is None else timeout
        return await hub.inquiries.get_endpoint(endpoint_id, seconds)

    def watch(self) -> AbstractAsyncContextManager[PresenceStream]:
        """See `ClusterBase`."""
        return self._watch()

    @asynccontextmanager
    async def _watch(self) -> AsyncIterator[PresenceStream]:
        hub = self._running()
        hub.runtime.check_caller()
        with hub.watching.watch() as changes:
            yield changes

    def _running(self) -> Hub:
        if self._hub is None:
            raise RuntimeError("the node of this cluster is not running: start it first")
        return self._hub

    def begin(self, life: HubLife, keys: Keys) -> None:
        """See `ClusterBase`."""
        if self._hub is not None and self._hub.runtime.running:
            raise RuntimeError("a Cluster serves one node: make another one for another node")
        self._hub = Hub(life, keys, self._name, self._grace, self._make_meeting)

    async def end(self) -> None:
        """See `ClusterBase`."""
        if self._hub is not None:
            await self._hub.end()
            self._hub = None

    def route_to(self, endpoint_id: bytes) -> Remote | None:
        """See `ClusterBase`."""
        return None if self._hub is None else self._hub.lanes.to(endpoint_id)

    def pass_on(self, transport: Transport, hello: Hello, message: bytes) -> Landing:
        """See `ClusterBase`."""
        if self._hub is None:
            return Landing.HERE
        return self._hub.pass_on(transport, hello, message)

    async def drain(self, seconds: float) -> None:
        """See `ClusterBase`."""
        if self._hub is not None:
            await self._hub.drain(seconds)

    def tell(self, order: str, endpoint_id: bytes) -> None:
        """See `ClusterBase`."""
        if self._hub is not None and len(endpoint_id) == NODE_ID_BYTES:
            self._hub.order(_ORDERS[order], endpoint_id)

    # -- the meeting --------------------------------------------------------------------------

    def _make_meeting(self, key: bytes) -> Meeting:
        meeting = self._meet(key)
        if self.folder is not None:
            meeting.folder = self.folder
        return meeting

    def _meeting_on(
        self, bus: Bus, direct: bool, own: Address | None
    ) -> Callable[[bytes], Meeting]:
        bus.watch(self._bus_changed)
        if direct:
            return lambda key: DirectMeeting(bus, key, own)
        if isinstance(bus, AbstractAsyncContextManager):  # its subscriptions end with each stop
            return lambda key: BusMeeting(bus, PipeNetwork(bus), key)
        network = PipeNetwork(bus)  # for all starts of the node: a network stays subscribed
        return lambda key: BusMeeting(bus, network, key)

    def _bus_changed(self, is_up: bool) -> None:
        if self._hub is not None:
            self._hub.bus_changed(is_up)
