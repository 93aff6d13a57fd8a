"""One connection between a session and a transport: records in and out, and the fence."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from helpers.nodes import in_virtual_time, until
from helpers.session_pair import NoBudget
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.errors import STTAuthenticationError, STTProtocolError
from seigr_toolset_transmissions.protocol.frames import encode_data
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.noise import MAX_PLAINTEXT_BYTES, TAG_BYTES, Handshake
from seigr_toolset_transmissions.protocol.phase import Link
from seigr_toolset_transmissions.protocol.records import RECORD_HEADER_BYTES, seal
from seigr_toolset_transmissions.sessions.connection import (
    CLOSE_SECONDS,
    FIRST_WRITE_BYTES,
    MANY_FRAMES,
    WRITE_BYTES,
    Connection,
    FlushTurn,
)
from seigr_toolset_transmissions.sessions.loop_time import LoopTime

if TYPE_CHECKING:
    from seigr_toolset_transmissions.protocol.noise import Channel

PSK = bytes(32)


def channels() -> tuple[Channel, Channel]:
    """Both ends of a fresh channel."""
    sides = [
        Handshake(
            initiator=initiator,
            static=X25519PrivateKey.generate(),
            ephemeral=X25519PrivateKey.generate,
            psk=PSK,
        )
        for initiator in (True, False)
    ]
    for turn in range(3):
        writer, reader = sides[turn % 2], sides[1 - turn % 2]
        reader.read_message(writer.write_message(b""))
    return sides[0].finish(), sides[1].finish()


class FakeTransport:
    """Keeps what is written; ends on request."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.ended: list[str] = []
        self.reading: list[str] = []
        self.peer_address = ("192.0.2.1", 5)
        self.waiting = 0

    def write(self, data: bytes | bytearray) -> None:
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        self.reading.append("pause")

    def resume_reading(self) -> None:
        self.reading.append("resume")

    def abort(self) -> None:
        self.ended.append("abort")

    def close(self) -> None:
        self.ended.append("close")


class User:
    """A session that only records."""

    def __init__(self, machine: SessionMachine) -> None:
        self.machine = machine
        self.messages: list[bytes] = []
        self.progress = 0
        self.ends: list[Exception | None] = []

    def messages_arrived(self, messages: list[bytes]) -> None:
        self.messages += messages

    def progressed(self) -> None:
        self.progress += 1

    def connection_ended(self, connection: Connection, cause: Exception | None) -> None:
        self.ends.append(cause)


class End:
    """One end of a session, with everything below it."""

    transport: Any

    def __init__(self, channel: Channel, turn: FlushTurn, link: Link) -> None:
        config = NodeConfig()
        machine = SessionMachine(
            bytes(16),
            config,
            link=link,
            peer_max_message=config.max_message_bytes,
            peer_credit=config.receive_window_bytes if link is Link.UP else 0,
            budget=NoBudget(),
            now=0.0,
        )
        if link is Link.UP:
            machine.welcome()
        self.channel = channel
        self.turn = turn
        self.machine = machine
        self.user = User(machine)
        self.gone: list[Connection] = []
        self.transport = FakeTransport()
        self.connection = Connection(
            self.transport,
            channel,
            self.user,
            asyncio.get_running_loop(),
            turn,
            LoopTime(asyncio.get_running_loop()),
            self.gone.append,
        )

    def take(self) -> bytes:
        """What was written since the last call."""
        written = b"".join(self.transport.writes)
        self.transport.writes.clear()
        return written

    def feed(self, data: bytes) -> int:
        with memoryview(data) as view:
            return self.connection.bytes_received(view)


def pair() -> tuple[End, End]:
    """A dialer's and a listener's end, established."""
    ours, theirs = channels()
    turn = FlushTurn(asyncio.get_running_loop())
    dialer, listener = End(ours, turn, Link.OPENING), End(theirs, turn, Link.UP)
    listener.connection.flush()
    dialer.feed(listener.take())
    dialer.connection.flush()
    listener.feed(dialer.take())
    return dialer, listener


@in_virtual_time
async def test_messages_pass() -> None:
    dialer, listener = pair()
    for message in (b"one", b"", b"three"):
        dialer.machine.outbox.send(message)
    dialer.connection.flush()
    assert len(dialer.transport.writes) == 1  # one record for all of them
    data = dialer.take()
    assert listener.feed(data) == len(data)
    assert listener.user.messages == [b"one", b"", b"three"]


@in_virtual_time
async def test_records_are_taken_whole_however_the_bytes_come() -> None:
    dialer, listener = pair()
    for k in range(20):
        dialer.machine.outbox.send(b"%d" % k * 10)
        dialer.connection.flush()
    data, rest = dialer.take(), b""
    for k in range(len(data)):
        rest += data[k : k + 1]
        rest = rest[listener.feed(rest) :]
    assert rest == b""
    assert listener.user.messages == [b"%d" % k * 10 for k in range(20)]


@in_virtual_time
async def test_an_unfinished_record_is_left_to_the_transport() -> None:
    dialer, listener = pair()
    for message in (b"first", b"second"):
        dialer.machine.outbox.send(message)
        dialer.connection.flush()
    first, second = dialer.transport.writes
    assert listener.feed(first + second[:-1]) == len(first)
    assert listener.user.messages == [b"first"]
    assert listener.feed(second) == len(second)
    assert listener.user.messages == [b"first", b"second"]


@pytest.mark.parametrize("where", [0, 1, 2, 10, -1])
@in_virtual_time
async def test_a_tampered_record_ends_the_connection_and_delivers_nothing(where: int) -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(b"good")
    dialer.connection.flush()
    good = dialer.take()
    for message in (b"bad", b"good again"):
        dialer.machine.outbox.send(message)
        dialer.connection.flush()
    bad = bytearray(dialer.take())
    bad[where if where >= 0 else 20] ^= 1
    data = good + bytes(bad) + bytes(70_000)
    assert listener.feed(data) == len(data)
    assert listener.user.messages == [b"good"]
    (cause,) = listener.user.ends
    assert isinstance(cause, STTAuthenticationError)
    assert listener.transport.ended == ["abort"]
    # For good: even what is well formed is not read any more.
    assert listener.feed(good) == len(good)
    assert listener.user.messages == [b"good"]
    assert len(listener.user.ends) == 1


@in_virtual_time
async def test_a_replayed_record_ends_the_connection() -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(b"once")
    dialer.connection.flush()
    data = dialer.take()
    listener.feed(data)
    listener.feed(data)
    assert listener.user.messages == [b"once"]
    assert isinstance(listener.user.ends[0], STTAuthenticationError)


@pytest.mark.parametrize("plaintext", [b"", b"\x00\x00", b"\x80\0\0\x04pad"], ids=str)
@in_virtual_time
async def test_a_record_without_any_whole_frame_is_a_sign_of_life(plaintext: bytes) -> None:
    dialer, listener = pair()
    await asyncio.sleep(7)
    listener.feed(bytes(seal(dialer.channel.send_cipher, [plaintext])))
    assert listener.machine.last_received == 7
    assert listener.user.ends == []


@in_virtual_time
async def test_a_record_against_the_protocol_ends_the_connection() -> None:
    dialer, listener = pair()
    listener.feed(bytes(seal(dialer.channel.send_cipher, [b"\xf0\0\0\0"])))
    (cause,) = listener.user.ends
    assert isinstance(cause, STTProtocolError)
    assert "unknown type 15" in str(cause)
    assert listener.transport.ended == ["abort"]


@in_virtual_time
async def test_after_a_drop_nothing_reaches_the_session() -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(b"too late")
    dialer.connection.flush()
    data = dialer.take()
    progress = listener.user.progress
    listener.connection.drop()
    listener.connection.drop()
    assert listener.feed(data) == len(data)
    listener.connection.connection_lost(ConnectionResetError())
    assert listener.user.messages == []
    assert listener.user.ends == []
    assert listener.user.progress == progress
    assert set(listener.transport.ended) == {"abort"}
    assert listener.gone == [listener.connection]


@in_virtual_time
async def test_the_session_learns_of_the_end_of_the_transport() -> None:
    dialer, _ = pair()
    cause = ConnectionResetError()
    dialer.connection.connection_lost(cause)
    assert dialer.user.ends == [cause]
    assert dialer.gone == [dialer.connection]


@in_virtual_time
async def test_a_finished_connection_sends_the_rest_and_is_aborted_if_it_takes_too_long() -> None:
    dialer, _ = pair()
    dialer.connection.finish()
    assert dialer.transport.ended == ["close"]
    await asyncio.sleep(CLOSE_SECONDS + 0.1)
    assert dialer.transport.ended == ["close", "abort"]
    dialer.connection.connection_lost(None)
    assert dialer.user.ends == []


@in_virtual_time
async def test_a_finished_connection_that_ends_leaves_no_timer() -> None:
    dialer, _ = pair()
    dialer.connection.finish()
    dialer.connection.connection_lost(None)
    await asyncio.sleep(CLOSE_SECONDS + 0.1)
    assert dialer.transport.ended == ["close"]


@in_virtual_time
async def test_nothing_is_written_while_the_transport_takes_no_bytes() -> None:
    dialer, listener = pair()
    loop = asyncio.get_running_loop()
    dialer.connection.pause_writing()
    assert dialer.connection.stalled(loop.time()) == loop.time()
    dialer.machine.outbox.send(b"waits")
    dialer.connection.flush()
    dialer.connection.flush_soon()
    await asyncio.sleep(0)
    assert dialer.transport.writes == []
    dialer.connection.resume_writing()
    assert dialer.connection.stalled(loop.time()) is None
    listener.feed(dialer.take())
    assert listener.user.messages == [b"waits"]


@in_virtual_time
async def test_messages_sent_in_one_turn_go_out_together() -> None:
    dialer, listener = pair()
    for k in range(100):
        dialer.machine.outbox.send(b"%d" % k)
        dialer.connection.flush_soon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(dialer.transport.writes) == 2  # the first at once, the others in one record
    listener.feed(dialer.take())
    assert listener.user.messages == [b"%d" % k for k in range(100)]


@in_virtual_time
async def test_each_answer_to_received_messages_goes_out_at_once() -> None:
    dialer, listener = pair()
    for k in range(3):  # all in one turn of the loop
        dialer.machine.outbox.send(b"question %d" % k)
        dialer.connection.flush()
        listener.feed(dialer.take())
        listener.machine.outbox.send(b"answer %d" % k)
        listener.connection.flush_soon()
        assert len(listener.transport.writes) == 1
        dialer.feed(listener.take())
    assert dialer.user.messages == [b"answer 0", b"answer 1", b"answer 2"]


@in_virtual_time
async def test_each_lone_message_goes_out_at_once_even_if_nothing_was_read() -> None:
    dialer, _ = pair()
    for k in range(1, 5):
        dialer.machine.outbox.send(b"%d" % k)
        dialer.connection.flush_soon()
        assert len(dialer.transport.writes) == k
        await asyncio.sleep(0.002)
    assert len(dialer.transport.writes) == 4


@in_virtual_time
async def test_connections_share_a_turn_and_one_that_was_dropped_in_it_writes_no_more() -> None:
    turn = FlushTurn(asyncio.get_running_loop())
    ends = [End(channels()[1], turn, Link.UP) for _ in range(3)]
    for end in ends:
        end.connection.flush()  # its WELCOME
        end.take()
    for k in range(3):
        for end in ends:
            end.machine.outbox.send(b"%d" % k)
            end.connection.flush_soon()
    assert [len(end.transport.writes) for end in ends] == [1, 1, 1]
    ends[1].connection.drop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [len(end.transport.writes) for end in ends] == [2, 1, 2]
    assert turn.number == 1
    assert ends[0].connection.peer_address == ends[0].transport.peer_address


@in_virtual_time
async def test_an_acknowledgement_waits_for_company_but_not_long() -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(b"x")
    dialer.connection.flush()
    listener.feed(dialer.take())
    listener.take()
    for _ in range(3):
        listener.connection.acknowledge_later(0.025)
    await asyncio.sleep(0.02)
    assert listener.transport.writes == []
    await asyncio.sleep(0.01)
    assert len(listener.transport.writes) == 1
    dialer.feed(listener.take())
    assert dialer.machine.outbox.acked == 1


@in_virtual_time
async def test_an_acknowledgement_that_went_along_is_not_sent_again() -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(b"x")
    dialer.connection.flush()
    listener.feed(dialer.take())
    listener.connection.acknowledge_later(0.025)
    listener.machine.outbox.send(b"answer")
    listener.connection.flush()
    listener.take()
    await asyncio.sleep(1)
    assert listener.transport.writes == []


@in_virtual_time
async def test_the_first_writes_are_small_so_that_short_lived_connections_make_progress() -> None:
    dialer, listener = pair()
    for _ in range(2000):
        dialer.machine.outbox.send(bytes(1000))
    dialer.connection.flush()
    sizes = [len(write) for write in dialer.transport.writes]
    assert sizes[0] < 4 * FIRST_WRITE_BYTES
    assert sizes == sorted(sizes[:-1]) + sizes[-1:]
    assert max(sizes) < WRITE_BYTES + 64 * 1024
    rest = b""
    for write in dialer.transport.writes:
        rest = (rest + write)[listener.feed(rest + write) :]
    assert listener.user.messages == [bytes(1000)] * 2000


@in_virtual_time
async def test_a_session_that_was_cut_begins_with_smaller_records_each_twice_the_last() -> None:
    dialer, _ = pair()
    ours, theirs = channels()
    again = End(theirs, FlushTurn(asyncio.get_running_loop()), Link.UP)
    dialer.machine.outbox.send(bytes(40_000))
    dialer.machine.detach()
    epoch, recv_next, credit = dialer.machine.reopening()
    again.machine.resume(epoch, recv_next, credit)
    again.connection.flush()
    loop = asyncio.get_running_loop()
    dialer.connection = Connection(
        dialer.transport, ours, dialer.user, loop, dialer.turn, LoopTime(loop), print
    )
    dialer.feed(again.take())
    dialer.connection.flush()
    sizes = [len(write) for write in dialer.transport.writes]
    assert sizes[0] < 400
    written = 0
    for size in sizes:
        assert size <= 3 * max(written, 256)
        written += size
    rest = b""
    for write in dialer.transport.writes:
        rest = (rest + write)[again.feed(rest + write) :]
    assert again.user.messages == [bytes(40_000)]


@in_virtual_time
async def test_the_bytes_of_an_unfinished_record_are_a_sign_of_life() -> None:
    dialer, listener = pair()
    dialer.machine.outbox.send(bytes(1000))
    dialer.connection.flush()
    (record,) = dialer.transport.writes
    for count in range(1, 10):
        await asyncio.sleep(1)
        assert listener.feed(record[:count]) == 0
        assert listener.machine.last_received == count
    assert listener.user.messages == []


@pytest.mark.parametrize("size", [1000, 100_000], ids=["a record", "a frame of two records"])
@in_virtual_time
async def test_slow_bytes_from_a_peer_are_acknowledged_now_and_then(size: int) -> None:
    """Its bytes cannot be acknowledged yet, and it would take the silence for death."""
    dialer, listener = pair()
    dialer.machine.outbox.send(bytes(size))
    dialer.connection.flush()
    data, rest, heard = dialer.take(), b"", []
    for k in range(100):
        await asyncio.sleep(1)
        rest += data[k * len(data) // 100 : (k + 1) * len(data) // 100]
        rest = rest[listener.feed(rest) :]
        if answer := listener.take():
            heard.append(k)
            dialer.feed(answer)
    assert dialer.user.ends == []
    assert listener.user.messages == [bytes(size)]
    assert {later - earlier for earlier, later in pairwise(heard)} == {5}
    assert len(heard) >= 19


@in_virtual_time
async def test_after_our_close_slow_bytes_are_answered_without_an_acknowledgement() -> None:
    """It would take an ACK for the answer to its CLOSE_ACK."""
    dialer, listener = pair()
    listener.machine.close()
    listener.connection.flush()
    listener.take()  # the CLOSE is under way
    dialer.machine.outbox.send(bytes(1000))
    dialer.connection.flush()
    await asyncio.sleep(6)
    listener.connection.bytes_received(memoryview(dialer.take()[:-1]))
    assert len(listener.take()) == RECORD_HEADER_BYTES + TAG_BYTES + 4  # an empty PAD


@in_virtual_time
async def test_a_transport_that_sends_anything_is_not_stalled_however_slow() -> None:
    dialer, _ = pair()
    dialer.transport.waiting = 1000
    dialer.connection.pause_writing()
    for now in range(10, 100, 10):
        dialer.transport.waiting -= 1
        assert dialer.connection.stalled(now) == now
    for now in range(100, 200, 10):
        assert dialer.connection.stalled(now) == 90
    dialer.connection.resume_writing()
    assert dialer.connection.stalled(200) is None


# Fairness.


def many_records(end: End, count: int) -> bytes:
    """This many records without a whole frame in them: work that brings nothing."""
    return b"".join(bytes(seal(end.channel.send_cipher, [b""])) for _ in range(count))


@in_virtual_time
async def test_a_flood_of_records_is_read_a_little_in_each_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialer, listener = pair()
    loop: Any = asyncio.get_running_loop()
    receive = listener.machine.receive

    def work(frames: Any, now: float) -> list[bytes]:
        loop._virtual.now += 0.00001
        return receive(frames, now)

    monkeypatch.setattr(type(listener.machine), "receive", lambda _, *args: work(*args))
    data = many_records(dialer, 4000)
    done = listener.feed(data)
    # The time of one turn, and what is read without asking for it.
    assert 400 <= done / len(data) * 4000 <= 400 + 2 * MANY_FRAMES
    assert listener.transport.reading == ["pause"]
    turns = 1
    while done < len(data):
        await until(lambda: listener.transport.reading[-1] == "resume")
        before = loop.time()
        done += listener.feed(data[done:])
        assert loop.time() - before < 0.009
        turns += 1
    assert 5 <= turns <= 12
    assert not listener.user.ends


@in_virtual_time
async def test_a_peer_that_sends_little_is_read_from_while_others_wait_for_time() -> None:
    dialer, listener = pair()
    time = listener.connection._time
    loop: Any = asyncio.get_running_loop()
    time.until()
    loop._virtual.now += 1
    assert time.until() is None  # all time of this turn is used
    data = many_records(dialer, MANY_FRAMES - 1)
    assert listener.feed(data) == len(data)
    assert listener.transport.reading == []


@in_virtual_time
async def test_two_of_the_largest_records_are_read_without_a_look_at_the_time() -> None:
    dialer, listener = pair()
    time = listener.connection._time
    loop: Any = asyncio.get_running_loop()
    time.until()
    loop._virtual.now += 1
    assert time.until() is None  # all time of this turn is used
    frame = encode_data([bytes(MAX_PLAINTEXT_BYTES - 4)])
    data = b"".join(bytes(seal(dialer.channel.send_cipher, frame)) for _ in range(4))
    assert listener.feed(data) == len(data) // 2
    assert listener.transport.reading == ["pause"]
