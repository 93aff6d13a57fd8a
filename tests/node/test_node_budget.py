"""A node's budget: what its sessions hold together, and that each of them goes on."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import SendOutcome
from seigr_toolset_transmissions.errors import STTConnectError, STTWindowFullError

if TYPE_CHECKING:
    from seigr_toolset_transmissions import Session, STTNode


KIB = 1024
MIB = 1024 * KIB

SETTINGS: dict[str, Any] = {
    "max_message_bytes": 8 * KIB,
    "receive_window_bytes": 64 * KIB,
    "send_window_bytes": 64 * KIB,
    "inbox_bytes": 64 * KIB,
    "max_sessions_per_peer": 100,
}


MESSAGE = 1000


async def several(nodes: Nodes, count: int, limit: int) -> tuple[STTNode, list[Session]]:
    """A listener with this budget, and sessions of one dialer with it."""
    config = dataclasses.replace(nodes.config, max_buffered_bytes=limit)
    hub = await nodes.listen("bob", config=config)
    dialer = await nodes.start("alice")
    sessions = [await dialer.connect(*address_of(hub)) for _ in range(count)]
    await until(lambda: len(hub.sessions) == count)
    return hub, sessions


def held_and_promised(node: STTNode) -> int:
    stats = node.stats()
    return stats.buffered_bytes + stats.promised_bytes + stats.unacknowledged_bytes


async def send_numbers(session: Session, label: int, until_time: float, size: int) -> int:
    """Send messages with consecutive numbers until the time has come; return how many."""
    loop, count = asyncio.get_running_loop(), 0
    while loop.time() < until_time:
        await session.send(label.to_bytes(2) + count.to_bytes(8) + bytes(size))
        count += 1
        if count % 8 == 0:
            await asyncio.sleep(0.01)
    return count


@pytest.mark.parametrize("size", [MESSAGE, 8000])
@pytest.mark.parametrize("push", [False, True], ids=["pull", "push"])
@in_virtual_time
async def test_fast_peers_of_an_application_that_takes_nothing_for_a_minute_lose_nothing(
    push: bool, size: int
) -> None:
    limit, loop = 800 * KIB, asyncio.get_running_loop()
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 40, limit)
        log = EventLog(hub)
        received: list[list[int]] = [[] for _ in sessions]
        go_on = asyncio.Event()

        def take(data: bytes) -> None:
            received[int.from_bytes(data[:2])].append(int.from_bytes(data[2:10]))

        if push:

            @hub.events.on("data_received")
            async def handle(session_id: bytes, data: bytes) -> None:
                await go_on.wait()
                take(data)

        end = loop.time() + 61
        sending = [
            asyncio.ensure_future(send_numbers(session, label, end, size))
            for label, session in enumerate(sessions)
        ]
        for _ in range(60):
            await asyncio.sleep(1)
            assert held_and_promised(hub) <= limit
        assert hub.stats().buffered_bytes > limit // 4
        assert {session.state.value for session in sessions} == {"open"}
        go_on.set()

        async def pull() -> None:
            while not push:
                take((await hub.endpoints.receive_any())[0])
                await asyncio.sleep(0.0001)

        pulling = asyncio.ensure_future(pull())
        counts = await asyncio.gather(*sending)
        await until(lambda: sum(map(len, received)) == sum(counts), 100)
        assert received == [list(range(count)) for count in counts]
        assert min(counts) > 50
        assert log.names == []
        assert held_and_promised(hub) <= limit
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        # The peers may still use what they were promised, however long ago.
        for session in sessions:
            await session.close()
        await until(lambda: not hub._registry._departing)
        assert hub._registry.budget.committed == 0


@in_virtual_time
async def test_a_peer_that_comes_while_all_others_wait_is_served_at_once() -> None:
    limit, loop = 800 * KIB, asyncio.get_running_loop()
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 20, limit)
        end = loop.time() + 1000
        sending = [
            asyncio.ensure_future(send_numbers(session, 0, end, MESSAGE)) for session in sessions
        ]
        await asyncio.sleep(60)
        late = await nodes.connect(await nodes.start("carol"), hub)
        before = loop.time()
        for _ in range(300):
            await late.near.send(bytes(MESSAGE))
            await hub.endpoints.receive_from(late.dialer.node_id, timeout=1)
        assert loop.time() - before < 1
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


@in_virtual_time
async def test_more_sessions_than_there_is_room_for_are_refused_on_either_side() -> None:
    limit = 200 * KIB
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 2, limit)
        log = EventLog(hub)
        dialer = nodes.made[1]

        async def more(dialer: STTNode, listener: STTNode, bounded: STTNode) -> None:
            for _ in range(30):
                sessions.append(await dialer.connect(*address_of(listener)))
                assert held_and_promised(bounded) <= limit

        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await more(dialer, hub, hub)
        assert 5 < len(sessions) < 30
        ((name, details),) = log.errors
        assert name == "limit_reached"
        assert "max_buffered_bytes" in details["reason"]
        dialer_config = dataclasses.replace(nodes.config, max_buffered_bytes=limit)
        small = await nodes.start("alice", config=dialer_config)
        with pytest.raises(STTConnectError, match="max_buffered_bytes"):
            await more(small, await nodes.listen("carol"), small)


async def stuffed(nodes: Nodes, limit: int) -> tuple[STTNode, list[Session], STTNode]:
    """A node, its sessions with a peer that takes nothing, and that peer."""
    config = dataclasses.replace(nodes.config, max_buffered_bytes=limit)
    hub = await nodes.listen("bob", config=config)
    deaf = await nodes.start("alice")
    for _ in range(20):
        await deaf.connect(*address_of(hub))
    await until(lambda: len(hub.sessions) == 20)

    @deaf.events.on("data_received")
    async def never(session_id: bytes, data: bytes) -> None:
        await asyncio.sleep(1000)

    for _ in range(2000):
        for session in hub.sessions:
            live(session).try_send(bytes(MESSAGE))
        if not any(live(session).try_send(bytes(MESSAGE)) for session in hub.sessions):
            await asyncio.sleep(0.1)
            if not any(live(session).try_send(bytes(MESSAGE)) for session in hub.sessions):
                break
    return hub, hub.sessions, deaf


@in_virtual_time
async def test_messages_held_for_sending_count_and_other_sessions_continue() -> None:
    limit = 800 * KIB
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions, _ = await stuffed(nodes, limit)
        stats = hub.stats()
        assert stats.unacknowledged_bytes == sum(s.stats.unacknowledged_bytes for s in sessions)
        assert limit // 8 < stats.unacknowledged_bytes < limit
        assert held_and_promised(hub) <= limit
        with pytest.raises(STTWindowFullError, match=r"\(max_buffered_bytes\): await send\(\)"):
            sessions[0].send_nowait(bytes(MESSAGE))
        outcomes = await hub.send_to_sessions([s.session_id for s in sessions], b"x" * MESSAGE)
        assert set(outcomes.values()) == {SendOutcome.FULL}
        # A peer that reads is not affected, whether messages are small or large.
        pair = await nodes.connect(await nodes.start("carol"), hub)
        for size in (10, MESSAGE, 8 * KIB) * 20:
            async with asyncio.timeout(1):
                await pair.far.send(bytes(size))
                await pair.dialer.endpoints.receive_any()


@in_virtual_time
async def test_a_send_waiting_for_room_continues_when_another_session_frees_some() -> None:
    loop = asyncio.get_running_loop()
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions, deaf = await stuffed(nodes, 800 * KIB)
        sessions.sort(key=lambda session: session.stats.unacknowledged_bytes)
        waiting = [asyncio.ensure_future(session.send(bytes(MESSAGE))) for session in sessions[:3]]
        cancelled = asyncio.ensure_future(sessions[3].send(bytes(MESSAGE)))
        await asyncio.sleep(10)
        assert not any(task.done() for task in waiting)
        cancelled.cancel()
        before = loop.time()
        for session in sessions[10:]:
            live(session).lose("no more use")
        await asyncio.gather(*waiting)
        assert loop.time() - before < 0.1
        assert held_and_promised(hub) <= 800 * KIB
        await asyncio.sleep(1)
        assert not hub._registry.budget._waiting
        await deaf.stop(drain=0)


@in_virtual_time
async def test_large_messages_of_many_peers_arrive_even_if_not_all_fit() -> None:
    limit = 4 * MIB
    async with memory_nodes(
        max_message_bytes=512 * KIB, receive_window_bytes=MIB, send_window_bytes=MIB,
        max_sessions_per_peer=100,
    ) as nodes:  # fmt: skip
        hub, sessions = await several(nodes, 30, limit)
        log = EventLog(hub)
        sending = [asyncio.ensure_future(session.send(bytes(500 * KIB))) for session in sessions]
        await asyncio.sleep(20)
        assert held_and_promised(hub) <= limit
        for _ in sessions:
            data, _ = await hub.endpoints.receive_any(timeout=5)
            assert data == bytes(500 * KIB)
            assert held_and_promised(hub) <= limit
        await asyncio.gather(*sending)
        assert log.names == []


@in_virtual_time
async def test_an_awaited_message_arrives_even_if_no_one_takes_those_of_other_peers() -> None:
    limit = 6 * MIB
    async with memory_nodes(
        max_message_bytes=512 * KIB,
        receive_window_bytes=MIB,
        send_window_bytes=MIB,
        max_sessions=16,
    ) as nodes:
        hub = await nodes.listen(
            "bob", config=dataclasses.replace(nodes.config, max_buffered_bytes=limit)
        )
        dialers = [await nodes.start(f"peer {number}") for number in range(12)]
        sessions = [await dialer.connect(*address_of(hub)) for dialer in dialers]
        sending = [
            asyncio.ensure_future(session.send(bytes(500 * KIB)))
            for _ in range(2)
            for session in sessions
        ]
        await asyncio.sleep(5)
        assert not all(map(hub._endpoints.held_by, [dialer.node_id for dialer in dialers]))
        for dialer in reversed(dialers):
            for _ in range(2):
                data, _ = await hub.endpoints.receive_from(dialer.node_id, timeout=5)
                assert data == bytes(500 * KIB)
                assert held_and_promised(hub) <= limit
        await asyncio.gather(*sending)
