"""What the hot paths cost, counted in function calls and bytes, which no machine's load changes.

The bounds are a little above what was counted when they were set. A change that exceeds one makes
that path more expensive: find out why, and raise the bound only if it is worth it. What counts is
calls of the package's own functions, and their calls of built-in ones, including each resumption of
a coroutine.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import seigr_toolset_transmissions
from helpers.cluster import cluster
from helpers.nodes import Nodes, address_of, in_virtual_time, memory_nodes
from seigr_toolset_transmissions import EndpointManager, EventEmitter

if TYPE_CHECKING:
    from types import FrameType

    from helpers.nodes import Pair

PACKAGE = str(Path(seigr_toolset_transmissions.__file__).parent)
MESSAGE = bytes(64)
SESSIONS = 100
ALL_TASKS_BYTES = 65_752
"""What asyncio's set of all tasks takes when there were a thousand."""


class Calls:
    """Counts calls while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        gc.collect()  # finalizers are none of the path's
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _note(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(PACKAGE):
            self.count += 1


async def exchange(pair: Pair, count: int, *, at_once: int) -> None:
    """Send messages from one node to another, and receive them, this many at a time."""
    send, receive = pair.dialer.endpoints.send_to_endpoint, pair.listener.endpoints.receive_any
    for _ in range(0, count, at_once):
        for _ in range(at_once):
            await send(pair.listener.node_id, MESSAGE)
        for _ in range(at_once):
            data, _ = await receive()
            assert data == MESSAGE


@pytest.mark.parametrize(("at_once", "bound"), [(1, 120), (500, 17)], ids=["lone", "in a stream"])
@in_virtual_time
async def test_a_message_through_two_nodes(at_once: int, bound: float) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await exchange(pair, 1000, at_once=at_once)
        with Calls() as calls:
            await exchange(pair, 1000, at_once=at_once)
    assert calls.count / 1000 <= bound


@in_virtual_time
async def test_a_message_through_two_hubs() -> None:
    async with cluster() as it:
        peer = await it.peer("alice", it.hubs[1])

        async def exchange() -> None:
            for _ in range(2):
                for _ in range(500):
                    await it.hubs[0].endpoints.send_to_endpoint(peer.node_id, MESSAGE)
                for _ in range(500):
                    await peer.endpoints.receive_any()

        await exchange()
        with Calls() as calls:
            await exchange()
    assert calls.count / 1000 <= 52  # at both hubs and the peer


async def ask(pair: Pair, count: int, *, at_once: int, timeout: float | None) -> None:
    """Send requests from one node to another, and receive the replies, this many at a time."""
    request = pair.near.request
    for _ in range(0, count, at_once):
        if at_once == 1:
            await request(MESSAGE, timeout=timeout)
        else:
            await asyncio.gather(*(request(MESSAGE, timeout=timeout) for _ in range(at_once)))


@pytest.mark.parametrize("timeout", [None, 10.0])
@pytest.mark.parametrize(("at_once", "bound"), [(1, 236), (500, 56)], ids=["lone", "in a stream"])
@in_virtual_time
async def test_a_request_and_its_reply(at_once: int, bound: float, timeout: float | None) -> None:
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        return data

    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.on_request(answer)
        await ask(pair, 1000, at_once=at_once, timeout=timeout)
        with Calls() as calls:
            await ask(pair, 1000, at_once=at_once, timeout=timeout)
    assert calls.count / 1000 <= bound


@pytest.mark.parametrize("at_once", [1, 500], ids=["lone", "in a stream"])
@in_virtual_time
async def test_a_message_is_not_dearer_where_there_were_requests(at_once: int) -> None:
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        return data

    counts = []
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.on_request(answer)
        for _ in range(2):
            await exchange(pair, 1000, at_once=at_once)
            with Calls() as calls:
                await exchange(pair, 1000, at_once=at_once)
            counts.append(calls.count / 1000)
            await ask(pair, 100, at_once=100, timeout=None)
    # Each record, of which a lone message takes four, looks for requests and replies.
    assert counts[1] <= counts[0] + (30 if at_once == 1 else 0.5)


@in_virtual_time
async def test_a_message_to_a_handler() -> None:
    received = asyncio.Semaphore(0)

    async def take(session_id: bytes, data: bytes) -> None:
        received.release()

    async def exchange(count: int) -> None:
        for _ in range(count):
            await pair.dialer.endpoints.send_to_endpoint(pair.listener.node_id, MESSAGE)
        for _ in range(count):
            await received.acquire()

    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("data_received", take)
        await exchange(1000)
        with Calls() as calls:
            await exchange(1000)
    assert calls.count / 1000 <= 17


@in_virtual_time
async def test_a_broadcast_for_each_recipient() -> None:
    async with memory_nodes(max_sessions_per_peer=SESSIONS) as nodes:
        pair = await nodes.pair()
        for _ in range(SESSIONS - 1):
            await nodes.connect(pair.dialer, pair.listener)
        ids = [session.session_id for session in pair.dialer.sessions]

        async def broadcast() -> None:
            assert all((await pair.dialer.send_to_sessions(ids, MESSAGE)).values())
            for _ in ids:
                await pair.listener.endpoints.receive_any()
            await asyncio.sleep(1)  # until it is acknowledged

        await broadcast()
        with Calls() as calls:
            await broadcast()
    assert calls.count / SESSIONS <= 170


@in_virtual_time
async def test_a_session_that_is_opened_and_closed() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        async def come_and_go(times: int) -> None:
            for _ in range(times):
                session = await pair.dialer.connect(*address_of(pair.listener))
                await session.close()

        await come_and_go(20)
        with Calls() as calls:
            await come_and_go(100)
    assert calls.count / 100 <= 1466  # on both sides together


@in_virtual_time
async def test_an_emit_with_one_handler() -> None:
    async def handle(value: int) -> None:
        pass

    events = EventEmitter()
    events.register("event", handle)
    with Calls() as calls:
        for value in range(1000):
            await events.emit("event", value=value)
    assert calls.count / 1000 <= 5.1  # two of them keep the handler's context variables to itself


@in_virtual_time
async def test_delivering_and_receiving() -> None:
    manager = EndpointManager()
    await manager.add_endpoint(b"an endpoint", ("192.0.2.1", 9000))
    with Calls() as calls:
        for _ in range(1000):
            await manager.deliver(b"an endpoint", MESSAGE)
            await manager.receive_any()
    assert calls.count / 1000 <= 21


class Allocated:
    """Counts the bytes that are allocated while it is entered, and still held at its end."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.bytes = tracemalloc.get_traced_memory()[0] - self._before
        tracemalloc.stop()


async def bytes_of_an_idle_session(nodes: Nodes) -> float:
    """What Python allocates for one end of a session; both ends are in this process."""
    async with nodes:
        pair = await nodes.pair()
        with Allocated() as allocated:
            for _ in range(SESSIONS):
                await nodes.connect(pair.dialer, pair.listener)
            await asyncio.sleep(1)
        return allocated.bytes / SESSIONS / 2


@in_virtual_time
async def test_the_memory_of_a_session_that_has_had_requests() -> None:
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        return data

    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.on_request(answer)

        async def ask() -> None:
            await asyncio.gather(*(pair.near.request(MESSAGE, timeout=1) for _ in range(1000)))
            await asyncio.sleep(1)

        await ask()
        with Allocated() as allocated:
            for _ in range(10):
                await ask()
    assert allocated.bytes <= ALL_TASKS_BYTES + 20_000


def test_the_memory_of_an_idle_session_over_tcp() -> None:
    # With the two ciphers of a session, for which OpenSSL allocates 5 KiB unseen, it is 10 KiB.
    nodes = Nodes(max_sessions_per_peer=SESSIONS + 1)
    assert asyncio.run(bytes_of_an_idle_session(nodes)) <= 5 * 1024


@in_virtual_time
async def test_the_memory_of_an_idle_session_without_its_transport() -> None:
    nodes = memory_nodes(max_sessions_per_peer=SESSIONS + 1)
    assert await bytes_of_an_idle_session(nodes) <= 3274


@in_virtual_time
async def test_the_memory_of_an_idle_endpoint() -> None:
    manager = EndpointManager()
    with Allocated() as allocated:
        for number in range(2000):
            await manager.add_endpoint(number.to_bytes(32), ("192.0.2.1", number))
    assert allocated.bytes / 2000 <= 700


_LARGE_MESSAGES = """
import asyncio, resource
from seigr_toolset_transmissions.transports import base

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def receive(part=memoryview(bytes(65_536))):
    parts = [bytes(part) for _ in range(16)]
    b"".join(parts)

async def main():
    base._shared_buffer()
    for _ in range(10):
        receive()
    before = faults()
    for _ in range(100):
        receive()
    print((faults() - before) // 100)

asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do otherwise")
def test_the_pages_of_a_large_message_are_used_again_by_the_next() -> None:
    # In a process of its own: what others have allocated decides where messages lie.
    done = subprocess.run(
        [sys.executable, "-c", _LARGE_MESSAGES],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert int(done.stdout) < 20  # 448 if the heap is trimmed after each
