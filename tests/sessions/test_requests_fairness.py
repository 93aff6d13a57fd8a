"""Requests beside everything else: nothing and nobody waits for long because of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import address_of, in_virtual_time, live, memory_nodes, until

QUICK = 0.0001


def work(seconds: float = QUICK) -> None:
    """Be busy for this long, blocking the loop."""
    loop: Any = asyncio.get_running_loop()
    loop._virtual.now += seconds


@in_virtual_time
async def test_a_flood_of_quick_requests_starves_neither_timers_nor_messages_nor_newcomers() -> (
    None
):
    async with memory_nodes(max_sessions_per_peer=30) as nodes:
        hub = await nodes.listen()
        peer = await nodes.start()
        sessions = [await peer.connect(*address_of(hub)) for _ in range(20)]
        loop = asyncio.get_running_loop()
        handled: dict[bytes, int] = {}
        received: list[bytes] = []

        @hub.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            work()
            handled[data] = handled.get(data, 0) + 1
            return b""

        @hub.events.on("data_received")
        async def take(session_id: bytes, data: bytes) -> None:
            received.append(data)

        async def flood(number: int) -> None:
            while True:
                await sessions[number].request(b"%d" % number)

        flooding = [asyncio.create_task(flood(n % 20)) for n in range(2000)]
        await asyncio.sleep(1)
        late = []
        for _ in range(100):
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            late.append(loop.time() - due)
        assert max(late) < 0.05
        newcomer = await nodes.start("carol")  # in a thread, during which time goes on
        before = loop.time()
        mine = await newcomer.connect(*address_of(hub))
        await mine.send(b"a message")
        await until(lambda: received)
        assert loop.time() - before < 0.5
        before = loop.time()
        assert await mine.request(b"new", timeout=1) == b""
        assert loop.time() - before < 0.2
        counts = [handled[b"%d" % number] for number in range(20)]
        assert max(counts) < 2 * min(counts)
        for task in flooding:
            task.cancel()
        await asyncio.wait(flooding)


@pytest.mark.parametrize("waiting", [0, 100])
@in_virtual_time
async def test_handlers_of_requests_that_hang_hold_up_no_messages(waiting: int) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            await asyncio.sleep(1000)
            return data

        count = pair.listener.config.max_requests + waiting
        requests = [asyncio.create_task(pair.near.request(b"")) for _ in range(count)]
        await asyncio.sleep(1)
        for _ in range(5000):
            await pair.near.send(bytes(100))
            await pair.listener.endpoints.receive_any(timeout=1)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)


@in_virtual_time
async def test_a_cancel_gets_through_when_waiting_requests_use_up_all_credit() -> None:
    async with memory_nodes(max_requests=1) as nodes:
        pair = await nodes.pair()
        cancelled: list[bytes] = []

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(data[:1])
                raise
            return data

        requests = [
            asyncio.create_task(pair.near.request(b"%d" % (number % 10) + bytes(10_000)))
            for number in range(20)
        ]
        await asyncio.sleep(1)
        outbox = live(pair.near).machine.outbox
        assert outbox.pending
        assert not outbox.can_send()
        requests[0].cancel()
        await asyncio.sleep(0.1)
        assert cancelled == [b"0"]
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        await asyncio.sleep(1)
        books = live(pair.near).machine.exchanges
        assert books is not None
        assert not books._given_up
