"""Endpoints that the application wants to stay connected to, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

from helpers.clock import run_virtual
from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.endpoints.fanout import SendOutcome
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

SHARED = b"the keeper tests' shared seed"
HUB_SEED = b"the keeper tests' hub's seed"
PEER_SEED = b"the keeper tests' peer's seed"
ADDRESS = ("hub", 7000)


def hub_of(network: MemoryNetwork | FaultNetwork) -> STTNode:
    return STTNode(HUB_SEED, SHARED, *ADDRESS, network=network)


def peer_of(network: MemoryNetwork | FaultNetwork) -> STTNode:
    return STTNode(PEER_SEED, SHARED, network=network)


def test_a_wanted_endpoint_is_dialed_at_once() -> None:
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


def test_an_endpoint_wanted_before_the_start_is_dialed_by_it() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub, peer = hub_of(network), peer_of(network)
        await hub.start(server_mode=True)
        await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
        async with peer:
            await peer.events.wait_for("peer_connected", timeout=1)
            await hub.stop()

    run_virtual(main())


def test_a_wanted_endpoint_is_dialed_until_it_listens_and_the_failures_are_reported() -> None:
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
            assert 8 <= len(told) <= 60  # the delays grow to 15 s on average
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


def test_the_state_of_a_wanted_endpoint_shows_what_is_happening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    async def main() -> None:
        # The first dial meets silence, and so does the one that is to resume.
        silence = Fault(Direction.OUT, 0, Kind.BLACK_HOLE)
        no_fault = Fault(Direction.OUT, 1 << 40, Kind.RST)
        network = FaultNetwork(MemoryNetwork(), [silence, no_fault, silence])
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:

            def state() -> str:
                info = peer.endpoints.get_endpoint(hub.node_id)
                assert info is not None
                return str(info["state"])

            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            states = []
            for seconds in (1, 9.1, 0.5):
                await asyncio.sleep(seconds)
                states.append(state())
            network.cables[-1].cut(Kind.RST)
            for seconds in (0.1, 1, 10):
                await asyncio.sleep(seconds)
                states.append(state())
            await hub.stop()
            await asyncio.sleep(0.1)
            states.append(state())
            await peer.endpoints.remove_endpoint(hub.node_id)
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS)
            await asyncio.sleep(31)
            states.append(state())
        assert states == [
            "connecting",
            "waiting",
            "connected",
            "suspended",
            "suspended",
            "connected",
            "waiting",
            "disconnected",
        ]

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


def test_a_node_that_ends_each_session_at_once_is_dialed_seldom() -> None:
    async def main() -> None:
        network = FaultNetwork(MemoryNetwork())
        hub = hub_of(network)
        await hub.start(server_mode=True)

        @hub.events.on("session_created")
        async def end(session_id: bytes) -> None:
            session = hub.get_session(session_id)
            assert session is not None
            await session.close()

        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await asyncio.sleep(300)
            assert 8 <= len(network.cables) <= 60  # as if nobody had answered
            hub.events.remove_handler("session_created", end)
            await peer.events.wait_for("peer_connected", timeout=31)
            await asyncio.sleep(11)  # it is stable, so the next dial comes soon
            began = asyncio.get_running_loop().time()
            await hub.sessions[0].close()
            await peer.events.wait_for("peer_connected", timeout=1)
            assert asyncio.get_running_loop().time() - began <= 0.3
            await hub.stop()

    run_virtual(main())


def test_a_node_whose_sessions_bring_something_is_dialed_again_soon_however_short_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    async def main() -> None:
        network = FaultNetwork(MemoryNetwork())
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            for _ in range(5):
                await peer.events.wait_for("peer_connected", timeout=0.3)
                await peer.endpoints.send_to_endpoint(hub.node_id, b"across")
                await hub.endpoints.receive_any(timeout=0.1)
                await hub.sessions[0].close()
            await hub.stop()

    run_virtual(main())


def test_a_retry_asked_for_while_there_is_a_session_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        await hub.start(server_mode=True)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await peer.events.wait_for("peer_connected", timeout=1)
            peer.retry_now(hub.node_id)
            await asyncio.sleep(11)
            began = asyncio.get_running_loop().time()
            await hub.sessions[0].close()
            await peer.events.wait_for("peer_connected", timeout=1)
            assert asyncio.get_running_loop().time() - began == pytest.approx(0.2)
            await hub.stop()

    run_virtual(main())


def test_a_retry_of_an_endpoint_that_is_not_wanted_does_nothing() -> None:
    async def main() -> None:
        network = FaultNetwork(MemoryNetwork())
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(b"known..." * 4, ADDRESS)
            peer.retry_now(b"known..." * 4)
            peer.retry_now(b"unknown")
            await asyncio.sleep(1)
            assert network.cables == []

    run_virtual(main())


def test_a_handler_of_a_failed_dial_may_stop_the_node() -> None:
    async def main() -> None:
        peer = peer_of(MemoryNetwork())
        await peer.start()
        stopped: list[object] = []

        @peer.events.on("error")
        async def stop(error_type: str, details: dict[str, Any]) -> None:
            stopped.append(await peer.stop())

        await peer.endpoints.add_endpoint(hub_of(MemoryNetwork()).node_id, ADDRESS, connect=True)
        await asyncio.sleep(100)
        assert stopped == [()]
        gc.collect()  # a failed task would be reported now

    run_virtual(main())


def test_a_node_restarted_by_such_a_handler_dials_again() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub, peer = hub_of(network), peer_of(network)
        await peer.start()
        stopped: list[object] = []

        @peer.events.on("error")
        async def restart(error_type: str, details: dict[str, Any]) -> None:
            if not stopped:
                stopped.append(await peer.stop())
                await peer.start()

        await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
        await asyncio.sleep(1)
        await hub.start(server_mode=True)
        await peer.events.wait_for("peer_connected", timeout=31)
        assert len(hub.sessions) == 1
        await peer.stop()
        await hub.stop()

    run_virtual(main())


def test_an_endpoint_removed_and_added_again_is_dialed_at_once() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        async with peer_of(network) as peer:
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await asyncio.sleep(100)
            await hub.start(server_mode=True)
            await peer.endpoints.remove_endpoint(hub.node_id)
            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await peer.events.wait_for("peer_connected", timeout=0.001)
            await hub.stop()

    run_virtual(main())


def test_a_removed_endpoint_is_not_dialed_again() -> None:
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
            await peer.endpoints.add_endpoint(b"nobody.." * 4, ("nowhere", 1), connect=True)
            await peer.events.wait_for("peer_connected", timeout=1)
            began = asyncio.get_running_loop().time()
            await peer.stop()
            assert asyncio.get_running_loop().time() - began < 0.5
        await hub.stop()

    run_virtual(main())


def test_a_suspended_wanted_endpoint_is_resumed_and_not_dialed_as_well() -> None:
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


def test_a_handler_whose_task_is_cancelled_does_not_end_the_dialing() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        hub = hub_of(network)
        async with peer_of(network) as peer:
            told = 0

            @peer.events.on("error")
            async def give_up(error_type: str, details: dict[str, Any]) -> None:
                nonlocal told
                told += 1
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

            await peer.endpoints.add_endpoint(hub.node_id, ADDRESS, connect=True)
            await asyncio.sleep(30)
            assert told > 1
            await hub.start(server_mode=True)
            await peer.events.wait_for("peer_connected", timeout=60)
            await hub.stop()

    run_virtual(main())
