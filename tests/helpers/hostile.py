"""Mallory, a member of the group that means harm, with a node and an honest peer beside her."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

from helpers.independent import (
    ACCEPTED,
    NEW,
    REPLY,
    REQUEST,
    Channel,
    Keys,
    Opening,
    Welcome,
    dial,
    frame,
    numbers,
)
from helpers.nodes import SHARED_SEED, EventLog, Pair, address_of, memory_nodes, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import Session, STTNode

__all__ = ["CREDIT", "KIB", "MAX_MESSAGE", "WINDOW", "Scene", "asked", "replied", "scene"]

KIB = 1024
MAX_MESSAGE = 128 * KIB
WINDOW = 256 * KIB
SETTINGS: dict[str, Any] = {
    "max_message_bytes": MAX_MESSAGE,
    "receive_window_bytes": WINDOW,
    "inbox_bytes": 64 * KIB,
    "max_sessions": 64,  # so that there is room for whole windows from the first
}
CREDIT = 1 << 40


@dataclass
class Scene:
    """A node, an honest peer that talks with it, and Mallory."""

    nodes: Nodes
    pair: Pair
    log: EventLog
    mallory: Keys

    @property
    def node(self) -> STTNode:
        return self.pair.listener

    async def dial(self, keys: Keys | None = None, **fields: Any) -> tuple[Channel, Welcome]:
        """Shake hands with the node; return the channel and the answer to this opening."""
        keys = keys or self.mallory
        opening = Opening(NEW, 1 << 22, keys.incarnation, credit=CREDIT)._replace(**fields)
        assert self.nodes.network is not None
        channel, _ = await dial(self.nodes.network, address_of(self.node), keys, opening)
        return channel, await channel.welcome()

    async def open(self, keys: Keys | None = None) -> Channel:
        """Open a session that the node's application knows of."""
        channel, welcome = await self.dial(keys)
        assert welcome.status == ACCEPTED
        channel.write(numbers(0, CREDIT))
        await until(lambda: self.session(channel) is not None)
        return channel

    def session(self, channel: Channel) -> Session | None:
        return self.node.get_session(channel.session_id)

    def errors(self, *names: str) -> list[tuple[str, str]]:
        """The errors that the node's application got: types and reasons."""
        return [(name, d["reason"]) for name, d in self.log.errors if not names or name in names]


@asynccontextmanager
async def scene(**settings: Any) -> AsyncIterator[Scene]:
    """Let an honest peer talk with a node meanwhile, and see that it loses nothing."""
    async with memory_nodes(**SETTINGS | settings) as nodes:
        pair = await nodes.pair()
        honest, node = pair.dialer.node_id, pair.listener
        received: tuple[list[bytes], list[bytes]] = ([], [])

        async def receive(at: STTNode, peer_node_id: bytes, into: list[bytes]) -> None:
            while True:
                into.append((await at.endpoints.receive_from(peer_node_id))[0])

        over = False

        async def talk() -> int:
            count = 0
            while not over:
                message = count.to_bytes(8) * 64
                await asyncio.gather(pair.near.send(message), pair.far.send(message))
                await asyncio.sleep(0.2)
                count += 1
            return count

        talking = asyncio.ensure_future(talk())
        receiving = [
            asyncio.ensure_future(receive(node, honest, received[0])),
            asyncio.ensure_future(receive(pair.dialer, node.node_id, received[1])),
        ]
        yield Scene(nodes, pair, EventLog(node), Keys(SHARED_SEED))
        await asyncio.sleep(1)
        over = True
        sent = await asyncio.wait_for(talking, 1)
        await asyncio.sleep(1)
        for task in receiving:
            task.cancel()
        await asyncio.wait(receiving)
        assert all(task.cancelled() for task in receiving)
        assert pair.near.state == pair.far.state == "open"
        assert pair.near.stats.resumes == 0
        for messages in received:
            assert [int.from_bytes(message[:8]) for message in messages] == list(range(sent))


def asked(request_id: int, data: bytes = b"") -> bytes:
    """A REQUEST."""
    return frame(REQUEST, request_id.to_bytes(8) + data)


def replied(request_id: int, status: int = 0, data: bytes = b"") -> bytes:
    """A REPLY."""
    return frame(REPLY, pack(">QB", request_id, status) + data)
