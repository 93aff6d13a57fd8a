"""Links that are thin, short-lived, or both: a session makes progress over any that moves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import Nodes, Pair, in_virtual_time
from helpers.thin_network import ThinNetwork
from seigr_toolset_transmissions.transports.memory import MemoryNetwork


def thin_nodes(rate: float, **link: Any) -> tuple[ThinNetwork, Nodes]:
    network = ThinNetwork(MemoryNetwork(), rate, **link)
    return network, Nodes(network, close_timeout=600)


def messages(sizes: list[int]) -> list[bytes]:
    return [bytes([number]) * size for number, size in enumerate(sizes)]


async def send_both_ways(pair: Pair, sizes: list[int]) -> None:
    """Send them, and see that each arrives once and in order, on both sides."""
    for message in messages(sizes):
        await pair.near.send(message)
        await pair.far.send(message)
    for node in (pair.listener, pair.dialer):
        received = [(await node.endpoints.receive_any())[0] for _ in sizes]
        assert received == messages(sizes)


@pytest.mark.parametrize("sender", ["dialer", "listener"])
@in_virtual_time
async def test_one_large_message_over_one_kilobyte_per_second(sender: str) -> None:
    network, nodes = thin_nodes(1000)
    async with nodes:
        pair = await nodes.pair()
        session, node = (pair.near, pair.listener)
        if sender == "listener":
            session, node = (pair.far, pair.dialer)
        message = bytes(60_000)
        session.send_nowait(message)
        async with asyncio.timeout(70):
            assert (await node.endpoints.receive_any())[0] == message
        assert pair.near.stats.resumes == 0
        assert sum(network.carried.values()) < 63_000


@in_virtual_time
async def test_much_at_once_each_way_over_one_kilobyte_per_second() -> None:
    """More than the transports' buffers hold, so they pause; bytes go out all the same."""
    network, nodes = thin_nodes(1000)
    async with nodes:
        pair = await nodes.pair()
        async with asyncio.timeout(700):
            await send_both_ways(pair, [60_000] * 10)
        assert network.dials == 1


@in_virtual_time
async def test_forty_sessions_share_a_link_and_each_gets_its_message_without_a_cut() -> None:
    count = 40
    network = ThinNetwork(MemoryNetwork(), 64_000, shared=True)
    async with Nodes(network, max_sessions_per_peer=count) as nodes:
        pairs = [await nodes.pair()]
        pairs += [await nodes.connect(pairs[0].dialer, pairs[0].listener) for _ in range(count - 1)]
        message = bytes(60_000)
        for pair in pairs:
            pair.far.send_nowait(message)
        async with asyncio.timeout(45):
            for pair in pairs:
                await pair.far.flush()
        assert network.dials == count
        assert sum(network.carried.values()) < 1.1 * count * len(message)
        for _ in pairs:
            assert (await pairs[0].dialer.endpoints.receive_any())[0] == message


@pytest.mark.parametrize(("rate", "life"), [(1000, 3), (1000, 1.5), (64_000, 1)])
@in_virtual_time
async def test_links_that_are_cut_again_and_again(rate: float, life: float) -> None:
    network, nodes = thin_nodes(rate, life=life)
    async with nodes:
        pair = await nodes.pair()
        async with asyncio.timeout(600):
            await send_both_ways(pair, [20_000, 0, 5, 300, 7000])
        carried = sum(network.carried.values())
        assert network.dials > 2 or rate > 1000
        assert carried < 5 * 2 * 27_305
        network.life = None
