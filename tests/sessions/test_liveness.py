"""Signs of life: which silence ends a connection, and which does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.fault_network import FaultNetwork
from helpers.nodes import (
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.relay import Kind, Plan, Relay
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.transports.memory import MemoryNetwork


@in_virtual_time
async def test_a_silent_peer_is_asked_and_given_up() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        before = loop.time()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await log.until("session_suspended", seconds=100)
        # 13.5 to 16.5 s until it is asked, 15 s more, each looked at once a second.
        assert 27 <= loop.time() - before <= 34
        await log.until("session_resumed", seconds=100)


@in_virtual_time
async def test_a_quiet_peer_that_answers_is_kept() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        pings = live(pair.near).machine._ping_token
        await asyncio.sleep(3600)
        assert logs[0].names == logs[1].names == []
        assert pair.near.state == pair.far.state == "open"
        asked = live(pair.near).machine._ping_token + live(pair.far).machine._ping_token - pings
        assert 3600 / 17 / 2 < asked < 2 * 3600 / 13
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["rtt"] == pytest.approx(0, abs=0.01)


@in_virtual_time
async def test_a_blocked_loop_does_not_blame_its_peers() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await asyncio.sleep(14)
        loop: Any = asyncio.get_running_loop()
        for _ in range(3):
            loop._virtual.now += 100  # the whole program was suspended
            await asyncio.sleep(3)
        assert logs[0].names == logs[1].names == []


@in_virtual_time
async def test_a_vanished_peer_is_given_up_even_if_handlers_keep_the_loop_busy() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, ping_interval=2, ping_timeout=2) as nodes:
        pair = await nodes.pair()
        busy = await nodes.connect(await nodes.start("carol"), pair.listener)
        log = EventLog(pair.listener)
        loop: Any = asyncio.get_running_loop()

        @pair.listener.events.on("data_received")
        async def work(session_id: bytes, data: bytes) -> None:
            loop._virtual.now += 1.3  # blocks the loop: each look at the sessions comes late

        before = loop.time()
        network.cables[0].cut(Kind.BLACK_HOLE)
        while not log.of("session_suspended"):
            assert loop.time() - before < 10
            await busy.near.send(b"work")
            await asyncio.sleep(0.2)
        assert busy.far.state == "open"


async def test_a_late_look_at_a_session_reads_what_has_arrived_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Nodes(ping_interval=2, ping_timeout=2) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        loop = asyncio.get_running_loop()
        real, stood_still = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + stood_still)
        over = asyncio.Event()

        def stand_still() -> None:
            """Let the answers arrive without anything reading them."""
            nonlocal stood_still
            pair.near.ping()
            pair.far.ping()
            stood_still += 10
            loop.call_later(0.1, over.set)

        # In the very turn of the loop in which the sessions are looked at, and before that.
        loop.call_at(pair.dialer._life._check_timer.when() - 0.0001, stand_still)
        await over.wait()
        assert logs[0].names == logs[1].names == []
        assert pair.near.rtt is not None


@pytest.mark.parametrize("sign", ["what waits goes out", "the peer acknowledges"])
@in_virtual_time
async def test_a_connection_that_takes_bytes_slowly_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """What counts is progress, not how much waits."""
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, write_timeout=10, ping_timeout=1e6) as nodes:
        pair = await nodes.pair()
        connection, other = live(pair.near)._connection, live(pair.far)._connection
        assert connection is not None
        assert other is not None
        waiting = 1000
        monkeypatch.setattr(type(network.cables[0]), "waiting", property(lambda _: waiting))
        connection.pause_writing()
        for _ in range(100):
            await asyncio.sleep(9)
            if sign == "what waits goes out":
                waiting -= 1
            else:
                live(pair.far).machine.reassure()
                other.flush()
        assert pair.near.stats.resumes == 0
        await asyncio.sleep(13)
        assert pair.near.stats.resumes == 1


@in_virtual_time
async def test_a_connection_that_takes_no_bytes_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        dialer = await nodes.start(config=NodeConfig(write_timeout=10))
        pair = await nodes.connect(dialer, await nodes.listen())
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        # The peer talks all the time, so it lives; but the way to it is blocked. (It would take
        # the dialer for dead only after thirty seconds.)
        monkeypatch.setattr(network.cables[0], "write", lambda _: None)
        network.cables[0].pause_writing()
        before = loop.time()

        async def talk() -> None:
            while not log.of("session_suspended"):
                await pair.far.send(b"still here")
                await asyncio.sleep(1)

        talking = asyncio.create_task(talk())
        await log.until("session_suspended", seconds=100)
        assert loop.time() - before == pytest.approx(10, abs=2)
        await log.until("session_resumed", seconds=100)
        await talking


async def test_a_round_trip_is_measured() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(delay=0.02))
        pair = await nodes.connect(dialer, listener, relay.address)
        before = pair.near.rtt
        assert before is None
        pair.near.ping()
        await until(lambda: pair.near.rtt is not None)
        assert pair.near.rtt is not None
        assert 0.035 <= pair.near.rtt < 2
        assert pair.near.min_rtt == pair.near.rtt
        info = dialer.endpoints.get_endpoint(listener.node_id)
        assert info is not None
        assert info["rtt"] == pair.near.rtt
