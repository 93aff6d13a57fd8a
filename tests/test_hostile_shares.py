"""A member of the group that wants more than its share, of sessions, events or memory.

Mallory, as in `test_hostile_member`, breaks no rule here, but opens and fills whatever she can. The
node stays within its limits, and the honest peer, which talks with it all the time, loses nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from helpers.hostile import CREDIT, KIB, WINDOW, Scene, scene
from helpers.independent import (
    ACCEPTED,
    ACK,
    CLOSE,
    CLOSE_ACK,
    DATA,
    PART,
    PING,
    PONG,
    REFUSED,
    RESUME,
    Channel,
    Keys,
    frame,
    number,
    numbers,
)
from helpers.nodes import (
    SHARED_SEED,
    address_of,
    in_virtual_time,
    live,
    until,
)

# Sessions and events


@in_virtual_time
async def test_sessions_beyond_one_peers_limit_are_refused() -> None:
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
async def test_sessions_accepted_and_never_used_count() -> None:
    async with scene() as here:
        channels = [(await here.dial())[0] for _ in range(8)]
        _, welcome = await here.dial()
        assert welcome.status == REFUSED
        for channel in channels:
            channel.stream.transport.abort()
        await asyncio.sleep(1)
        for _ in range(20):  # each replaces one that no caller can be waiting for
            channel, welcome = await here.dial()
            assert welcome.status == ACCEPTED
            channel.stream.transport.abort()
            await asyncio.sleep(0.1)
        assert len(here.node._registry.unconfirmed) <= 8
        await asyncio.sleep(here.node.config.resume_window + 2)
        assert not here.node._registry.unconfirmed


@in_virtual_time
async def test_sessions_beyond_the_nodes_limit_are_refused_for_everyone() -> None:
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
async def test_beyond_the_limit_the_oldest_suspended_sessions_are_given_up() -> None:
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
async def test_a_peer_that_keeps_resuming_does_not_make_events_pile_up() -> None:
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
        pump = live(mallorys)._pump
        assert pump is not None
        assert len(pump._steps) <= 4
        slow.set()


# Memory. The node's application takes nothing of what Mallory sends.

LIMIT = 2048 * KIB
FIRST_WINDOW = (64 * KIB) + 64
FILLING = [frame(DATA, bytes(16 * KIB - 64))] * 4
"""All that the first credit allows."""


async def come_and_go(channel: Channel, messages: list[bytes]) -> None:
    """Use a session, and close it properly."""
    channel.write(numbers(0, CREDIT), *messages, number(CLOSE, len(messages)))
    while (await channel.read()).kind != CLOSE_ACK:
        pass
    channel.write(numbers(0, CREDIT))
    await channel.stream.ended.wait()


def held_and_promised(here: Scene) -> int:
    stats = here.node.stats()
    return stats.buffered_bytes + stats.promised_bytes + stats.unacknowledged_bytes


async def settle(here: Scene, seconds: float = 700) -> None:
    """Wait so long that the honest peer needs new credit again and again."""
    before = here.pair.far.stats.bytes_received
    await asyncio.sleep(seconds)
    assert here.pair.far.stats.bytes_received - before > 2 * WINDOW
    assert held_and_promised(here) <= LIMIT


@in_virtual_time
async def test_peers_that_use_all_their_credit_lose_nothing_and_an_honest_one_continues() -> None:
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
async def test_a_peer_that_keeps_coming_back_cannot_fill_the_nodes_memory() -> None:
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
            while peer != here.pair.dialer.node_id and here.node._endpoints.held_by(peer):
                await here.node.endpoints.receive_from(peer)
        _, welcome = await here.dial(Keys(SHARED_SEED))
        assert welcome.status == ACCEPTED


@in_virtual_time
async def test_a_message_left_unfinished_while_others_wait_for_its_room_ends_its_session() -> None:
    async with scene(max_buffered_bytes=LIMIT, ping_timeout=900) as here:
        slow, *silent = [await here.open(Keys(SHARED_SEED)) for _ in range(15)]
        for channel in (slow, *silent):
            channel.write(frame(PART, bytes(60 * KIB)))
            await asyncio.sleep(0.1)
        for _ in range(10):
            assert not here.errors()
            slow.write(frame(PART, bytes(100)))
            await asyncio.sleep(2.6)
        lost = []
        for _ in range(12):
            slow.write(frame(PART, bytes(100)))
            await asyncio.sleep(10)
            lost.append(sum(here.session(channel) is None for channel in silent))
        # Those that had the room for which the others waited; then those that got it next, which
        # had 30 s of their own; until none waits any more.
        assert 0 < lost[0] == lost[2] < lost[3] < lost[-1] == lost[-4] < len(silent)
        assert here.session(slow) is not None
        reason = "a message was left unfinished while memory was short"
        assert {why for name, why in here.errors("limit_reached")} == {reason}
        slow.write(frame(DATA, b"the end"))
        await until(lambda: here.node._endpoints.held_by(slow_id(here, slow)))


@in_virtual_time
async def test_a_peer_whose_connection_broke_within_a_message_has_time_to_finish_it() -> None:
    async with scene(max_buffered_bytes=LIMIT, ping_timeout=900) as here:
        members = [Keys(SHARED_SEED) for _ in range(15)]
        channels = [await here.open(member) for member in members]
        for channel in channels:
            channel.write(frame(PART, bytes(60 * KIB)))
            await asyncio.sleep(0.1)
        resume = [{"kind": RESUME, "session_id": channel.session_id} for channel in channels]
        for channel in channels:
            channel.stream.transport.abort()
        await asyncio.sleep(100)
        assert not here.errors()
        for epoch, seconds in ((1, 20), (2, 20)):
            back = [await here.dial(members[k], epoch=epoch, **resume[k]) for k in range(15)]
            await asyncio.sleep(seconds)
            assert not here.errors("limit_reached")
            if epoch == 1:
                for channel, _ in back:
                    channel.stream.transport.abort()
        back[0][0].write(frame(PART, bytes(100)))
        await asyncio.sleep(20)  # 160 s after the last progress of the other, which comes and goes
        assert here.session(channels[0]) is not None
        assert here.session(channels[1]) is None
        reason = "a message was left unfinished while memory was short"
        assert {why for _, why in here.errors("limit_reached")} == {reason}
        back[0][0].write(frame(DATA, b"the end"))
        await until(lambda: here.node._endpoints.held_by(slow_id(here, channels[0])))


@in_virtual_time
async def test_a_message_whose_bytes_come_slowly_is_not_left_unfinished() -> None:
    async with scene(max_buffered_bytes=LIMIT, ping_timeout=900) as here:
        slow, *silent = [await here.open(Keys(SHARED_SEED)) for _ in range(15)]
        for channel in (slow, *silent):
            channel.write(frame(PART, bytes(60 * KIB)))
            await asyncio.sleep(0.1)
        record = slow.seal(frame(PART, bytes(1000)))
        for start in range(0, len(record), 100):  # one part, whose time is over long before its end
            slow.stream.transport.write(record[start : start + 100])
            await asyncio.sleep(10)
        assert here.session(slow) is not None
        assert any(here.session(channel) is None for channel in silent)


def slow_id(here: Scene, channel: Channel) -> bytes:
    far = here.session(channel)
    assert far is not None
    return far.peer_node_id


@in_virtual_time
async def test_sessions_whose_end_was_not_reported_yet_count() -> None:
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
