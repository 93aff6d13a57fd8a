"""Hubs of one cluster in virtual time, and peers that connect to them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from helpers.mortal import MortalBus, MortalNetwork
from helpers.nodes import Nodes, address_of, live, memory_nodes, until
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTSessionClosedError
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.cluster.hub import Hub
    from seigr_toolset_transmissions.cluster.landings import Landings
    from seigr_toolset_transmissions.cluster.lanes import Lanes
    from seigr_toolset_transmissions.transports.base import Address

__all__ = [
    "Broken",
    "Hubs",
    "cluster",
    "hub_of",
    "landing_of",
    "landings_of",
    "lanes_of",
    "receive",
]


class Hubs:
    """Hubs of one cluster, on one bus, and peers that connect to them.

    Args:
        nodes: Makes the nodes.
        bus: Where the hubs meet.
        grace: The `Cluster`'s.
        options: For each hub's node.

    """

    def __init__(self, nodes: Nodes, bus: MemoryBus, grace: float, options: dict[str, Any]) -> None:
        self.nodes = nodes
        self.hubs: list[STTNode] = []
        self.bus = bus
        self._grace = grace
        self._options = options
        self._ways: list[tuple[MortalNetwork, MortalBus]] = []

    async def add(self) -> STTNode:
        """Start one more hub: ``hub-0`` is the first."""
        index = len(self.hubs)
        node = await self._start(index)
        self.hubs.append(node)
        return node

    async def _start(self, index: int) -> STTNode:
        assert self.nodes.network is not None
        network, bus = MortalNetwork(self.nodes.network), MortalBus(self.bus)
        self._ways[index:] = [(network, bus), *self._ways[index + 1 :]]
        cluster = Cluster(bus, name=f"hub-{index}", grace=self._grace)
        return await self.nodes.listen("bob", cluster=cluster, network=network, **self._options)

    async def kill(self, index: int) -> None:
        """End the process of a hub, and start another in its place."""
        for way in self._ways[index]:
            await way.die()
        self.hubs[index] = await self._start(index)

    def another(self, name: str) -> Cluster:
        """Return what makes one more node a hub."""
        return Cluster(self.bus, name=name)

    async def peer(self, name: str, hub: STTNode, **options: Any) -> STTNode:
        """Return a peer that is connected to a hub, which all hubs know."""
        peer = await self.nodes.start(name, **options)
        await peer.connect(*address_of(hub))
        await until(lambda: all(each.cluster.locate(peer.node_id) for each in self.hubs))
        return peer


@asynccontextmanager
async def cluster(
    count: int = 2, grace: float = 10.0, bus: MemoryBus | None = None, **options: Any
) -> AsyncIterator[Hubs]:
    """Run hubs that have found each other: ``hub-0``, ``hub-1`` and so on."""
    async with memory_nodes() as nodes:
        it = Hubs(nodes, bus or MemoryBus(), grace, options)
        for _ in range(count):
            await it.add()
        await until(lambda: all(len(hub.cluster.hubs) == count - 1 for hub in it.hubs))
        yield it


def hub_of(node: STTNode) -> Hub:
    """Return what stands behind the cluster of a node."""
    assert isinstance(node.cluster, Cluster)
    assert node.cluster._hub is not None
    return node.cluster._hub


def lanes_of(node: STTNode) -> Lanes:
    """Return the lanes of a hub, to look at what they hold."""
    return hub_of(node).lanes


def landings_of(node: STTNode) -> Landings:
    """Return what a hub passes on, and what is passed on to it."""
    landings = hub_of(node)._membership.landings
    assert landings is not None
    return landings


def landing_of(node: STTNode) -> Address:
    """Return where a hub takes connections that are passed on to it."""
    membership = hub_of(node)._membership
    assert membership.meeting is not None
    return membership.meeting.landing_of(membership.address)


async def receive(node: STTNode, sender: bytes, count: int) -> list[bytes]:
    """Return the next messages of a peer: ``count``, or fewer if its session ends before that."""
    received: list[bytes] = []
    try:
        while len(received) < count:
            received.append((await node.endpoints.receive_from(sender))[0])
    except STTSessionClosedError:
        pass
    return received


class Broken:
    """The session of a peer with a hub, without a connection until `mend`."""

    def __init__(self, peer: STTNode, hub: STTNode) -> None:
        self.peer = peer
        self.near = live(peer.get_session_for_endpoint(hub.node_id))
        self.far = live(hub.get_session_for_endpoint(peer.node_id))
        self._address = self.near.dial_address
        self.near.dial_address = ("nowhere", 1)
        self.far.cut("test")

    def mend(self) -> None:
        """Let the peer dial again."""
        self.near.dial_address = self._address
        self.peer.retry_now(self.near.peer_node_id)
