"""A member of the group that means harm, against one node and beside an honest peer.

Mallory knows the shared seed and speaks the channel (`helpers.independent`), but none of the
library's own session code, so that nothing holds her to the rules. Whatever she tries, her session
is ended with a reason that the node's application can read, memory stays within its bounds, and the
honest peer, which talks with the node all the time, loses nothing. `test_hostile_shares` has what
she can do without breaking a rule.
"""

from __future__ import annotations

import asyncio
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

from helpers.hostile import CREDIT, KIB, WINDOW, Scene, asked, replied, scene
from helpers.independent import (
    ABORT,
    ACCEPTED,
    ACK,
    CANCEL,
    CLOSE,
    CLOSE_ACK,
    DATA,
    ENDED,
    PAD,
    PART,
    PING,
    PONG,
    REPLY,
    REQUEST,
    RESUME,
    UNKNOWN,
    WELCOME,
    Channel,
    Keys,
    Welcome,
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
from seigr_toolset_transmissions.protocol import controls

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode

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
    "an unknown frame": ([frame(13)], "protocol_error", "unknown type 13"),
    "a request without an id": ([frame(REQUEST, bytes(7))], "protocol_error", "too short to have"),
    "a skipped id": ([asked(1)], "protocol_error", "a request 1 when 0 was due"),
    "an id used twice": ([asked(0)] * 2, "protocol_error", "a request 0 when 1 was due"),
    "a huge id": ([asked(2**64 - 1)], "protocol_error", "when 0 was due"),
    "more open requests than may be": (
        [asked(n) for n in range(1025)],
        "limit_reached",
        "more than 1024 open requests",
    ),
    "a request over the size": (
        [frame(PART, bytes(64 * KIB))] * 2 + [frame(REQUEST, b"x")],
        "limit_reached",
        "longer than max_message_bytes",
    ),
    "requests beyond the credit": (
        [asked(n, bytes(60 * KIB)) for n in range(10)],
        "limit_reached",
        "bytes beyond the credit",
    ),
    "a frame of a request over the size": (
        [pack(">I", REQUEST << 28 | 65_537)],
        "limit_reached",
        "a frame of 65537 bytes",
    ),
    "a reply to nothing": ([replied(0)], "protocol_error", "not open"),
    "a reply to a huge id": ([replied(2**64 - 1)], "protocol_error", "not open"),
    "a reply that names nothing": ([frame(REPLY, bytes(8))], "protocol_error", "too short to name"),
    "a reply of no known status": ([replied(0, 4)], "protocol_error", "unknown status 4"),
    "parts that end as a reply to nothing": (
        [frame(PART, b"\0" * 8), frame(REPLY, b"\0")],
        "protocol_error",
        "not open",
    ),
    "parts that end as a request without an id": (
        [frame(PART, b"\0"), frame(REQUEST)],
        "protocol_error",
        "too short to have",
    ),
    "a CANCEL of what has not come": ([number(CANCEL, 0)], "protocol_error", "has not arrived"),
    "a CANCEL of what has come in part": (
        [frame(PART, bytes(8)), number(CANCEL, 0), frame(REQUEST)],
        "protocol_error",
        "has not arrived",
    ),
    "a CANCEL of the wrong size": (
        [frame(CANCEL)],
        "protocol_error",
        "CANCEL frame with a",
    ),
    "a flood of CANCELs": (
        [asked(0)] + [number(CANCEL, 0)] * 1100,
        "limit_reached",
        "a flood of control frames",
    ),
    "a request behind CLOSE": (
        [number(CLOSE, 0), asked(0)],
        "protocol_error",
        "a RequestEnd frame while the session is peer closed",
    ),
    "a CLOSE in the midst of a request": (
        [frame(PART, bytes(8)), number(CLOSE, 1)],
        "protocol_error",
        "a CLOSE at frame 1",
    ),
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
async def test_a_peer_that_breaks_the_rules_loses_the_session(
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
async def test_a_peer_that_breaks_the_rules_at_once_gets_no_session(offence: Offence) -> None:
    """The application never learned of the session, but it learns why there is none."""
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
async def test_one_peers_flood_is_not_counted_against_another() -> None:
    async with scene() as here:
        other = Keys(SHARED_SEED)
        mine, theirs = await here.open(), await here.open(other)
        for channel in (mine, theirs):
            for _ in range(900):
                channel.write(b"")
        await asyncio.sleep(3)
        assert here.errors() == []


# Bytes that are not a record

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
    """They need not be the peer's, so the session may continue over another connection."""
    async with scene() as here:
        channel = await here.open() if established else (await here.dial())[0]
        channel.stream.transport.write(garbage)
        await channel.stream.ended.wait()
        await here.log.until("error")
        ((name, reason),) = here.errors()
        assert name == "protocol_error"
        assert "transport message" in reason or "not the peer's next message" in reason
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
    """Bytes that arrive are a sign of life, but none arrive."""
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
                "no connection for 120.0 s",
            )
        ]


@pytest.mark.parametrize("begin", [b"\xff", b"\xff\xff", b"\x00\xffhalf of"], ids=repr)
@in_virtual_time
async def test_a_record_that_drips_keeps_its_connection_while_it_makes_progress(
    begin: bytes,
) -> None:
    """An honest peer's link may be as slow. It costs the record's length, and does no harm."""
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
        assert live(far)._connection is not None
        assert len(far._connection._transport._rest) == len(begin) + 150  # type: ignore[attr-defined]
        stopped = asyncio.get_running_loop().time()
        await channel.stream.ended.wait()
        assert asyncio.get_running_loop().time() - stopped < 4
        assert here.node.get_session(here.pair.far.session_id) is here.pair.far


@in_virtual_time
async def test_the_memory_of_an_unfinished_frame_is_bounded() -> None:
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
    connection = live(node.get_session(channel.session_id))._connection
    assert connection is not None
    return connection._decoder._pieces or []


# Openings


def stolen(here: Scene) -> dict[str, Any]:
    """Resuming the honest peer's session, with everything that Mallory could have learnt."""
    return {"session_id": here.pair.far.session_id, "incarnation": here.pair.far.peer_incarnation}


@in_virtual_time
async def test_another_nodes_session_cannot_be_resumed() -> None:
    async with scene() as here:
        _, welcome = await here.dial(kind=RESUME, epoch=1, **stolen(here))
        assert welcome == (UNKNOWN, 0, 0)
        await here.log.until("error")
        reason = "cannot resume a session that is not known here"
        assert here.errors() == [("handshake_failed", reason)]


@in_virtual_time
async def test_an_ended_peer_does_not_learn_how_far_another_had_come() -> None:
    async with scene() as here:
        other = await (await here.nodes.start("carol")).connect(*address_of(here.node))
        await other.send(b"x")
        await other.close()
        _, welcome = await here.dial(kind=RESUME, epoch=1, session_id=other.session_id)
        assert welcome == (UNKNOWN, 0, 0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"epoch": 0}, "cannot resume a session: an opening of epoch 0 after one of epoch 0"),
        (
            {"epoch": 1, "recv_next": 1},
            "cannot resume a session: an acknowledgement at frame 1, not from 0 to 0",
        ),
        (
            {"epoch": 1, "credit": 0},
            "cannot resume a session: an acknowledgement that takes credit back",
        ),
        (
            {"epoch": 1, "incarnation": bytes(16)},
            "a restarted dialer cannot resume a session",
        ),
    ],
)
@in_virtual_time
async def test_an_impossible_resumption_is_refused_and_the_session_continues(
    fields: dict[str, Any], reason: str
) -> None:
    async with scene() as here:
        channel = await here.open()
        resume: dict[str, Any] = {"kind": RESUME, "session_id": channel.session_id}
        _, welcome = await here.dial(**resume, **fields)
        assert welcome == (UNKNOWN, 0, 0)
        await here.log.until("error")
        assert here.errors() == [("handshake_failed", reason)]
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
async def test_the_end_of_an_old_connection_has_no_effect_after_a_resumption() -> None:
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
