"""A session as its user sees it: sending, flushing, closing, surviving cuts, ending."""

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
from helpers.relay import Direction, Fault, Kind, Plan, Relay
from seigr_toolset_transmissions import NodeConfig, Session
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTMessageSizeError,
    STTSessionClosedError,
    STTSessionLostError,
    STTWindowFullError,
)
from seigr_toolset_transmissions.node import registry
from seigr_toolset_transmissions.node.accepting import Acceptor
from seigr_toolset_transmissions.protocol.frames import Welcome, WelcomeStatus
from seigr_toolset_transmissions.sessions.session import LiveSession
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SMALL: dict[str, Any] = {
    "max_message_bytes": 1024,
    "send_window_bytes": 4096,
    "receive_window_bytes": 4096,
    "inbox_messages": 1,
}
"""Three messages of a thousand bytes fill a window; nothing waits in the inbox."""
KILO = b"k" * 1000


def numbered(count: int) -> list[bytes]:
    return [b"%d" % k for k in range(count)]


async def receive(node: Any, count: int) -> list[bytes]:
    return [(await node.endpoints.receive_any(timeout=9))[0] for _ in range(count)]


async def fill(session: Session) -> int:
    """Send until the peer's window and our own are full; return how many messages that took."""
    count = 0
    while True:
        try:
            session.send_nowait(KILO)
            count += 1
        except STTWindowFullError:
            # The peer may still grant credit for what it has put into its inbox.
            before = session.stats.unacknowledged_bytes
            await asyncio.sleep(0.05)
            if session.stats.unacknowledged_bytes == before:
                return count


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


# A full window.


async def test_send_nowait_reports_a_full_window_at_once() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        assert count == 1 + 3 + 3
        with pytest.raises(STTWindowFullError, match="send_window_bytes"):
            pair.near.send_nowait(KILO)
        assert pair.near.stats.messages_sent == count
        assert await receive(pair.listener, count) == [KILO] * count
        await pair.near.flush()
        pair.near.send_nowait(KILO)


async def test_a_window_of_messages_is_full_too() -> None:
    async with Nodes(send_window_messages=5) as nodes:
        pair = await nodes.pair()
        for data in numbered(5):
            pair.near.send_nowait(data)
        with pytest.raises(STTWindowFullError, match="send_window_messages"):
            pair.near.send_nowait(b"6")
        await pair.near.flush()
        pair.near.send_nowait(b"6")


async def test_senders_that_wait_are_served_in_order() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(bytes([k]) * 1000)) for k in range(10)]
        await asyncio.sleep(0)
        # A send_nowait must not overtake them either, even if its message is small enough to fit.
        with pytest.raises(STTWindowFullError):
            pair.near.send_nowait(b"")
        assert await receive(pair.listener, count) == [KILO] * count
        assert await receive(pair.listener, 10) == [bytes([k]) * 1000 for k in range(10)]
        await asyncio.gather(*waiting)


@pytest.mark.parametrize("which", [0, 2, 4])
async def test_a_cancelled_send_was_not_accepted(which: int) -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(bytes([k]) * 1000)) for k in range(5)]
        await asyncio.sleep(0)
        waiting[which].cancel()
        await asyncio.wait([waiting[which]])
        assert waiting[which].cancelled()
        expected = [KILO] * count + [bytes([k]) * 1000 for k in range(5) if k != which]
        assert await receive(pair.listener, count + 4) == expected
        await pair.near.close()
        assert pair.far.stats.messages_received == count + 4


async def test_a_send_cancelled_in_the_turn_of_its_wake_up_passes_its_turn_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        first = asyncio.create_task(pair.near.send(b"1" * 1000))
        second = asyncio.create_task(pair.near.send(b"2" * 1000))
        await asyncio.sleep(0)
        wake = live(pair.near)._wake_sender

        def wake_and_cancel() -> None:
            wake()
            first.cancel()

        monkeypatch.setattr(LiveSession, "_wake_sender", lambda _: wake_and_cancel())
        received = await receive(pair.listener, 1)
        await until(first.done)
        monkeypatch.undo()
        assert first.cancelled()
        received += await receive(pair.listener, count)
        assert received == [KILO] * count + [b"2" * 1000]
        await second


async def test_waiting_senders_learn_of_the_close() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(KILO)) for _ in range(3)]
        await asyncio.sleep(0)
        live(pair.near).start_closing()
        for task in waiting:
            with pytest.raises(STTSessionClosedError):
                await task


async def test_waiting_senders_learn_of_the_peers_close() -> None:
    async with Nodes(**SMALL, close_timeout=0.3) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(KILO)) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(pair.far.close())
        for task in waiting:
            with pytest.raises(STTSessionClosedError):
                await task
        await asyncio.wait([closing])


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


async def test_a_closing_session_takes_no_more() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        live(pair.near).start_closing()
        assert pair.near.state == "closing"
        with pytest.raises(STTSessionClosedError, match="accepts no more"):
            await pair.near.send(b"x")
        with pytest.raises(STTSessionClosedError):
            pair.near.send_nowait(b"x")


# Going on after a cut.


@pytest.mark.parametrize("kind", [Kind.FIN, Kind.RST])
@pytest.mark.parametrize("direction", [Direction.OUT, Direction.IN])
async def test_a_session_continues_after_a_cut(kind: Kind, direction: Direction) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(*(Plan(Fault(direction, 20_000 * k + 7919, kind)) for k in range(4)))
        pair = await nodes.connect(dialer, listener, relay.address)
        logs = [EventLog(dialer), EventLog(listener)]
        messages = [b"%d " % k * 200 for k in range(300)]

        async def send(session: Session) -> None:
            for data in messages:
                await session.send(data)
                await asyncio.sleep(0)
            await session.flush()

        await asyncio.gather(send(pair.near), send(pair.far))
        assert await receive(listener, 300) == messages
        assert await receive(dialer, 300) == messages
        assert len(relay.links) > 1
        assert pair.near.stats.resumes == len(relay.links) - 1
        await pair.near.close()
        for log in logs:
            await log.until("session_closed")
            names = [n for n in log.names if n.startswith("session_")]
            assert names[:-1:2] == ["session_suspended"] * (len(relay.links) - 1)
            assert names[1::2] == ["session_resumed"] * (len(relay.links) - 1)
            assert all(k == {"session_id": pair.near.session_id} for k in log.of(names[0]))
            assert log.errors == []


async def test_a_cut_that_only_one_side_sees_is_reported_on_both() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        logs = [EventLog(dialer), EventLog(listener)]
        link = relay.links[0]
        link.swallow(Direction.OUT)  # the listener sees neither bytes nor the end of the stream
        link.sides[Direction.OUT].reset()
        await pair.near.send(b"over the next one")
        assert await receive(listener, 1) == [b"over the next one"]
        for log in logs:
            await log.until("session_resumed")
            assert log.names == ["session_suspended", "session_resumed"]


async def test_messages_sent_while_suspended_wait() -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        relay.down = True
        relay.links[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        for data in numbered(10):
            await pair.near.send(data)
            await pair.far.send(data)
        info = dialer.endpoints.get_endpoint(listener.node_id)
        assert info is not None
        assert info["state"] == "suspended"
        assert dialer.stats().suspended == listener.stats().suspended == 1
        relay.down = False
        assert await receive(listener, 10) == numbered(10)
        assert await receive(dialer, 10) == numbered(10)
        await until(lambda: pair.near.state == pair.far.state == "open")


@in_virtual_time
async def test_the_end_of_a_connection_that_was_replaced_changes_nothing() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        old = live(pair.far)._connection
        assert old is not None
        network.cables[0].hold()
        live(pair.near).cut("for this test")
        await pair.dialer.events.wait_for("session_resumed", timeout=1)
        await pair.near.flush()
        network.cables[0].release()
        live(pair.far).connection_ended(old, ConnectionResetError())
        assert pair.far.state == "open"
        await pair.near.send(b"x")
        assert await receive(pair.listener, 1) == [b"x"]


@pytest.mark.parametrize("direction", [Direction.OUT, Direction.IN])
async def test_a_tampered_record_is_never_delivered(direction: Direction) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(flip={(direction, 5000): 0x10}), Plan(flip={(direction, 3000): 0x01}))
        pair = await nodes.connect(dialer, listener, relay.address)
        messages = [b"%d " % k * 100 for k in range(200)]

        async def send(session: Session) -> None:
            for data in messages:
                await session.send(data)
                await asyncio.sleep(0)
            await session.flush()

        await asyncio.gather(send(pair.near), send(pair.far))
        assert await receive(listener, 200) == messages
        assert await receive(dialer, 200) == messages
        assert len(relay.links) == 3
        assert pair.near.stats.messages_received == pair.far.stats.messages_received == 200


@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
@pytest.mark.parametrize("what", ["the last record", "all records"])
async def test_old_bytes_that_come_again_are_never_delivered(
    direction: Direction, what: str
) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        outward = direction is Direction.OUT
        session, node = (pair.near, listener) if outward else (pair.far, dialer)
        recorded = relay.links[0].recorded[direction]
        handshake = 224 if outward else 160
        start = len(recorded) if what == "the last record" else handshake
        await session.send(b"once")
        await session.flush()
        old = bytes(recorded[start:])
        # First on the connection on which they came, then on the next one.
        for number in (1, 2):
            relay.links[-1].insert(direction, old)
            await until(lambda: len(relay.links) > number)  # noqa: B023  it ends in this round
            await session.send(b"after %d" % number)
            await session.flush()
        assert await receive(node, 3) == [b"once", b"after 1", b"after 2"]
        assert node.stats().buffered_bytes == 0


async def test_bytes_that_come_slowly_and_in_slices_change_nothing() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(delay=0.002, slice=7))
        pair = await nodes.connect(dialer, listener, relay.address)
        messages = numbered(50)
        for data in messages:
            await pair.near.send(data)
            await pair.far.send(data)
        assert await receive(listener, 50) == messages
        assert await receive(dialer, 50) == messages
        await pair.near.flush()
        assert pair.near.rtt is not None
        assert pair.near.rtt >= 0.003


@in_virtual_time
async def test_a_session_whose_listener_closed_unheard_ends_cleanly() -> None:
    """Its CLOSE_ACK is lost, and its connection still seems alive when the dialer is back."""
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.near.send(b"last words")
        network.cables[0].cut(Kind.BLACK_HOLE)
        live(pair.near).start_closing()
        live(pair.near).cut("for this test")
        await until(lambda: pair.near.state == pair.far.state == "closed", seconds=100)
        assert await receive(pair.listener, 1) == [b"last words"]
        for log in logs:
            await log.until("session_closed")
            assert log.errors == []


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
        assert str(far.error).startswith("the peer aborted the session: ")
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


# The end of a peer.


@in_virtual_time
async def test_a_dead_peer_is_reported_when_its_time_is_over() -> None:
    async with memory_nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        count = await fill(pair.near)
        await kill(pair.listener)
        await log.until("session_suspended")
        before = loop.time()
        await log.until("peer_disconnected", seconds=200)
        assert loop.time() - before == pytest.approx(120, abs=1)
        assert log.names == ["session_suspended", "error", "session_closed", "peer_disconnected"]
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert details["unsent"] == (KILO,) * 3  # no credit was left for these
        assert details["unknown"] == ()
        assert len(details["unsent"]) + pair.far.stats.messages_received == count
        assert set(details) >= {"session_id", "peer_node_id", "reason", "unsent", "unknown"}
        assert pair.near.error is not None
        with pytest.raises(STTSessionClosedError):
            await pair.near.send(b"x")
        with pytest.raises(STTSessionLostError):
            await pair.near.flush()


async def kill(node: Any) -> None:
    """End a node as if its process had died: no goodbyes, and no listener is left."""
    await node._life._listener.close()
    for session in node.sessions:
        session._owner = _Dead(session._owner)
    for connection in list(node._registry.connections):
        connection.drop()
    for suspension in node._registry.reconnects._suspensions.values():
        suspension.end()


class _Dead:
    """The owner of a session whose process has died: its calls have no effect."""

    def __init__(self, owner: Any) -> None:
        self.config, self.loop = owner.config, owner.loop
        self.events, self.endpoints = owner.events, owner.endpoints
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name in {"session_closing", "session_ended", "own", "emit", "tell"}:
            return getattr(self._owner, name)
        return lambda *_: None


async def test_a_restarted_peer_is_noticed_at_once() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair(reconnect_delay=0.01)
        log = EventLog(pair.dialer)
        port = address_of(pair.listener)[1]
        await pair.near.send(b"before")
        await pair.near.flush()
        await kill(pair.listener)
        restarted = nodes.make("bob", port=port)
        await pair.near.send(b"to the old process")
        await restarted.start(server_mode=True)
        await log.until("peer_disconnected")
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert "restarted" in details["reason"]
        assert details["unsent"] + details["unknown"] == (b"to the old process",)
        session = await pair.dialer.connect(*address_of(restarted))
        await session.send(b"to the new process")
        assert await receive(restarted, 1) == [b"to the new process"]


@in_virtual_time
async def test_a_restarted_dialer_is_noticed_even_by_a_closing_session() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        live(pair.near).dial_address = None  # its process has died: it does not dial again
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.far.state == "suspended")
        await pair.far.send(b"to the old process")
        live(pair.far).start_closing()
        await nodes.connect(await nodes.start("alice"), pair.listener)
        assert pair.far.state == "closed"
        assert pair.far.error is not None
        assert "restarted" in str(pair.far.error)
        assert pair.far.error.unsent == (b"to the old process",)


@pytest.mark.parametrize("noticed", [True, False], ids=["cut seen", "cut not seen"])
async def test_a_restarted_dialer_is_noticed_when_it_is_back(noticed: bool) -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        log = EventLog(listener)
        link = relay.links[0]
        if not noticed:
            link.swallow(Direction.OUT)
        live(pair.near).dial_address = None  # its process has died: it does not dial again
        link.sides[Direction.OUT].reset()
        if noticed:
            await until(lambda: pair.far.state == "suspended")
        again = nodes.make("alice")
        await again.start()
        await nodes.connect(again, listener)
        if not noticed:
            link.sides[Direction.IN].reset()  # the answer to the listener's PING
        await log.until("session_closed")
        assert pair.far.state == "closed"
        assert "restarted" in str(pair.far.error)
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert details["unsent"] == details["unknown"] == ()
        await until(lambda: log.names.count("session_created") == 1)


@in_virtual_time
async def test_a_session_whose_dialer_closed_ends_even_if_the_answer_is_lost() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.near.send(b"last words")
        live(pair.near).start_closing()
        while pair.far.state != "closing":  # noqa: ASYNC110  not a turn longer
            await asyncio.sleep(0)
        assert live(pair.near).connected
        network.cables[0].cut(Kind.RST)
        await pair.near.wait_closed()
        await asyncio.sleep(1)
        assert await receive(pair.listener, 1) == [b"last words"]
        assert pair.far.state == "closed"
        assert logs[0].names == ["session_suspended", "session_closed", "peer_disconnected"]
        assert logs[1].names == ["session_closed", "peer_disconnected"]


@pytest.mark.parametrize("owing", [False, True])
@pytest.mark.parametrize("answer", ["UNKNOWN", "ENDED", "FORBIDDEN"])
@in_virtual_time
async def test_a_session_ends_if_the_peer_does_not_have_it(
    answer: str, owing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=10) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        if answer != "ENDED":
            monkeypatch.setattr(registry, "_TOMBSTONES", 0)
        network.cables[0].cut(Kind.BLACK_HOLE)
        if owing:
            await pair.near.send(b"owed")
        live(pair.near).cut("for this test")
        live(pair.far).lose("for this test")
        if answer == "FORBIDDEN":
            await pair.listener.ban(pair.dialer.node_id)
        await pair.near.wait_closed()
        await log.until("peer_disconnected")
        if owing:
            ((_, details),) = log.errors
            # Only with ENDED comes how far the session had come.
            assert details["unsent"] == ((b"owed",) if answer == "ENDED" else ())
            assert details["unsent"] + details["unknown"] == (b"owed",)
            with pytest.raises(STTSessionLostError):
                await pair.near.close()
        else:
            # Nothing was lost with it: as good as a close.
            assert log.errors == []
            assert pair.near.error is None
            await pair.near.close()


@in_virtual_time
async def test_a_session_that_the_peer_cannot_resume_just_now_is_resumed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        refusals = iter([Welcome(WelcomeStatus.REFUSED, 0, 0)] * 2)
        resume = Acceptor._resume
        monkeypatch.setattr(
            Acceptor, "_resume", lambda *args: next(refusals, None) or resume(*args)
        )
        await pair.near.send(b"x")
        network.cables[0].cut(Kind.RST)
        await log.until("session_resumed")
        assert len(network.cables) == 4
        assert await receive(pair.listener, 1) == [b"x"]
        assert log.names == ["session_suspended", "session_resumed"]


@in_virtual_time
async def test_a_peer_that_breaks_the_protocol_loses_its_session() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.far.send(b"arrives")
        await pair.far.flush()
        await pair.far.send(b"in doubt")
        live(pair.near).machine._control.append(b"\xf0\0\0\0")  # no frame has this type
        pair.near.ping()
        await logs[1].until("peer_disconnected")
        assert [error_type for error_type, _ in logs[1].errors] == [
            "protocol_error",
            "session_lost",
        ]
        assert "unknown type 15" in logs[1].errors[0][1]["reason"]
        # The breaker dials again, and hears that it is over.
        await logs[0].until("peer_disconnected")
        assert pair.near.state == "closed"


@in_virtual_time
async def test_a_session_that_no_one_waits_for_ends() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        live(pair.near).give_up()
        await until(lambda: pair.near.state == pair.far.state == "closed")
        live(pair.near).give_up()
        live(pair.near).lose("twice")
        assert pair.near.error is None
        assert "closed" in repr(pair.near)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Direction.OUT, 224, Kind.FIN),  # right behind the third message
        Fault(Direction.OUT, 224, Kind.BLACK_HOLE),
    ],
    ids=lambda fault: fault.kind.name,
)
@in_virtual_time
async def test_a_session_that_was_never_answered_ends_in_silence(fault: Fault) -> None:
    network = FaultNetwork(MemoryNetwork(), [fault])
    async with Nodes(network) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        logs = [EventLog(dialer), EventLog(listener)]
        with pytest.raises(STTConnectError):
            await dialer.connect(*address_of(listener))
        # The listener keeps it for as long as the dialer could come back.
        await asyncio.sleep(nodes.config.resume_window + 2)
        assert logs[0].names == logs[1].names == []
        assert dialer.sessions == listener.sessions == []


@in_virtual_time
async def test_a_session_that_the_peer_refuses_is_not_established() -> None:
    async with memory_nodes(max_sessions_per_peer=1) as nodes:
        pair = await nodes.pair()
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await pair.dialer.connect(*address_of(pair.listener))
        assert pair.dialer.sessions == [pair.near]


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


# Signs of life.


@in_virtual_time
async def test_a_silent_peer_is_asked_and_given_up() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        before = loop.time()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await log.until("session_suspended", seconds=100)
        # 13.5 to 16.5 s until it is asked, 15 s more, each looked at once a second.
        assert 27 <= loop.time() - before <= 34
        await log.until("session_resumed", seconds=100)


@in_virtual_time
async def test_a_quiet_peer_that_answers_is_kept() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        pings = live(pair.near).machine._ping_token
        await asyncio.sleep(3600)
        assert logs[0].names == logs[1].names == []
        assert pair.near.state == pair.far.state == "open"
        asked = live(pair.near).machine._ping_token + live(pair.far).machine._ping_token - pings
        assert 3600 / 17 / 2 < asked < 2 * 3600 / 13
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["rtt"] == pytest.approx(0, abs=0.01)


@in_virtual_time
async def test_a_blocked_loop_does_not_blame_its_peers() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await asyncio.sleep(14)
        loop: Any = asyncio.get_running_loop()
        for _ in range(3):
            loop._virtual.now += 100  # the whole program was suspended
            await asyncio.sleep(3)
        assert logs[0].names == logs[1].names == []


@in_virtual_time
async def test_a_vanished_peer_is_given_up_even_if_handlers_keep_the_loop_busy() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, ping_interval=2, ping_timeout=2) as nodes:
        pair = await nodes.pair()
        busy = await nodes.connect(await nodes.start("carol"), pair.listener)
        log = EventLog(pair.listener)
        loop: Any = asyncio.get_running_loop()

        @pair.listener.events.on("data_received")
        async def work(session_id: bytes, data: bytes) -> None:
            loop._virtual.now += 1.3  # blocks the loop: each look at the sessions comes late

        before = loop.time()
        network.cables[0].cut(Kind.BLACK_HOLE)
        while not log.of("session_suspended"):
            assert loop.time() - before < 10
            await busy.near.send(b"work")
            await asyncio.sleep(0.2)
        assert busy.far.state == "open"


async def test_a_late_look_at_a_session_reads_what_has_arrived_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Nodes(ping_interval=2, ping_timeout=2) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        loop = asyncio.get_running_loop()
        real, stood_still = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + stood_still)
        over = asyncio.Event()

        def stand_still() -> None:
            """Let the answers arrive without anything reading them."""
            nonlocal stood_still
            pair.near.ping()
            pair.far.ping()
            stood_still += 10
            loop.call_later(0.1, over.set)

        # In the very turn of the loop in which the sessions are looked at, and before that.
        loop.call_at(pair.dialer._life._check_timer.when() - 0.0001, stand_still)
        await over.wait()
        assert logs[0].names == logs[1].names == []
        assert pair.near.rtt is not None


@pytest.mark.parametrize("sign", ["what waits goes out", "the peer acknowledges"])
@in_virtual_time
async def test_a_connection_that_takes_bytes_slowly_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """What counts is progress, not how much waits."""
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, write_timeout=10, ping_timeout=1e6) as nodes:
        pair = await nodes.pair()
        connection, other = live(pair.near)._connection, live(pair.far)._connection
        assert connection is not None
        assert other is not None
        waiting = 1000
        monkeypatch.setattr(type(network.cables[0]), "waiting", property(lambda _: waiting))
        connection.pause_writing()
        for _ in range(100):
            await asyncio.sleep(9)
            if sign == "what waits goes out":
                waiting -= 1
            else:
                live(pair.far).machine.reassure()
                other.flush()
        assert pair.near.stats.resumes == 0
        await asyncio.sleep(13)
        assert pair.near.stats.resumes == 1


@in_virtual_time
async def test_a_connection_that_takes_no_bytes_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        dialer = await nodes.start(config=NodeConfig(write_timeout=10))
        pair = await nodes.connect(dialer, await nodes.listen())
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        # The peer talks all the time, so it lives; but the way to it is blocked. (It would take
        # the dialer for dead only after thirty seconds.)
        monkeypatch.setattr(network.cables[0], "write", lambda _: None)
        network.cables[0].pause_writing()
        before = loop.time()

        async def talk() -> None:
            while not log.of("session_suspended"):
                await pair.far.send(b"still here")
                await asyncio.sleep(1)

        talking = asyncio.create_task(talk())
        await log.until("session_suspended", seconds=100)
        assert loop.time() - before == pytest.approx(10, abs=2)
        await log.until("session_resumed", seconds=100)
        await talking


async def test_a_round_trip_is_measured() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(delay=0.02))
        pair = await nodes.connect(dialer, listener, relay.address)
        before = pair.near.rtt
        assert before is None
        pair.near.ping()
        await until(lambda: pair.near.rtt is not None)
        assert pair.near.rtt is not None
        assert 0.035 <= pair.near.rtt < 2
        assert pair.near.min_rtt == pair.near.rtt
        info = dialer.endpoints.get_endpoint(listener.node_id)
        assert info is not None
        assert info["rtt"] == pair.near.rtt


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
