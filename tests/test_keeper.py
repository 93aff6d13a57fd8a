"""Endpoints that the application wants to stay connected to, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from helpers.clock import run_virtual
from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.fanout import SendOutcome
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

SHARED = b"the keeper tests' shared seed"
HUB_SEED = b"the keeper tests' hub's seed"
PEER_SEED = b"the keeper tests' peer's seed"
ADDRESS = ("hub", 7000)


def hub_of(network: MemoryNetwork | FaultNetwork) -> STTNode:
    return STTNode(HUB_SEED, SHARED, *ADDRESS, network=network)


def peer_of(network: MemoryNetwork | FaultNetwork) -> STTNode:
    return STTNode(PEER_SEED, SHARED, network=network)


def test_a_wanted_endpoint_is_dialled_at_once() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with peer_of(network) as peer:
            hub = hub_of(network)
            await hub.start(server_mode=True)
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            occurrence = await peer.events.wait_for("peer_connected", timeout=1)
            assert occurrence.kwargs == {"peer_node_id": hub.node_id}
            info = peer.endpoints.get_endpoint(hub.node_id)
            assert info is not None
            assert info["state"] == "connected"
            await hub.stop()

    run_virtual(main())


def test_an_endpoint_wanted_before_the_start_is_dialled_by_it() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub, peer = hub_of(network), peer_of(network)
        await hub.start(server_mode=True)
        await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
        async with peer:
            await peer.events.wait_for("peer_connected", timeout=1)
            await hub.stop()

    run_virtual(main())


def test_a_wanted_endpoint_is_dialled_until_it_listens_and_the_failures_are_told() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        told: list[dict[str, Any]] = []
        async with peer_of(network) as peer:

            @peer.events.on("error")
            async def note(error_type: str, details: dict[str, Any]) -> None:
                assert error_type == "connect_failed"
                told.append(details)

            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await asyncio.sleep(300)
            attempts = [details["attempts"] for details in told]
            assert attempts == list(range(1, len(told) + 1))
            assert 8 <= len(told) <= 60  # the delays grow to 15 s in the mean
            assert "cannot reach" in told[0]["reason"]
            info = peer.endpoints.get_endpoint(hub.node_id)
            assert info is not None
            assert info["state"] == "waiting"
            await hub.start(server_mode=True)
            await peer.events.wait_for("peer_connected", timeout=31)
            await hub.stop()

    run_virtual(main())


def test_retry_now_does_not_wait_for_the_back_off() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await asyncio.sleep(300)
            await hub.start(server_mode=True)
            began = asyncio.get_running_loop().time()
            peer.retry_now(hub.node_id)
            await peer.events.wait_for("peer_connected", timeout=1)
            assert asyncio.get_running_loop().time() - began < 0.1
            await hub.stop()

    run_virtual(main())


def test_retry_now_resumes_a_suspended_session_at_once() -> None:
    async def main() -> None:
        network = FaultNetwork(MemoryNetwork())
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            session = await peer.connect(*ADDRESS)
            session.attempts = 20  # as after many short connections
            network.cables[0].cut(Kind.RST)
            await peer.events.wait_for("session_suspended", timeout=1)
            began = asyncio.get_running_loop().time()
            peer.retry_now(hub.node_id)
            await peer.events.wait_for("session_resumed", timeout=1)
            assert asyncio.get_running_loop().time() - began < 0.1
            await hub.stop()

    run_virtual(main())


def test_a_wanted_endpoint_is_connected_again_when_its_node_was_restarted() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await peer.events.wait_for("peer_connected", timeout=1)
            await hub.stop()
            await hub.start(server_mode=True)
            await peer.events.wait_for("peer_connected", timeout=31)
            assert await peer.endpoints.broadcast(b"again") == {hub.node_id: SendOutcome.ACCEPTED}
            assert (await hub.endpoints.receive_any(timeout=1))[0] == b"again"
            await hub.stop()

    run_virtual(main())


def test_an_endpoint_that_was_removed_is_dialled_no_more() -> None:
    async def main() -> None:
        network = FaultNetwork(MemoryNetwork())
        async with peer_of(network) as peer:
            hub_id = hub_of(network).node_id
            await peer.endpoints.add_endpoint(hub_id, ADDRESS, connect=True)
            await asyncio.sleep(100)
            await peer.endpoints.remove_endpoint(hub_id)
            await asyncio.sleep(31)
            dials = len(network.cables)
            await asyncio.sleep(1000)
            assert len(network.cables) == dials

    run_virtual(main())


def test_a_node_that_keeps_endpoints_stops_at_once() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await peer.endpoints.add_endpoint(b"nobody" * 5, ("nowhere", 1), connect=True)
            await peer.events.wait_for("peer_connected", timeout=1)
            began = asyncio.get_running_loop().time()
            await peer.stop()
            assert asyncio.get_running_loop().time() - began < 0.5
        await hub.stop()

    run_virtual(main())


def test_a_suspended_wanted_endpoint_is_resumed_and_not_dialled_besides() -> None:
    async def main() -> None:
        network = FaultNetwork(MemoryNetwork(), [Fault(Direction.OUT, 600, Kind.RST)])
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await peer.events.wait_for("peer_connected", timeout=1)
            await peer.endpoints.send_to_endpoint(hub.node_id, bytes(1000))
            assert len((await hub.endpoints.receive_any(timeout=31))[0]) == 1000
            assert len(network.cables) == 2
            assert len(hub.sessions) == 1
            await hub.stop()

    run_virtual(main())
