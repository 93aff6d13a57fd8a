"""A member of the group that listens, and means harm to anyone that dials it.

It knows the shared seed, so that a node that names nobody talks with it; `test_hostile_member` has
what both sides of a session may try alike.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from helpers.independent import (
    ACCEPTED,
    DATA,
    ENDED,
    PING,
    REFUSED,
    UNKNOWN,
    Channel,
    Keys,
    Opening,
    Reply,
    Stream,
    Welcome,
    accept,
    frame,
    number,
    numbers,
    recipient_of,
    start_noise,
)
from helpers.nodes import SHARED_SEED, EventLog, in_virtual_time, memory_nodes
from seigr_toolset_transmissions.errors import STTConnectError, STTHandshakeError, STTIdentityError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.transports.base import Address

CREDIT = 1 << 23


class Scene(NamedTuple):
    """A node that dials, and where Mallory listens."""

    node: STTNode
    log: EventLog
    address: Address
    mallory: Keys
    streams: asyncio.Queue[Stream]

    async def answer(self, *frames: bytes, version: int = 1) -> tuple[Channel, Opening]:
        """Shake hands with the dialer, and send these frames."""
        stream = await self.streams.get()
        payload = Reply(version, 1 << 22, self.mallory.incarnation)
        channel, opening = await accept(stream, self.mallory, payload)
        channel.write(*frames)
        return channel, opening


@asynccontextmanager
async def scene(nodes: Nodes) -> AsyncIterator[Scene]:
    assert nodes.network is not None
    streams: asyncio.Queue[Stream] = asyncio.Queue()
    listener = await nodes.network.listen(lambda: Stream(streams.put_nowait), "", 7)
    node = await nodes.start("alice")
    yield Scene(node, EventLog(node), listener.address, Keys(SHARED_SEED), streams)
    await listener.close()


NO_WELCOME = {
    "a message": [frame(DATA, b"x")],
    "an ACK": [numbers(0, CREDIT)],
    "a PING": [number(PING, 1)],
    "an unknown frame": [frame(10)],
    "a welcome of what was never sent": [Welcome(ACCEPTED, 1, CREDIT).encode()],
    "an end of what was never sent": [Welcome(ENDED, 1, 0).encode()],
    "two welcomes": [Welcome(ACCEPTED, 0, CREDIT).encode()] * 2,
}


@pytest.mark.parametrize("frames", NO_WELCOME.values(), ids=NO_WELCOME)
@in_virtual_time
async def test_a_dialer_without_a_proper_welcome_has_no_session(frames: list[bytes]) -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        channel, _ = await here.answer(*frames)
        with pytest.raises(STTConnectError):
            await connecting
        await channel.stream.ended.wait()
        assert here.node.sessions == []
        assert here.log.names == []


@in_virtual_time
async def test_a_dialer_left_waiting_gives_up_in_time() -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        await here.answer()
        with pytest.raises(STTConnectError, match="did not answer in time"):
            await connecting


@in_virtual_time
async def test_an_unexpected_listener_learns_nothing_about_the_dialer() -> None:
    """Not even which node it wants: the listener gets a first message for another, and no more."""
    async with memory_nodes() as nodes, scene(nodes) as here:
        bob = await nodes.listen("bob")
        connecting = asyncio.ensure_future(here.node.connect(*here.address, expect=bob.node_id))
        stream = await here.streams.get()
        noise = start_noise(here.mallory, initiator=False)
        hello = noise.read_message(await stream.read(64))
        recipient = hello[8:]
        assert recipient not in (bytes(8), recipient_of(hello[2:8], here.mallory.node_id))
        for known in (bob.node_id, here.node.node_id):
            assert known[:8] not in hello
        reply = Reply(1, 1 << 22, here.mallory.incarnation)
        stream.transport.write(bytes(noise.write_message(reply.encode())))
        with pytest.raises(EOFError):
            await stream.read(1)
        with pytest.raises(STTIdentityError):
            await connecting


@in_virtual_time
async def test_an_unknown_version_is_refused() -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        with pytest.raises(EOFError):
            await here.answer(version=2)
        with pytest.raises(STTHandshakeError, match="version 2"):
            await connecting


@in_virtual_time
async def test_a_dialer_refused_forever_gives_the_session_up_in_time() -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        channel, _ = await here.answer(Welcome(ACCEPTED, 0, CREDIT).encode())
        session = await connecting
        session.send_nowait(b"kept")
        began = asyncio.get_running_loop().time()
        attempts = 0
        while session.state != "closed":
            channel.stream.transport.abort()
            answering = asyncio.ensure_future(here.answer(Welcome(REFUSED, 0, 0).encode()))
            await asyncio.wait(
                (answering, asyncio.ensure_future(session.wait_closed())),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answering.done():
                channel, _ = answering.result()
                attempts += 1
            else:
                answering.cancel()
        assert 3 < attempts < 60
        assert asyncio.get_running_loop().time() - began < 125
        assert session.error is not None
        assert session.error.unsent + session.error.unknown == (b"kept",)


@pytest.mark.parametrize(
    "welcome",
    [Welcome(ACCEPTED, 5, CREDIT), Welcome(ACCEPTED, 0, 0), Welcome(ENDED, 2, 0)],
    ids=["accepted", "credit", "ended"],
)
@in_virtual_time
async def test_a_resuming_dialer_believes_no_impossible_number(welcome: Welcome) -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        channel, _ = await here.answer(Welcome(ACCEPTED, 0, CREDIT).encode())
        session = await connecting
        session.send_nowait(b"sent once")
        channel.stream.transport.abort()
        await here.answer(welcome.encode())
        await here.log.until("session_closed")
        assert [name for name, _ in here.log.errors] == ["protocol_error", "session_lost"]
        assert session.error is not None
        assert session.error.unsent + session.error.unknown == (b"sent once",)


@in_virtual_time
async def test_a_resuming_dialer_sends_nothing_to_a_restarted_listener() -> None:
    async with memory_nodes() as nodes, scene(nodes) as here:
        connecting = asyncio.ensure_future(here.node.connect(*here.address))
        channel, _ = await here.answer(Welcome(ACCEPTED, 0, CREDIT).encode())
        session = await connecting
        channel.stream.transport.abort()
        here.mallory.incarnation = bytes(16)
        with pytest.raises(EOFError):
            await here.answer(Welcome(UNKNOWN, 0, 0).encode())
        await here.log.until("session_closed")
        assert session.state == "closed"
