"""The contract of every transport: dialing, listening, and addresses."""

from __future__ import annotations

import asyncio
import pickle
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.place import BURST, MIB, Place, connected
from helpers.recorder import Recorder, on, pattern, turns
from seigr_toolset_transmissions.transports.base import (
    READ_BYTES,
    WRITE_HIGH_BYTES,
)

# The stream.


async def test_bytes_arrive_whole_and_in_order_each_way(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        for number in range(100):
            client.transport.write(b"%d," % number)
            server.transport.write(b"%d;" % number)
        there = b"".join(b"%d," % number for number in range(100))
        back = b"".join(b"%d;" % number for number in range(100))
        await server.until_received(len(there))
        await client.until_received(len(back))
        assert server.data == there
        assert client.data == back


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_kind_of_bytes_is_written(place: Place, kind: type[Any]) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(kind(b"hello"))
        client.transport.write(kind(b""))
        client.transport.write(kind(b", peer"))
        await server.until_received(11)
        assert server.data == b"hello, peer"


async def test_a_receiver_may_write_from_its_callbacks(place: Place) -> None:
    client = Recorder(react=on("made", lambda: client.transport.write(b"hi")))
    server = Recorder(react=on("bytes", lambda: server.transport.write(b"hi there")))
    async with connected(place, client, server):
        await client.until_received(8)
        assert server.data == b"hi"
        assert client.data == b"hi there"


async def test_unconsumed_bytes_are_presented_again_with_more(place: Place) -> None:
    amounts = iter([1, 0, 4, 3])
    client, server = Recorder(), Recorder(take=lambda _: next(amounts))
    async with connected(place, client, server):
        for count, data in enumerate([b"abc", b"de", b"fgh"], start=1):
            client.transport.write(data)
            await server.until(lambda count=count: len(server.presented) >= count)  # type: ignore[misc]
        assert server.presented == [b"abc", b"bcde", b"bcdefgh"]
        client.transport.write(b"")
        client.transport.write(b"!")
        await server.until(lambda: len(server.presented) >= 4)
        assert server.presented[3] == b"fgh!"
        assert server.data == b"abcdefgh"


async def test_a_receiver_that_has_paused_reading_is_given_nothing_until_it_resumes(
    place: Place,
) -> None:
    client = Recorder()
    server = Recorder(
        take=lambda view: len(view) // 2,
        react=on("bytes", lambda: server.transport.pause_reading()),
    )
    async with connected(place, client, server):
        client.transport.write(b"0123")
        await server.until(lambda: bool(server.presented))
        client.transport.write(b"4567")
        await asyncio.sleep(0.02)
        assert server.presented == [b"0123"]
        server.react = lambda _: None
        server.take = len
        server.transport.resume_reading()
        await server.until_received(8)
        assert server.data == b"01234567"


async def test_unconsumed_bytes_are_presented_again_on_resuming_even_without_more(
    place: Place,
) -> None:
    client = Recorder()
    server = Recorder(
        take=lambda view: min(1, len(view)),
        react=on("bytes", lambda: server.transport.pause_reading()),
    )
    async with connected(place, client, server):
        client.transport.write(b"0123")
        for count in range(1, 5):
            await server.until_received(count)
            server.transport.resume_reading()
        await turns(5)
        assert [bytes(data) for data in server.presented] == [b"0123", b"123", b"23", b"3"]


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_end_that_came_while_reading_was_paused_is_reported_on_resuming(
    place: Place, how: str
) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        server.transport.pause_reading()
        client.transport.write(b"last words")
        getattr(client.transport, how)()
        await turns(3)
        server.transport.resume_reading()
        await server.until_lost()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_reading_may_be_paused_and_resumed_after_the_end(place: Place, how: str) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        server.transport.pause_reading()
        getattr(server.transport, how)()
        server.transport.pause_reading()
        server.transport.resume_reading()
        await server.until_lost()
        server.transport.resume_reading()
        server.transport.pause_reading()


async def test_a_message_nearly_as_large_as_the_read_buffer_can_be_awaited(place: Place) -> None:
    message = pattern(READ_BYTES - 1)
    server = Recorder(take=lambda view: len(view) if len(view) == len(message) else 0)
    client = Recorder()
    async with connected(place, client, server):
        for start in range(0, len(message), 50_000):
            client.transport.write(message[start : start + 50_000])
            await turns(2)
        await server.until_received(len(message))
        assert server.data == message


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sizes=st.lists(st.integers(0, 3000) | st.integers(0, 300_000), max_size=12),
    unit=st.integers(1, 5000),
    seed=st.integers(0, 2**32),
)
async def test_any_chunks_and_any_consumption_give_the_same_stream(
    place: Place, sizes: list[int], unit: int, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311
    message = pattern(sum(sizes), seed)

    def take(view: memoryview) -> int:
        # Whole units only, as a record layer does, and not always all of them.
        return rng.randint(0, len(view) // unit) * unit if len(view) < 200_000 else len(view)

    client, server = Recorder(), Recorder(take=take)
    async with connected(place, client, server):
        start = 0
        for size in sizes:
            client.transport.write(message[start : start + size])
            start += size
            if rng.random() < 0.5:
                await turns(1)
        await server.until(lambda: len(server.data) + len(server.left) == len(message))
        assert server.data + server.left == message


# Back-pressure.


async def test_the_writer_is_paused_and_resumed_and_nothing_is_lost(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        chunk = pattern(64 * 1024)
        for _ in range(BURST // len(chunk)):
            client.transport.write(chunk)
        await client.until(lambda: client.paused)
        await client.until(lambda: not client.paused)
        await server.until_received(BURST)
        assert server.data == chunk * (BURST // len(chunk))


async def test_the_waiting_bytes_are_counted_and_shrink_as_the_peer_reads(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        assert client.transport.waiting == 0
        chunk = pattern(64 * 1024)
        for _ in range(BURST // len(chunk)):
            client.transport.write(chunk)
        before = client.transport.waiting
        assert before > WRITE_HIGH_BYTES
        await client.until(lambda: not client.paused)
        assert client.transport.waiting < before
        await server.until_received(BURST)
        assert client.transport.waiting == 0


async def test_a_writer_that_heeds_the_pauses_keeps_little_waiting(place: Place) -> None:
    message, step = pattern(8 * MIB), 256 * 1024
    sent = 0
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        while sent < len(message):
            await client.until(lambda: not client.paused)
            client.transport.write(message[sent : sent + step])
            client.transport.write(message[sent + step : sent + 2 * step])
            sent += 2 * step
            await turns(1)
        await server.until_received(len(message))
        assert server.data == message


async def test_little_data_does_not_pause_the_writer(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(bytes(WRITE_HIGH_BYTES))
        await server.until_received(WRITE_HIGH_BYTES)
        client.transport.write(bytes(WRITE_HIGH_BYTES))
        await server.until_received(2 * WRITE_HIGH_BYTES)
        assert "pause" not in client.calls


# The end.


async def test_close_first_sends_what_was_written(place: Place) -> None:
    message = pattern(8 * MIB)
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(message)
        client.transport.close()
        await server.until_lost()
        await client.until_lost()
        assert server.data == message
        assert server.cause is None
        assert client.cause is None


async def test_close_sends_everything_even_if_the_peer_still_writes(place: Place) -> None:
    # Ending a TCP socket that has something to read destroys what is on its way to the peer.
    message = pattern(4 * MIB)
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        server.transport.write(bytes(4 * MIB))
        await client.until(lambda: bool(client.data))
        client.transport.write(message)
        client.transport.close()
        received = len(client.data)
        await server.until_lost()
        await client.until_lost()
        assert server.data == message
        assert server.cause is None
        assert len(client.data) == received, "no byte is handed over after close"


ENDINGS: dict[str, tuple[str, str, bool, bool]] = {
    # what the client does, what the server does, whether each is reset by the other
    "client closes": ("close", "", False, False),
    "server closes": ("", "close", False, False),
    "client aborts": ("abort", "", False, True),
    "server aborts": ("", "abort", True, False),
    "both close": ("close", "close", False, False),
    "both abort": ("abort", "abort", False, False),
    "client closes, server aborts": ("close", "abort", False, False),
    "client aborts, server closes": ("abort", "close", False, False),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("waiting", [0, 100_000])
async def test_the_end_is_reported_once_to_each_side(
    place: Place, ending: str, waiting: int
) -> None:
    by_client, by_server, client_reset, server_reset = ENDINGS[ending]
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        for side, action in ((client, by_client), (server, by_server)):
            if action:
                side.transport.write(bytes(waiting))
                getattr(side.transport, action)()
        await client.until_lost()
        await server.until_lost()
        for side, reset in ((client, client_reset), (server, server_reset)):
            assert isinstance(side.cause, ConnectionError) if reset else side.cause is None


async def test_close_and_abort_may_be_called_at_any_time_and_again(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.close()
        client.transport.close()
        client.transport.abort()
        client.transport.abort()
        client.transport.close()
        await client.until_lost()
        await server.until_lost()
        for side in (client, server):
            side.transport.write(b"too late")
            side.transport.close()
            side.transport.abort()
        await turns(5)


async def test_writes_after_close_or_abort_are_ignored(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(b"before")
        client.transport.close()
        for _ in range(20):
            client.transport.write(b"after")
        await server.until_lost()
        assert server.data == b"before"
        for _ in range(20):  # nor after the other side's end
            server.transport.write(b"after")
        await client.until_lost()
        client.transport.write(b"after")
        await turns(5)
    assert not caplog.records


async def test_writing_to_a_peer_that_is_gone_is_silent(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        server.transport.abort()
        while not client.lost:
            for _ in range(10):
                client.transport.write(b"anybody there?")
            await turns(1)
        assert isinstance(client.cause, ConnectionError)
    assert not caplog.records


async def test_abort_drops_bytes_that_wait_to_be_sent(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(bytes(BURST))
        client.transport.abort()
        await client.until_lost()
        await server.until_lost()
        assert len(server.data) < BURST
        assert isinstance(server.cause, ConnectionError)


async def test_abort_may_follow_a_close(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        client.transport.write(bytes(BURST))
        client.transport.close()
        client.transport.abort()
        await client.until_lost()
        await server.until_lost()
        assert client.cause is None
        assert isinstance(server.cause, ConnectionError)


async def test_the_end_is_reported_even_with_unconsumed_bytes(place: Place) -> None:
    client, server = Recorder(), Recorder(take=lambda _: 0)
    async with connected(place, client, server):
        client.transport.write(b"half a rec")
        client.transport.close()
        await server.until_lost()
        assert server.cause is None
        assert server.presented[-1] == b"half a rec"


@pytest.mark.parametrize("action", ["close", "abort"])
@pytest.mark.parametrize("call", ["made", "bytes"])
async def test_a_receiver_may_end_the_connection_from_its_callbacks(
    place: Place, call: str, action: str
) -> None:
    client = Recorder(react=on("made", lambda: client.transport.write(b"hi")))
    server = Recorder(take=lambda _: 0, react=on(call, lambda: getattr(server.transport, action)()))
    async with connected(place, client, server):
        await server.until_lost()
        await client.until_lost()
        assert server.cause is None
        assert len(server.presented) == (call == "bytes")


# Mistakes of the receiver.


@pytest.mark.parametrize("call", ["made", "bytes", "pause", "resume"])
@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_receiver_that_raises_loses_its_connection_with_that_error(
    place: Place, call: str, who: str
) -> None:
    def fail() -> None:
        raise LookupError(f"a bug in {call}")

    faulty, other = Recorder(react=on(call, fail)), Recorder()
    client, server = (faulty, other) if who == "client" else (other, faulty)
    async with connected(place, client, server):
        other.transport.write(b"something to read")
        faulty.transport.write(bytes(BURST))
        await faulty.until_lost()
        await other.until_lost()
        assert isinstance(faulty.cause, LookupError)
        assert isinstance(other.cause, ConnectionError)


@pytest.mark.parametrize("count", [-1, 6])
async def test_an_impossible_count_ends_the_connection(place: Place, count: int) -> None:
    client, server = Recorder(), Recorder(take=lambda _: count)
    async with connected(place, client, server):
        client.transport.write(b"hello")
        await server.until_lost()
        await client.until_lost()
        assert isinstance(server.cause, ValueError)
        assert isinstance(client.cause, ConnectionError)


async def test_a_full_read_buffer_left_untouched_ends_the_connection(place: Place) -> None:
    client, server = Recorder(), Recorder(take=lambda _: 0)
    async with connected(place, client, server):
        client.transport.write(bytes(READ_BYTES + 1))
        await server.until_lost()
        await client.until_lost()
        assert isinstance(server.cause, BufferError)
        assert len(server.presented[-1]) == READ_BYTES


async def test_a_full_read_buffer_may_be_left_by_a_receiver_that_closes(place: Place) -> None:
    def take(view: memoryview) -> int:
        if len(view) == READ_BYTES:
            server.transport.close()
        return 0

    client, server = Recorder(), Recorder(take=take)
    async with connected(place, client, server):
        client.transport.write(bytes(READ_BYTES))
        await server.until_lost()
        assert server.cause is None


async def test_a_view_that_was_kept_is_dead(place: Place) -> None:
    kept: list[memoryview] = []

    def take(view: memoryview) -> int:
        kept.append(view)
        return len(view)

    client, server = Recorder(), Recorder(take=take)
    async with connected(place, client, server):
        client.transport.write(b"hello")
        await server.until_received(5)
        with pytest.raises(ValueError, match="released"):
            kept[0].tobytes()


async def test_a_view_that_cannot_be_released_ends_the_connection(place: Place) -> None:
    kept: list[Any] = []

    def take(view: memoryview) -> int:
        kept.append(pickle.PickleBuffer(view))  # as array libraries do
        return len(view)

    client, server = Recorder(), Recorder(take=take)
    async with connected(place, client, server):
        client.transport.write(b"hello")
        await server.until_lost()
        assert isinstance(server.cause, BufferError)
        kept.clear()
