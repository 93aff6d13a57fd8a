"""Sharing the loop's time: busy sessions take turns, and others do not wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from helpers.nodes import address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.sessions.loop_time import SHARE_SECONDS, TURN_SECONDS, LoopTime

STEP = 0.0001


def work(seconds: float = STEP) -> None:
    """Be busy for this long, blocking the loop."""
    loop: Any = asyncio.get_running_loop()
    loop._virtual.now += seconds


class Worker:
    """Works as a pump does: until its time is used, and again as soon as it may."""

    def __init__(self, time: LoopTime, amount: int) -> None:
        self.time = time
        self.left = amount
        self.order: list[Worker] | None = None

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        queued: float | None = None
        while self.left:
            until = queued or self.time.until()
            queued = None
            if until is None:
                until = await self.time.wait()
            if self.order is not None:
                self.order.append(self)
            while self.left and clock() <= until:
                work()
                self.left -= 1
            if self.time.wanted and clock() > until:
                queued = await self.time.wait()
            else:
                await asyncio.sleep(0)


async def longest_turn(workers: list[Worker]) -> float:
    """Let all of them work; return how long the loop's longest turn was."""
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    longest = 0.0
    while not all(task.done() for task in tasks):
        before = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - before)
    return longest


@in_virtual_time
async def test_a_lone_session_works_for_a_whole_turn_at_a_time() -> None:
    time = LoopTime(asyncio.get_running_loop())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await Worker(time, 1000).run()
    counting.cancel()
    await asyncio.wait([counting])
    assert turns <= 1000 * STEP / TURN_SECONDS * 1.1 + 2


@in_virtual_time
async def test_a_turn_is_no_longer_with_a_thousand_busy_than_with_ten() -> None:
    for number in (10, 1000):
        time = LoopTime(asyncio.get_running_loop())
        workers = [Worker(time, 20) for _ in range(number)]
        assert await longest_turn(workers) <= 2 * TURN_SECONDS + 10 * STEP


@in_virtual_time
async def test_queued_sessions_take_turns() -> None:
    time = LoopTime(asyncio.get_running_loop())
    workers = [Worker(time, 100) for _ in range(50)]
    order: list[Worker] = []
    for worker in workers:
        worker.order = order
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    await until(lambda: len(order) >= 300)
    turns = Counter(order[:300])
    assert len(turns) == 50
    assert max(turns.values()) <= min(turns.values()) + 2
    await asyncio.gather(*tasks)


@in_virtual_time
async def test_a_newcomer_with_little_to_do_does_not_queue_behind_the_busy() -> None:
    loop = asyncio.get_running_loop()
    time = LoopTime(loop)
    busy = [asyncio.create_task(Worker(time, 1000).run()) for _ in range(500)]
    await asyncio.sleep(0.5)
    before = loop.time()
    await Worker(time, 1).run()
    assert loop.time() - before <= 5 * TURN_SECONDS
    for task in busy:
        task.cancel()
    await asyncio.wait(busy)


@in_virtual_time
async def test_a_session_cancelled_in_the_queue_takes_no_turn() -> None:
    time = LoopTime(asyncio.get_running_loop())
    time.until()
    work(TURN_SECONDS)
    assert time.until() is None
    waiting = [asyncio.create_task(time.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    until = await waiting[2]
    assert waiting[0].done()
    assert until <= asyncio.get_running_loop().time() + SHARE_SECONDS
    assert not time.wanted


@in_virtual_time
async def test_asking_for_time_costs_the_loop_one_call_a_turn() -> None:
    loop: Any = asyncio.get_running_loop()
    time = LoopTime(loop)
    time.until()
    for _ in range(100):
        assert time.until() is not None
        assert len(loop._ready) <= 1  # one call for the whole turn, and not one for each question


@in_virtual_time
async def test_a_newcomer_gets_in_beside_two_hundred_busy_peers() -> None:
    async with memory_nodes(max_sessions_per_peer=200) as nodes:
        hub = await nodes.listen()
        peer = await nodes.start()
        sessions = [await peer.connect(*address_of(hub)) for _ in range(200)]
        handled: Counter[bytes] = Counter()
        loop = asyncio.get_running_loop()

        @hub.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            work(0.0001)
            handled[session_id] += 1

        for session in sessions:
            for _ in range(500):
                session.send_nowait(b"work")
        await asyncio.sleep(1)
        newcomer = await nodes.start("carol")
        before = loop.time()
        mine = await newcomer.connect(*address_of(hub))
        assert loop.time() - before < 0.2
        await mine.send(b"and is heard")
        await until(lambda: handled[mine.session_id])
        assert loop.time() - before < 0.5
        await until(lambda: sum(handled.values()) > 20_000)
        assert max(handled.values()) < 2 * min(handled[session.session_id] for session in sessions)
