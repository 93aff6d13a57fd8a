"""A member of the group that means harm, against one node and beside an honest peer.

Mallory knows the shared seed and speaks the channel (`helpers.independent`), but none of the
library's own session code, so that nothing holds her to the rules. Whatever she tries, her session
is ended with a reason that the node's application can read, memory stays within its bounds, and the
honest peer, which talks with the node all the time, loses nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

from helpers.independent import (
    ABORT,
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
    REFUSED,
    RESUME,
    UNKNOWN,
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
from seigr_toolset_transmissions import controls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import Session, STTNode

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
    "an unknown frame": ([frame(10)], "protocol_error", "unknown type 10"),
    "an ABORT with a payload of the wrong size": (
        [frame(ABORT)],
        "protocol_error",
        "ABORT frame with a payload of 0 bytes",
    ),
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

Offence = tuple[list[bytes], str, str]
offences = pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)


@pytest.fixture
def few_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "MAX_CONTROLS", 1000)


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
async def test_who_breaks_the_rules_at_once_gets_no_session(offence: Offence) -> None:
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


@pytest.mark.usefixtures("few_controls")
@in_virtual_time
async def test_a_flood_of_records_without_a_frame_ends_the_session() -> None:
    async with scene() as here:
        channel = await here.open()
        for _ in range(1002):
            channel.write(b"")
        await here.log.until("session_closed")
        assert here.errors()[0] == ("limit_reached", "a flood of control frames")


@pytest.mark.usefixtures("few_controls")
@in_virtual_time
async def test_a_flood_over_several_sessions_counts_as_one() -> None:
    async with scene() as here:
        channels = [await here.open() for _ in range(4)]
        for channel in channels:
            for _ in range(300):
                channel.write(b"")
        await here.log.until("session_closed")
        assert here.errors("limit_reached") == [("limit_reached", "a flood of control frames")]


@pytest.mark.usefixtures("few_controls")
@in_virtual_time
async def test_what_one_peer_floods_with_is_not_counted_against_another() -> None:
    async with scene() as here:
        other = Keys(SHARED_SEED)
        mine, theirs = await here.open(), await here.open(other)
        for channel in (mine, theirs):
            for _ in range(900):
                channel.write(b"")
        await asyncio.sleep(3)
        assert here.errors() == []


# What is no record

GARBAGE = {
    "zeros": bytes(1000),
    "a record too short to be one": pack(">H", 15) + bytes(15),
    "a record of noise": pack(">H", 300) + bytes(range(256)) + bytes(44),
    "the longest record": b"\xff" * 65_537,
}


@pytest.mark.parametrize("established", [True, False])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@in_virtual_time
async def test_garbage_after_the_handshake_ends_the_connection(
    garbage: bytes, established: bool
) -> None:
    """It need not be the peer's: the session may go on over another one, for a time."""
    async with scene() as here:
        channel = await here.open() if established else (await here.dial())[0]
        channel.stream.transport.write(garbage)
        await channel.stream.ended.wait()
        await here.log.until("error")
        ((name, reason),) = here.errors()
        assert name == "protocol_error"
        assert "transport message" in reason or "not the next message of the peer" in reason
        assert len(here.node._registry.connections) == 1
        await asyncio.sleep(here.node.config.resume_window + 2)
        assert here.node.sessions == [here.pair.far]
        assert not here.node._registry.unconfirmed
        if established:
            assert here.errors()[-1][0] == "session_lost"


@in_virtual_time
async def test_a_repeated_record_ends_the_connection() -> None:
    async with scene() as here:
        channel = await here.open()
        record = channel.seal(frame(DATA, b"once"))
        channel.stream.transport.write(record * 2)
        await channel.stream.ended.wait()
        await here.log.until("error")
        assert here.errors()[0][0] == "protocol_error"
        assert (await here.node.endpoints.receive_from(here.mallory.node_id))[0] == b"once"


@pytest.mark.parametrize("begin", [b"", b"\xff", b"\xff\xff", b"\x00\xffhalf of"], ids=repr)
@in_virtual_time
async def test_a_record_that_makes_no_progress_is_not_waited_for(begin: bytes) -> None:
    """Bytes that arrive are a sign of life, and there are none."""
    async with scene() as here:
        channel = await here.open()
        began = asyncio.get_running_loop().time()
        channel.stream.transport.write(begin)
        await channel.stream.ended.wait()
        assert 25 < asyncio.get_running_loop().time() - began < 35
        await asyncio.sleep(here.node.config.resume_window + 1)
        assert here.errors() == [
            (
                "session_lost",
                "no connection for 120.0 s: messages not sent 0, sent but not acknowledged 0",
            )
        ]


@pytest.mark.parametrize("begin", [b"\xff", b"\xff\xff", b"\x00\xffhalf of"], ids=repr)
@in_virtual_time
async def test_a_record_that_drips_keeps_its_connection_while_it_makes_progress(
    begin: bytes,
) -> None:
    """An honest peer's link may be as slow. It takes the record's length, and harms nobody."""
    async with scene(ping_interval=4.0, ping_timeout=4.0) as here:
        channel = await here.open()
        channel.stream.transport.write(begin)
        for _ in range(15):
            await asyncio.sleep(3)  # ten times `ping_timeout` in all
            channel.stream.transport.write(b"\xff" * 10)
        await asyncio.sleep(3)
        assert not channel.stream.ended.is_set()
        far = here.session(channel)
        assert far is not None
        assert far._connection is not None
        assert len(far._connection._transport._rest) == len(begin) + 150  # type: ignore[attr-defined]
        stopped = asyncio.get_running_loop().time()
        await channel.stream.ended.wait()
        assert asyncio.get_running_loop().time() - stopped < 4
        assert here.node.get_session(here.pair.far.session_id) is here.pair.far


@in_virtual_time
async def test_what_a_frame_that_does_not_come_to_its_end_takes_is_bounded() -> None:
    async with scene() as here:
        channel = await here.open()
        channel.write(pack(">I", DATA << 28 | 65_536))
        for _ in range(2000):
            channel.write(bytes(32))
        await until(lambda: len(pieces_of(here.node, channel)) > 50)
        await asyncio.sleep(1)
        pieces = pieces_of(here.node, channel)
        assert sum(map(len, pieces)) == 64_000
        assert len(pieces) < 70


def pieces_of(node: STTNode, channel: Channel) -> list[bytes]:
    """The pieces of the unfinished frame of a session's connection."""
    found = node.get_session(channel.session_id)
    assert found is not None
    assert found._connection is not None
    return found._connection._decoder._pieces or []


# Openings


def stolen(here: Scene) -> dict[str, Any]:
    """To resume the honest peer's session, with all that Mallory could have learnt."""
    return {"session_id": here.pair.far.session_id, "incarnation": here.pair.far.peer_incarnation}


@in_virtual_time
async def test_the_session_of_somebody_else_cannot_be_resumed() -> None:
    async with scene() as here:
        _, welcome = await here.dial(kind=RESUME, epoch=1, **stolen(here))
        assert welcome == (UNKNOWN, 0, 0)
        await here.log.until("error")
        reason = "a session to be resumed that is not known here"
        assert here.errors() == [("handshake_failed", reason)]


@in_virtual_time
async def test_who_is_ended_does_not_learn_how_far_somebody_else_had_come() -> None:
    async with scene() as here:
        other = await (await here.nodes.start("carol")).connect(*address_of(here.node))
        await other.send(b"x")
        await other.close()
        _, welcome = await here.dial(kind=RESUME, epoch=1, session_id=other.session_id)
        assert welcome == (UNKNOWN, 0, 0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"epoch": 0}, "with an opening of epoch 0 after one of epoch 0"),
        ({"epoch": 1, "recv_next": 1}, "with an acknowledgement at frame 1, not from 0 to 0"),
        ({"epoch": 1, "credit": 0}, "with an acknowledgement that takes credit back"),
        ({"epoch": 1, "incarnation": bytes(16)}, "by a restarted dialer"),
    ],
)
@in_virtual_time
async def test_a_resumption_that_cannot_be_is_refused_and_the_session_goes_on(
    fields: dict[str, Any], reason: str
) -> None:
    async with scene() as here:
        channel = await here.open()
        resume: dict[str, Any] = {"kind": RESUME, "session_id": channel.session_id}
        _, welcome = await here.dial(**resume, **fields)
        assert welcome == (UNKNOWN, 0, 0)
        await here.log.until("error")
        assert here.errors() == [("handshake_failed", f"a session to be resumed {reason}")]
        channel.write(frame(DATA, b"still here"))
        data, _ = await here.node.endpoints.receive_from(here.mallory.node_id, timeout=5)
        assert data == b"still here"


@in_virtual_time
async def test_a_stale_epoch_is_refused_however_large_it_is() -> None:
    async with scene() as here:
        channel = await here.open()
        resume: dict[str, Any] = {"kind": RESUME, "session_id": channel.session_id}
        _, welcome = await here.dial(**resume, epoch=2**64 - 1)
        assert welcome.status == ACCEPTED
        _, welcome = await here.dial(**resume, epoch=2**64 - 1)
        assert welcome.status == UNKNOWN
        _, welcome = await here.dial(**resume, epoch=2**64 - 2)
        assert welcome.status == UNKNOWN


@in_virtual_time
async def test_the_end_of_an_old_connection_reaches_nobody_after_a_resumption() -> None:
    """The fence: what still comes over the old connection, good or bad, is not read."""
    async with scene() as here:
        channel = await here.open()
        resume: dict[str, Any] = {"kind": RESUME, "session_id": channel.session_id, "epoch": 1}
        new, welcome = await here.dial(**resume)
        assert welcome == (ACCEPTED, 0, WINDOW)
        channel.write(frame(DATA, b"too late"), frame(9))
        await asyncio.sleep(1)
        assert channel.stream.ended.is_set()
        new.write(frame(DATA, b"in time"))
        data, _ = await here.node.endpoints.receive_from(here.mallory.node_id, timeout=5)
        assert data == b"in time"
        assert here.errors() == []


# More than there may be


@in_virtual_time
async def test_sessions_beyond_those_of_one_peer_are_refused() -> None:
    async with scene() as here:
        channels = [await here.open() for _ in range(8)]
        for _ in range(5):
            channel, welcome = await here.dial()
            assert welcome.status == REFUSED
            await channel.stream.ended.wait()
        await here.log.until("error")
        reason = "a session was refused: max_sessions_per_peer is 8"
        assert here.errors() == [("limit_reached", reason)]
        assert len(here.node.sessions) == 9
        assert (await here.pair.dialer.connect(*address_of(here.node))).state == "open"
        await asyncio.sleep(2)
        assert [here.session(channel) is None for channel in channels] == [False] * 8


@in_virtual_time
async def test_sessions_that_are_accepted_and_not_used_count() -> None:
    async with scene() as here:
        channels = [(await here.dial())[0] for _ in range(8)]
        _, welcome = await here.dial()
        assert welcome.status == REFUSED
        for channel in channels:
            channel.stream.transport.abort()
        await asyncio.sleep(1)
        for _ in range(20):  # each takes the place of one that nobody can be waiting for
            channel, welcome = await here.dial()
            assert welcome.status == ACCEPTED
            channel.stream.transport.abort()
            await asyncio.sleep(0.1)
        assert len(here.node._registry.unconfirmed) <= 8
        await asyncio.sleep(here.node.config.resume_window + 2)
        assert not here.node._registry.unconfirmed


@in_virtual_time
async def test_sessions_beyond_those_of_the_node_are_refused_whoever_comes() -> None:
    async with scene(max_sessions=20) as here:
        welcomes = []
        for _ in range(30):
            channel, welcome = await here.dial(Keys(SHARED_SEED))
            channel.write(numbers(0, CREDIT))
            welcomes.append(welcome.status)
        assert welcomes == [ACCEPTED] * 19 + [REFUSED] * 11
        await here.log.until("error")
        assert here.errors() == [("limit_reached", "a session was refused: max_sessions is 20")]
        assert len(here.node.sessions) == 20


@in_virtual_time
async def test_of_suspended_sessions_without_end_the_oldest_are_given_up() -> None:
    async with scene(max_suspended=10) as here:
        for _ in range(30):
            channel = await here.open(Keys(SHARED_SEED))
            channel.stream.transport.abort()
            await asyncio.sleep(0.1)
            assert here.node.stats().suspended <= 10
        await here.log.until("error", 20)
        assert {name for name, _ in here.errors()} == {"session_lost"}
        assert all(reason.startswith("more than 10 sessions") for _, reason in here.errors())
        assert len(here.node.endpoints) == 11


@in_virtual_time
async def test_a_peer_that_resumes_all_the_time_does_not_make_events_pile_up() -> None:
    """The handler is slow: each turn of it covers as many resumptions as there were meanwhile."""
    async with scene() as here:
        channel = await here.open()
        slow = asyncio.Event()

        @here.node.events.on("session_resumed")
        async def wait(session_id: bytes) -> None:
            await slow.wait()

        for epoch in range(1, 300):
            resume: dict[str, Any] = {
                "kind": RESUME,
                "session_id": channel.session_id,
                "epoch": epoch,
            }
            _, welcome = await here.dial(**resume)
            assert welcome.status == ACCEPTED
        mallorys = here.session(channel)
        assert mallorys is not None
        assert mallorys.stats.resumes == 299
        assert mallorys._pump is not None
        assert len(mallorys._pump._steps) <= 4
        slow.set()


# More than the node may hold. Its application takes nothing of what Mallory sends.

LIMIT = 2048 * KIB
FIRST_WINDOW = (64 * KIB) + 64
FILLING = [frame(DATA, bytes(16 * KIB - 64))] * 4
"""All that the first credit allows."""


async def come_and_go(channel: Channel, messages: list[bytes]) -> None:
    """Use a session, and close it as one should."""
    channel.write(numbers(0, CREDIT), *messages, number(CLOSE, len(messages)))
    while (await channel.read()).kind != CLOSE_ACK:
        pass
    channel.write(numbers(0, CREDIT))
    await channel.stream.ended.wait()


def held_and_promised(here: Scene) -> int:
    stats = here.node.stats()
    return stats.buffered_bytes + stats.promised_bytes + stats.unacknowledged_bytes


async def settle(here: Scene, seconds: float = 700) -> None:
    """Long enough for the honest peer to need new credit, again and again."""
    before = here.pair.far.stats.bytes_received
    await asyncio.sleep(seconds)
    assert here.pair.far.stats.bytes_received - before > 2 * WINDOW
    assert held_and_promised(here) <= LIMIT


@in_virtual_time
async def test_many_that_use_all_the_credit_they_get_lose_nothing_and_the_honest_goes_on() -> None:
    async with scene(max_buffered_bytes=LIMIT) as here:
        channels = [await here.open(Keys(SHARED_SEED)) for _ in range(15)]
        given = [FIRST_WINDOW] * len(channels)

        async def fill(number: int) -> None:
            """Send what there is credit for, in messages of 1,000 bytes."""
            channel, sent = channels[number], 0
            while True:
                while sent + 1064 <= given[number]:
                    channel.write(frame(DATA, bytes(1000)))
                    sent += 1064
                kind, payload = await channel.read()
                if kind == ACK:
                    given[number] = int.from_bytes(payload[8:])
                elif kind == PING:
                    channel.write(frame(PONG, payload))

        filling = [asyncio.ensure_future(fill(number)) for number in range(len(channels))]
        await settle(here)
        assert here.errors() == []
        assert all(here.session(channel) for channel in channels)
        assert min(given) == FIRST_WINDOW
        assert here.node.stats().buffered_bytes > LIMIT // 3
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)


@in_virtual_time
async def test_one_that_comes_again_and_again_cannot_fill_the_nodes_memory() -> None:
    async with scene(max_buffered_bytes=LIMIT, inbox_bytes=2 * FIRST_WINDOW) as here:
        welcomes = []
        for _ in range(40):
            channel, welcome = await here.dial(Keys(SHARED_SEED))
            welcomes.append(welcome.status)
            if welcome.status == ACCEPTED:
                await come_and_go(channel, FILLING)
        assert welcomes[:15] == [ACCEPTED] * 15
        assert welcomes[-1] == REFUSED
        reason = "a session was refused: all of max_buffered_bytes is promised or in use"
        assert ("limit_reached", reason) in here.errors()
        await settle(here)
        for peer in here.node.endpoints:
            while peer != here.pair.dialer.node_id and here.node.endpoints.held_by(peer):
                await here.node.endpoints.receive_from(peer)
        _, welcome = await here.dial(Keys(SHARED_SEED))
        assert welcome.status == ACCEPTED


@in_virtual_time
async def test_a_message_left_unfinished_while_others_wait_for_its_room_ends_its_session() -> None:
    async with scene(max_buffered_bytes=LIMIT) as here:
        slow, *silent = [await here.open(Keys(SHARED_SEED)) for _ in range(15)]
        for channel in (slow, *silent):
            channel.write(frame(PART, bytes(60 * KIB)))
            await asyncio.sleep(0.1)
        for _ in range(10):
            assert not here.errors()
            slow.write(frame(PART, bytes(100)))
            await asyncio.sleep(2.6)
        lost = []
        for _ in range(3):
            slow.write(frame(PART, bytes(100)))
            await asyncio.sleep(10)
            lost.append(sum(here.session(channel) is None for channel in silent))
        # As many as had got the room that the others waited for; then nobody waits any more.
        assert 4 < lost[0] == lost[2] < len(silent)
        assert here.session(slow) is not None
        reason = "a message was left unfinished while memory was short"
        assert {why for name, why in here.errors("limit_reached")} == {reason}
        slow.write(frame(DATA, b"the end"))
        await until(lambda: here.node.endpoints.held_by(slow_id(here, slow)))


def slow_id(here: Scene, channel: Channel) -> bytes:
    far = here.session(channel)
    assert far is not None
    return far.peer_node_id


@in_virtual_time
async def test_sessions_whose_end_nobody_has_heard_of_yet_count() -> None:
    """Else they would pile up behind a slow handler."""
    async with scene() as here:
        slow = asyncio.Event()

        @here.node.events.on("session_closed")
        async def wait(session_id: bytes) -> None:
            await slow.wait()

        welcomes = []
        for _ in range(30):
            channel, welcome = await here.dial()
            welcomes.append(welcome.status)
            if welcome.status == ACCEPTED:
                await come_and_go(channel, [])
        assert welcomes == [ACCEPTED] * 8 + [REFUSED] * 22
        slow.set()
        await asyncio.sleep(0.1)
        _, welcome = await here.dial()
        assert welcome.status == ACCEPTED
