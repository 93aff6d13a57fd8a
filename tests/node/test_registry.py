"""The books of a node: whatever its peers do, they do not grow."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from helpers.independent import ACCEPTED, DATA, NEW, Keys, Opening, dial, frame, numbers
from helpers.nodes import SHARED_SEED, address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.endpoints import directory
from seigr_toolset_transmissions.node import accepting, clones, registry

if TYPE_CHECKING:
    from helpers.independent import Channel
    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import STTNode

KIB = 1024
CREDIT = 1 << 40


async def come(nodes: Nodes, node: STTNode, keys: Keys) -> Channel:
    """Open a session as a member of the group, without this library's node."""
    opening = Opening(NEW, 1 << 22, keys.incarnation, credit=CREDIT)
    assert nodes.network is not None
    channel, _ = await dial(nodes.network, address_of(node), keys, opening)
    assert (await channel.welcome()).status == ACCEPTED
    channel.write(numbers(0, CREDIT))
    await until(lambda: node.get_session(channel.session_id) is not None)
    return channel


async def growth(life: Any, rounds: int) -> int:
    """Return by how many bytes memory grows while ``life`` is repeated."""
    tracemalloc.start()  # before the books are full: replacing an entry must count, too
    for _ in range(rounds // 2):
        await life()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(rounds):
        await life()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


@pytest.mark.parametrize("member", ["the same", "another each time"])
@pytest.mark.parametrize("mode", ["push", "pull"])
@in_virtual_time
async def test_members_that_come_and_go_leave_nothing_behind(
    member: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_TOMBSTONES", 32)  # these books are bounded by design,
    monkeypatch.setattr(accepting, "_FIRST_MESSAGES", 32)  # and here full from the start
    monkeypatch.setattr(clones, "_PEERS", 32)
    monkeypatch.setattr(directory, "_DEPARTED", 32)
    async with memory_nodes() as nodes:
        node = await nodes.listen()
        if mode == "push":

            @node.events.on("data_received")
            async def handle(session_id: bytes, data: bytes) -> None:
                """Take it."""

        losses = itertools.count()

        @node.events.on("error")
        async def look(error_type: str, details: dict[str, Any]) -> None:
            assert error_type == "session_lost"
            assert len(details["unsent"]) + len(details["unknown"]) == 4
            next(losses)

        keys = Keys(SHARED_SEED)
        numbered = itertools.count()

        async def live() -> None:
            """Connect, send something, acknowledge nothing, and leave."""
            nonlocal keys
            if member != "the same":
                keys = Keys(SHARED_SEED)
            channel = await come(nodes, node, keys)
            [session] = node.sessions
            for _ in range(4):
                session.send_nowait(bytes(16 * KIB))
            channel.write(frame(DATA, b"hello"))
            await asyncio.sleep(0.01)
            if mode == "pull":
                await node.endpoints.receive_any()
            if next(numbered) % 2:
                channel.stream.transport.abort()
                await asyncio.sleep(0)
            await node.kick(session.peer_node_id)
            channel.stream.transport.abort()
            await asyncio.sleep(0.01)

        # 200 reports with their messages would be 12.5 MiB.
        assert await growth(live, 200) < 32 * KIB
        assert next(losses) == 300
        assert not node._registry.peers
        assert not node._registry.unconfirmed
        assert not len(node.endpoints)
        assert await node.stop() == ()


@in_virtual_time
async def test_a_stop_returns_only_losses_of_that_stop() -> None:
    async with memory_nodes(close_timeout=1) as nodes:
        pair = await nodes.pair()
        node = pair.listener
        for connection in [*node._registry.connections, *pair.dialer._registry.connections]:
            connection.drop()
        pair.far.send_nowait(b"lost before")
        assert len(await node.kick(pair.dialer.node_id)) == 1
        keys = Keys(SHARED_SEED)
        channel = await come(nodes, node, keys)
        session = node.get_session(channel.session_id)
        assert session is not None
        session.send_nowait(b"lost with it")
        [error] = await node.stop()
        assert error.unknown == (b"lost with it",)
        await node.start(server_mode=True)
        assert await node.stop() == ()
