"""A member of the group that means harm, against one node and beside an honest peer.

Mallory knows the shared seed and speaks the channel (`helpers.independent`), but none of the
library's own session code, so that nothing holds her to the rules. Whatever she tries, her session is
ended with a reason that the node's application can read, memory stays within its bounds, and the
honest peer, which talks with the node all the time, loses nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

from helpers.independent import (
    ACCEPTED,
    ACK,
    CLOSE,
    CLOSE_ACK,
    DATA,
    ENDED,
    NEW,
    PAD,
    PART,
    PING,
    PONG,
    RESUME,
    WELCOME,
    Channel,
    Keys,
    Opening,
    Welcome,
    dial,
    frame,
    number,
    numbers,
)
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Pair,
    address_of,
    in_virtual_time,
    memory_nodes,
    until,
)
from seigr_toolset_transmissions import session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import Session, STTNode

KIB = 1024
MAX_MESSAGE = 256 * KIB
WINDOW = 512 * KIB
SETTINGS: dict[str, Any] = {
    "max_message_bytes": MAX_MESSAGE,
    "receive_window_bytes": WINDOW,
    "inbox_bytes": 64 * KIB,
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
        """What the node's application was told: the types and reasons."""
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

        async def talk(count: itertools.count[int]) -> None:
            while True:
                message = next(count).to_bytes(8) * 16
                await asyncio.gather(pair.near.send(message), pair.far.send(message))
                await asyncio.sleep(0.05)

        sent = itertools.count()
        talking = [
            asyncio.ensure_future(talk(sent)),
            asyncio.ensure_future(receive(node, honest, received[0])),
            asyncio.ensure_future(receive(pair.dialer, node.node_id, received[1])),
        ]
        yield Scene(nodes, pair, EventLog(node), Keys(SHARED_SEED))
        await asyncio.sleep(1)
        talking[0].cancel()
        await asyncio.sleep(1)
        for task in talking[1:]:
            task.cancel()
        await asyncio.wait(talking)
        assert all(task.cancelled() for task in talking)
        assert pair.near.state == pair.far.state == "open"
        assert pair.near.stats.resumes == 0
        messages = [count.to_bytes(8) * 16 for count in range(next(sent))]
        assert len(messages) > 1
        assert received == (messages, messages)


# What no session survives

OFFENCES: dict[str, tuple[list[bytes], str, str]] = {
    "a message over the size": (
        [frame(PART, bytes(64 * KIB))] * 4 + [frame(DATA, b"x")],
        "limit_reached",
        "longer than max_message_bytes",
    ),
    "parts over the size": (
        [frame(PART, bytes(64 * KIB))] * 5,
        "limit_reached",
        "longer than max_message_bytes",
    ),
    "more bytes than the credit": (
        [frame(DATA, bytes(64 * KIB - 64))] * 10,
        "limit_reached",
        "bytes beyond the credit",
    ),
    "more empty messages than the credit": (
        [frame(DATA)] * (WINDOW // 64 + 1),
        "limit_reached",
        "64 bytes beyond the credit",
    ),
    "a frame over the size": (
        [pack(">I", DATA << 28 | 65_537)],
        "limit_reached",
        "a frame of 65537 bytes",
    ),
    "padding over the size": (
        [pack(">I", PAD << 28 | 65_537)],
        "limit_reached",
        "a frame of 65537 bytes",
    ),
    "an empty part": ([frame(PART)], "protocol_error", "DATA_PART frame without a payload"),
    "an unknown frame": ([frame(9)], "protocol_error", "unknown type 9"),
    "the last unknown frame": ([frame(15, b"x")], "protocol_error", "unknown type 15"),
    "a short ACK": ([frame(ACK, bytes(15))], "protocol_error", "ACK frame with a payload of 15"),
    "a long PING": ([frame(PING, bytes(9))], "protocol_error", "PING frame with a payload of 9"),
    "an acknowledgement of what was never sent": (
        [numbers(1, CREDIT)],
        "protocol_error",
        "an acknowledgement at frame 1",
    ),
    "credit taken back": ([numbers(0, CREDIT - 1)], "protocol_error", "takes credit back"),
    "a WELCOME": ([Welcome(ACCEPTED, 0, 0).encode()], "protocol_error", "a Welcome frame while"),
    "a WELCOME of no known status": (
        [frame(WELCOME, b"\xff" + bytes(16))],
        "protocol_error",
        "unknown status 255",
    ),
    "a PONG that answers nothing": ([number(PONG, 0)], "protocol_error", "answers no PING"),
    "a CLOSE too early": ([number(CLOSE, 1)], "protocol_error", "a CLOSE at frame 1, when 0"),
    "a CLOSE too late": (
        [frame(DATA, b"x"), number(CLOSE, 0)],
        "protocol_error",
        "a CLOSE at frame 0, when 1",
    ),
    "a CLOSE in the midst of a message": (
        [frame(PART, b"x"), number(CLOSE, 1)],
        "protocol_error",
        "a CLOSE at frame 1",
    ),
    "a second CLOSE": ([number(CLOSE, 0)] * 2, "protocol_error", "a second CLOSE"),
    "a message behind CLOSE": (
        [number(CLOSE, 0), frame(DATA)],
        "protocol_error",
        "a DATA frame while the session is peer closed",
    ),
    "a CLOSE_ACK that answers nothing": (
        [number(CLOSE_ACK, 0)],
        "protocol_error",
        "a CloseAck frame while the session is open",
    ),
    "a flood of PINGs": ([number(PING, 7)] * 65, "limit_reached", "a flood of PING frames"),
    "a flood of ACKs": ([numbers(0, CREDIT)] * 1002, "limit_reached", "a flood of control frames"),
    "a flood of padding": ([frame(PAD)] * 1002, "limit_reached", "a flood of control frames"),
}

offences = pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)


@pytest.fixture
def few_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_CONTROLS", 1000)


@pytest.mark.usefixtures("few_controls")
@offences
@in_virtual_time
async def test_who_breaks_the_rules_loses_the_session(
    offence: tuple[list[bytes], str, str],
) -> None:
    frames, error_type, reason = offence
    async with scene() as here:
        channel = await here.open()
        channel.write(*frames)
        await channel.stream.ended.wait()
        await here.log.until("session_closed")
        ((name, why), (lost, _)) = here.errors()
        assert (name, lost) == (error_type, "session_lost")
        assert reason in why
        details = here.log.errors[0][1]
        assert details["session_id"] == channel.session_id
        assert details["peer_node_id"] == here.mallory.node_id
        assert here.session(channel) is None
        _, welcome = await here.dial(kind=RESUME, session_id=channel.session_id, epoch=1)
        assert welcome.status == ENDED
        assert len(here.node._registry.connections) == 1


@pytest.mark.usefixtures("few_controls")
@offences
@in_virtual_time
async def test_who_breaks_the_rules_at_once_gets_no_session(
    offence: tuple[list[bytes], str, str],
) -> None:
    """The application has never heard of the session, but it hears why there is none."""
    frames, error_type, reason = offence
    async with scene() as here:
        channel, welcome = await here.dial()
        assert welcome.status == ACCEPTED
        channel.write(*([numbers(0, CREDIT)] if "credit taken" in reason else []), *frames)
        await channel.stream.ended.wait()
        await here.log.until("error")
        ((name, why), *_) = here.errors()
        assert name == error_type
        assert reason in why
        assert here.log.errors[0][1]["peer_node_id"] == here.mallory.node_id
        assert here.session(channel) is None
