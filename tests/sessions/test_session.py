"""Signs of life: which silence ends a connection, and which does not."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import traceback
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import FaultNetwork
from helpers.nodes import (
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.relay import Kind, Relay
from helpers.sessions import SMALL, fill, numbered, receive
from seigr_toolset_transmissions import NodeConfig, Session
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTSessionClosedError,
    STTSessionLostError,
    STTWindowFullError,
)
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


# Messages.


@pytest.mark.parametrize("size", [0, 1, 1000, 65_519, 65_520, 262_144, 262_145, 1_000_000])
async def test_a_message_arrives_as_it_was_sent(size: int) -> None:
    message = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.send(message)
        await pair.far.send(message)
        assert await receive(pair.listener, 1) == [message]
        assert await receive(pair.dialer, 1) == [message]


async def test_the_largest_message_arrives_and_a_larger_one_is_refused() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        largest = bytes(NodeConfig().max_message_bytes)
        await pair.near.send(largest)
        for send in (pair.near.send, as_async(pair.near.send_nowait)):
            with pytest.raises(STTMessageSizeError, match=f"{len(largest) + 1} bytes"):
                await send(largest + b"!")
        await pair.near.send(b"next")
        assert await receive(pair.listener, 2) == [largest, b"next"]
        assert pair.near.stats.messages_sent == 2


async def test_the_smaller_limit_of_both_sides_counts() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen(config=NodeConfig(max_message_bytes=1000))
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener)
        for session in (pair.near, pair.far):
            await session.send(bytes(1000))
            with pytest.raises(STTMessageSizeError, match="limit of this session is 1000"):
                await session.send(bytes(1001))


def as_async(function: Callable[[bytes], None]) -> Any:
    async def call(data: bytes) -> None:
        function(data)

    return call


async def test_a_buffer_may_be_reused_right_after_the_send() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        buffer = bytearray(b"first")
        await pair.near.send(buffer)
        buffer[:] = b"other"
        pair.near.send_nowait(memoryview(buffer))
        buffer[:] = b"third"
        await pair.dialer.endpoints.send_to_endpoint(pair.listener.node_id, buffer)
        buffer[:] = b"xxxxx"
        assert await receive(pair.listener, 3) == [b"first", b"other", b"third"]


async def test_the_counts_of_both_sides_agree() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        for size in (0, 10, 300_000):
            await pair.near.send(bytes(size))
        await pair.near.flush()
        await receive(pair.listener, 3)
        near, far = pair.near.stats, pair.far.stats
        assert near.messages_sent == far.messages_received == 3
        assert near.bytes_sent == far.bytes_received == 300_010
        assert near.messages_received == far.messages_sent == 0
        assert near.unacknowledged_bytes == 0
        assert near.resumes == far.resumes == 0


async def test_both_ways_at_once() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        messages = numbered(2000)

        async def send(session: Session) -> None:
            for data in messages:
                await session.send(data)

        await asyncio.gather(send(pair.near), send(pair.far))
        assert await receive(pair.listener, 2000) == messages
        assert await receive(pair.dialer, 2000) == messages


# Flushing.


@in_virtual_time
async def test_a_flush_waits_for_the_acknowledgement() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        await pair.near.flush()  # nothing to wait for
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"unheard")
        flushing = asyncio.create_task(pair.near.flush())
        await asyncio.sleep(5)
        assert not flushing.done()
        # The silence is noticed, the session resumes over another cable, and the flush ends.
        await flushing
        assert await receive(pair.listener, 1) == [b"unheard"]
        assert pair.near.stats.unacknowledged_bytes == 0


async def test_a_flush_is_about_what_was_accepted_before_it() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"early")
        flushing = asyncio.create_task(pair.near.flush())
        await asyncio.sleep(0)
        await fill(pair.near)
        async with asyncio.timeout(9):
            await flushing


async def test_a_flush_does_not_wait_for_the_delayed_acknowledgement() -> None:
    async with Nodes(ack_delay=30) as nodes:
        pair = await nodes.pair()
        async with asyncio.timeout(9):
            for data in numbered(3):
                await pair.near.send(data)
                await pair.near.flush()
        assert pair.far.stats.messages_received == 3


@in_virtual_time
async def test_a_flush_of_a_lost_session_says_what_was_lost() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"unheard")
        flushing = asyncio.create_task(pair.near.flush())
        await asyncio.sleep(0)
        live(pair.near).lose("for this test")
        with pytest.raises(STTSessionLostError) as caught:
            await flushing
        assert caught.value.unknown == (b"unheard",)
        with pytest.raises(STTSessionLostError):
            await pair.near.flush()


@in_virtual_time
async def test_cancelled_waits_leave_nothing_behind() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"unheard")

        async def give_up(waiting: Callable[[], Coroutine[Any, Any, None]]) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1e-6):
                    await waiting()

        for _ in range(10):
            await give_up(pair.near.flush)
            await give_up(pair.near.wait_closed)
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(1000):
            await give_up(pair.near.flush)
            await give_up(pair.near.wait_closed)
        gc.collect()
        assert len(gc.get_objects()) - before < 100


@in_virtual_time
async def test_a_send_on_a_lost_session_says_how_it_was_lost() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        cause = STTSessionClosedError("the cause")
        pair.near.send_nowait(b"not acknowledged")
        live(pair.near).lose("for this test", cause)
        errors = []
        for _ in range(3):
            with pytest.raises(STTSessionLostError, match="for this test") as caught:
                await pair.near.send(b"too late")
            errors.append(caught.value)
            with pytest.raises(STTSessionLostError, match="for this test"):
                pair.near.send_nowait(b"too late")
            with pytest.raises(STTSessionLostError, match="for this test"):
                await pair.near.close()
        for error in errors:
            assert error.unknown == (b"not acknowledged",)
            assert error.__cause__ is cause
        # One error for each call: the tracebacks of all would pile up in a single one.
        assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1


@in_virtual_time
async def test_waiting_senders_learn_how_the_session_was_lost() -> None:
    async with memory_nodes(send_window_messages=1) as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"1")
        waiting = [asyncio.ensure_future(pair.near.send(b"2")) for _ in range(2)]
        await asyncio.sleep(0)
        live(pair.near).lose("for this test")
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, STTSessionLostError)
            assert "for this test" in str(error)


@in_virtual_time
async def test_a_send_on_a_properly_closed_session_reports_no_loss() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.close()
        with pytest.raises(STTSessionClosedError) as caught:
            await pair.near.send(b"too late")
        assert not isinstance(caught.value, STTSessionLostError)


@in_virtual_time
async def test_several_may_flush_and_give_up_as_the_session_is_lost() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"unheard")
        flushing = [asyncio.create_task(pair.near.flush()) for _ in range(3)]
        await asyncio.sleep(0)
        flushing[1].cancel()
        live(pair.near).lose("for this test")
        await asyncio.wait(flushing)
        assert flushing[1].cancelled()
        for task in (flushing[0], flushing[2]):
            assert isinstance(task.exception(), STTSessionLostError)


async def test_a_cancelled_flush_harms_nothing() -> None:
    async with Nodes(ack_delay=30) as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"x")
        flushing = asyncio.create_task(pair.near.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.wait([flushing])
        await pair.near.flush()


# Closing.


async def test_a_close_delivers_what_was_accepted() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        for data in numbered(1000):
            pair.near.send_nowait(data)
        await pair.near.close()
        assert pair.near.state == "closed"
        assert pair.near.error is None
        assert await receive(pair.listener, 1000) == numbered(1000)


async def test_a_close_may_be_repeated_and_awaited_by_several() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await asyncio.gather(*(pair.near.close() for _ in range(3)))
        await pair.near.close()
        await until(lambda: pair.far.state == "closed")
        await pair.far.close()
        assert pair.dialer.get_session(pair.near.session_id) is None


async def test_both_sides_may_close_at_once() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        for data in numbered(100):
            pair.near.send_nowait(data)
            pair.far.send_nowait(data)
        await asyncio.gather(pair.near.close(), pair.far.close())
        assert await receive(pair.listener, 100) == numbered(100)
        assert await receive(pair.dialer, 100) == numbered(100)
        assert pair.near.error is pair.far.error is None


async def test_a_close_while_the_peer_sends_loses_nothing_silently() -> None:
    """A message that the peer had accepted either arrives or is reported as lost."""
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        accepted = []
        try:
            for data in numbered(100_000):
                await pair.far.send(data)
                accepted.append(data)
                if data == b"500":
                    closing = asyncio.create_task(pair.near.close())
                if int(data) % 50 == 0:
                    await asyncio.sleep(0)
        except STTSessionClosedError:
            pass
        await closing
        await log.until("session_closed")
        received = await receive(pair.dialer, pair.near.stats.messages_received)
        assert received == accepted[: len(received)]
        lost: list[bytes] = []
        for error_type, details in log.errors:
            assert error_type == "session_lost"
            lost += details["unknown"] + details["unsent"]
        assert received + lost == accepted


async def test_a_cancelled_close_continues() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        closing = asyncio.create_task(pair.near.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await until(lambda: pair.near.state == pair.far.state == "closed")
        assert pair.near.error is None


@in_virtual_time
async def test_a_close_that_the_peer_does_not_answer_is_bounded_and_says_what_was_lost() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"arrives")
        await pair.near.flush()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"may have arrived")
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(STTSessionLostError) as caught:
            await pair.near.close()
        assert loop.time() - before == pytest.approx(5)
        assert caught.value.unknown == (b"may have arrived",)
        assert caught.value.unsent == ()
        assert caught.value.session_id == pair.near.session_id
        assert caught.value.peer_node_id == pair.listener.node_id
        assert pair.near.state == "closed"
        with pytest.raises(STTSessionLostError):
            await pair.near.close()


@in_virtual_time
async def test_a_close_without_anything_to_deliver_ends_quietly_even_if_unanswered() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.close()
        assert pair.near.state == "closed"


@in_virtual_time
async def test_after_a_close_both_sides_are_told_who_closed() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.close()
        await pair.far.wait_closed()
        for session, closer in ((pair.near, "this side"), (pair.far, "the peer")):
            with pytest.raises(STTSessionClosedError, match=f"^{closer} closed the session: "):
                await session.send(b"too late")


@in_virtual_time
async def test_the_loss_of_what_the_peer_did_not_wait_for_names_the_peer() -> None:
    async with memory_nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        await pair.far.close()
        await pair.near.wait_closed()
        said = r"^the peer closed the session \(messages not sent: [1-9]\d*; sent, but not ack"
        with pytest.raises(STTSessionLostError, match=said):
            await pair.near.send(b"too late")


async def test_a_closing_session_takes_no_more() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        live(pair.near).start_closing()
        assert pair.near.state == "closing"
        with pytest.raises(STTSessionClosedError, match="takes no more"):
            await pair.near.send(b"x")
        with pytest.raises(STTSessionClosedError):
            pair.near.send_nowait(b"x")


# Giving up.


@in_virtual_time
@pytest.mark.parametrize("who", ["dialer", "listener"])
async def test_an_aborted_session_is_lost_on_both_sides_at_once(who: str) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        near, far = (pair.near, pair.far) if who == "dialer" else (pair.far, pair.near)
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await near.send(b"received")
        await near.flush()
        far.send_nowait(b"of the other side")
        near.abort("for this test")
        assert near.state == "closed"
        before = asyncio.get_running_loop().time()
        await until(lambda: far.state == "closed")
        assert asyncio.get_running_loop().time() - before < 1
        assert far.error is not None
        assert str(far.error).startswith("the peer aborted the session (")
        assert near.error is not None
        assert str(near.error).startswith("for this test")
        for log in logs:
            await log.until("session_closed")
            assert [kind for kind, _ in log.errors] == ["session_lost"]
        receiver = pair.listener if who == "dialer" else pair.dialer
        assert await receive(receiver, 1) == [b"received"]
        near.abort("again")  # does nothing


@in_virtual_time
async def test_an_abort_does_not_wait_for_a_peer_that_reads_nothing() -> None:
    async with memory_nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        pair.near.abort()
        await until(lambda: pair.far.state == "closed")
        assert pair.near.error is not None
        assert pair.near.error.unsent


@in_virtual_time
async def test_a_suspended_session_is_aborted_in_silence() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        live(pair.near).cut("for this test")
        pair.near.abort()
        assert pair.near.state == "closed"
        live(pair.far).lose("for this test")


# The object.


@in_virtual_time
async def test_a_session_can_be_weakly_referenced_but_neither_copied_nor_pickled() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        assert weakref.ref(pair.near)() is pair.near
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="can neither be pickled nor copied"):
                attempt(pair.near)
        await pair.near.send(b"still in use")
        assert await receive(pair.listener, 1) == [b"still in use"]


# Pushing.


@in_virtual_time
async def test_messages_go_to_the_handlers_if_there_are_any_and_else_to_the_inbox() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pushed: list[bytes] = []
        seen: list[bytes] = []

        @pair.listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            assert session_id == pair.far.session_id
            pushed.append(data)
            if data == b"100":
                pair.listener.events.remove_handler("data_received", handle)
            await asyncio.sleep(0)

        @pair.listener.events.on_any
        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(kwargs["data"])

        messages = numbered(200)
        for data in messages[:150]:
            await pair.near.send(data)
        await pair.near.flush()
        for data in messages[150:]:  # into a queue that is being worked off
            await pair.near.send(data)
        await pair.near.flush()
        assert await receive(pair.listener, 99) == messages[101:]
        assert pushed == messages[:101]
        await until(lambda: len(seen) == len(messages))  # the inbox does not wait for watchers
        assert seen == messages


@in_virtual_time
async def test_a_handler_that_hangs_during_a_stop_is_cancelled_and_the_end_reported() -> None:
    async with memory_nodes(close_timeout=1) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)

        @pair.listener.events.on("data_received")
        async def hang(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(1e6)

        for data in numbered(3):
            await pair.near.send(data)
        await pair.near.flush()
        report = await pair.listener.stop()
        assert not report
        assert report.undelivered == {pair.dialer.node_id: tuple(numbered(3)[1:])}
        assert log.names == ["error", "session_closed", "peer_disconnected"]
        [(kind, details)] = log.errors
        assert kind == "undelivered"
        assert details["messages"] == tuple(numbered(3)[1:])


@in_virtual_time
async def test_messages_that_wait_for_the_inbox_go_there_when_the_session_ends() -> None:
    async with memory_nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        for data in numbered(6):
            await pair.near.send(data)
        await pair.near.close()
        await until(lambda: pair.far.state == "closed")
        assert await receive(pair.listener, 6) == numbered(6)


# What the application does with the endpoint.


@pytest.mark.parametrize("queued", [0, 3], ids=["inbox", "queue"])
@in_virtual_time
async def test_an_endpoint_that_is_retired_with_messages_in_it_takes_those_that_follow(
    queued: int,
) -> None:
    async with memory_nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        messages = numbered(2 + queued + 4)
        for data in messages[: 2 + queued]:
            await pair.near.send(data)
        await pair.near.flush()
        pair.listener._endpoints.retire_endpoint(pair.dialer.node_id)
        for data in messages[2 + queued :]:
            await pair.near.send(data)
        await pair.near.flush()
        await asyncio.sleep(1)
        assert await receive(pair.listener, len(messages)) == messages
        assert pair.near.stats.resumes == 0


# Memory.


async def test_a_sender_whose_peer_is_away_holds_its_window_and_no_more() -> None:
    async with (
        Nodes(max_message_bytes=65536, send_window_bytes=1 << 20, reconnect_delay=30) as nodes,
        Relay(("", 0)) as relay,
    ):
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        relay.down = True
        relay.links[0].cut(Kind.RST)
        await until(lambda: pair.near.state == "suspended")
        tracemalloc.start()
        try:
            for k in range(1000):
                try:
                    pair.near.send_nowait(bytearray(k.to_bytes(2, "big")) * 1000)
                except STTWindowFullError:
                    break
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 500 < k < 530
        assert held < 1.3 * (1 << 20)


async def test_an_idle_session_is_small() -> None:
    async with Nodes(MemoryNetwork(), max_sessions_per_peer=100) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        await nodes.connect(dialer, listener)
        gc.collect()
        tracemalloc.start()
        try:
            sessions = [await dialer.connect(*address_of(listener)) for _ in range(50)]
            await until(lambda: len(listener.sessions) == 51)
            await until(lambda: not listener._runtime._tasks and not dialer._runtime._tasks)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Both ends, their ciphers and their memory transports.
        assert held / len(sessions) < 16 * 1024
