"""Delivering from other threads than the event loop's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import memory_nodes
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.errors import STTEndpointError

X = b"x"


async def test_a_thread_delivers_in_order_and_waits_for_room() -> None:
    def produce() -> None:
        for number in range(100):
            manager.deliver_threadsafe(X, bytearray(b"%d" % number)).result(timeout=30)

    manager = EndpointManager(inbox_messages=3)
    await manager.add_endpoint(X, None)
    producing = asyncio.create_task(asyncio.to_thread(produce))
    for number in range(100):
        assert await manager.receive_any(timeout=30) == (b"%d" % number, X)
    await producing


async def test_the_future_fails_as_deliver_does() -> None:
    manager = EndpointManager()
    delivering = await asyncio.to_thread(manager.deliver_threadsafe, X, b"1")
    with pytest.raises(STTEndpointError, match="unknown"):
        await asyncio.wrap_future(delivering)


async def test_a_delivery_that_waits_for_room_can_be_cancelled() -> None:
    manager = EndpointManager(inbox_messages=1)
    await manager.add_endpoint(X, None)
    await manager.deliver(X, b"1")
    delivering = await asyncio.to_thread(manager.deliver_threadsafe, X, b"2")
    delivering.cancel()
    assert await manager.receive_any() == (b"1", X)
    await asyncio.sleep(0)
    await manager.deliver(X, b"3")
    assert await manager.receive_any() == (b"3", X)


@pytest.mark.parametrize("arguments", [("x", b"1"), (X, "1")])
async def test_what_cannot_be_delivered_is_refused_at_once(arguments: tuple[Any, Any]) -> None:
    manager = EndpointManager()
    await manager.add_endpoint(X, None)
    with pytest.raises(TypeError):
        manager.deliver_threadsafe(*arguments)


async def test_a_nodes_endpoints_know_its_loop() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        await asyncio.to_thread(hub.endpoints.deliver_threadsafe, peer, b"from a thread")
        assert await hub.endpoints.receive_any(timeout=30) == (b"from a thread", peer)


def test_without_a_loop_or_after_its_end_a_delivery_is_an_error_at_once() -> None:
    async def make() -> EndpointManager:
        return EndpointManager()

    with pytest.raises(RuntimeError, match="know no event loop"):
        EndpointManager().deliver_threadsafe(X, b"1")
    manager = asyncio.run(make())
    with pytest.raises(RuntimeError, match="was closed"):
        manager.deliver_threadsafe(X, b"1")
