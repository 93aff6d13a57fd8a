"""To its peers a cluster is one node: they take no hub for a copy of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode


async def two_nodes(nodes: Nodes, *, hubs: bool) -> list[STTNode]:
    """Start two nodes that share a node seed."""
    bus = MemoryBus()
    return [
        await nodes.listen("bob", **({"cluster": Cluster(bus, name=f"hub-{i}")} if hubs else {}))
        for i in range(2)
    ]


@in_virtual_time
@pytest.mark.parametrize("hubs", [True, False])
async def test_a_peer_that_goes_from_hub_to_hub_sees_no_conflict_but_among_copies(
    hubs: bool,
) -> None:
    async with memory_nodes() as nodes:
        one, other = await two_nodes(nodes, hubs=hubs)
        alice = await nodes.start("alice")
        log = EventLog(alice, "error")
        for node in (one, other, one):
            session = await alice.connect(*address_of(node))
            await session.close()
            await until(lambda: not alice.sessions)
        conflicts = [error_type for error_type, _ in log.errors]
        assert conflicts == ([] if hubs else ["identity_conflict"])
