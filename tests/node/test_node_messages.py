"""How messages reach a program: through handlers, from the inbox, and from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import (
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.sessions import numbered
from seigr_toolset_transmissions.errors import STTEndpointError, STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.nodes import Pair
    from seigr_toolset_transmissions import STTNode


SMALL: dict[str, Any] = {
    "max_message_bytes": 1024,
    "send_window_bytes": 4096,
    "receive_window_bytes": 4096,
}
"""Windows that a few messages fill."""


# Pushing messages to handlers.


@pytest.mark.parametrize("several", [False, True], ids=["one handler", "several"])
@in_virtual_time
async def test_a_peer_whose_messages_a_handler_cannot_take_does_not_fill_the_log(
    several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        failed = list[bytes]()

        @pair.listener.events.on("data_received")
        async def parse(session_id: bytes, data: bytes) -> None:
            failed.append(data)
            raise ValueError("no such command")

        if several:

            @pair.listener.events.on("data_received")
            async def ignore(session_id: bytes, data: bytes) -> None:
                pass

        for data in numbered(2000):
            await pair.near.send(data)
        await until(lambda: len(failed) == 2000)
        assert failed == numbered(2000)
        assert len(caplog.records) == 1
        await asyncio.sleep(60)
        assert "1999 more since the last log line" in caplog.text
        assert len(caplog.records) == 2


async def test_five_thousand_messages_reach_a_handler_in_order_and_one_at_a_time() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        received: list[bytes] = []
        inside = itertools.count()
        running = 0

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            nonlocal running
            running += 1
            assert running == 1
            if next(inside) % 100 == 0:
                await asyncio.sleep(0)
            received.append(data)
            running -= 1

        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        messages = numbered(5000)
        for data in messages:
            await session.send(data)
        await session.flush()
        await until(lambda: len(received) == len(messages))
        assert received == messages


async def test_a_slow_handler_of_one_session_does_not_delay_another() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        gate = asyncio.Event()
        received: dict[bytes, list[bytes]] = {}
        slow_session = b""

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            if session_id == slow_session:
                await gate.wait()
            received.setdefault(session_id, []).append(data)

        dialer = await nodes.start()
        slow = await dialer.connect(*address_of(listener))
        quick = await dialer.connect(*address_of(listener))
        slow_session = slow.session_id
        for data in numbered(10):
            await slow.send(data)
            await quick.send(data)
        await until(lambda: len(received.get(quick.session_id, [])) == 10)
        assert slow_session not in received
        gate.set()
        await until(lambda: len(received.get(slow_session, [])) == 10)
        assert received[slow_session] == received[quick.session_id] == numbered(10)


async def test_a_slow_handler_makes_the_sender_wait() -> None:
    async with Nodes(**SMALL) as nodes:
        listener = await nodes.listen()
        gate = asyncio.Event()
        received = []

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            await gate.wait()
            received.append(data)

        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        messages = [bytes([k]) * 1000 for k in range(20)]

        async def send_all() -> None:
            for message in messages:
                await session.send(message)

        sending = asyncio.create_task(send_all())
        # Both windows hold three such messages each; one is with the handler.
        await until(lambda: dialer.endpoints.get_endpoint(listener.node_id) is not None)
        await until(lambda: session.stats.messages_sent >= 6)
        await live(session)._owner.loop.create_task(asyncio.sleep(0.05))
        assert session.stats.messages_sent <= 7
        assert not sending.done()
        gate.set()
        await sending
        await until(lambda: len(received) == len(messages))
        assert received == messages


async def misbehave_raise(session_id: bytes, data: bytes) -> None:
    raise RuntimeError("on purpose")


async def misbehave_cancel(session_id: bytes, data: bytes) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("handler", [misbehave_raise, misbehave_cancel])
@pytest.mark.parametrize("first", [True, False], ids=["alone first", "behind another"])
async def test_a_handler_that_fails_harms_neither_its_session_nor_others(
    handler: Callable[..., Any], first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        received = []
        if first:
            listener.events.register("data_received", handler)

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            received.append(data)

        if not first:
            listener.events.register("data_received", handler)
        dialer = await nodes.start()
        sessions = [await dialer.connect(*address_of(listener)) for _ in range(2)]
        for data in numbered(5):
            for session in sessions:
                await session.send(data)
        await until(lambda: len(received) == 10)
        assert sorted(received) == sorted(numbered(5) * 2)
        await log.until("error", 10)
        for error_type, details in log.errors:
            assert error_type == "handler_failed"
            assert details["event"] == "data_received"
            assert details["handler"] is handler
        assert len(listener.sessions) == 2
        await asyncio.gather(*(session.close() for session in sessions))
    assert "handler" in caplog.text


async def test_a_handler_that_hangs_holds_up_only_its_session() -> None:
    async with Nodes(close_timeout=0.1) as nodes:
        listener = await nodes.listen()
        received = []
        hung: list[bytes] = []

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            if data == b"hang":
                hung.append(session_id)
                await asyncio.Event().wait()
            received.append(data)

        dialer = await nodes.start()
        first, second = [await dialer.connect(*address_of(listener)) for _ in range(2)]
        await first.send(b"hang")
        await until(lambda: hung)
        for data in numbered(10):
            await first.send(data)
            await second.send(data)
        await until(lambda: len(received) == 10)
        assert received == numbered(10)
        # The session itself lives: it still acknowledges, and measures round trips.
        await first.flush()


# Pushing, pulling, and changing one's mind.


async def test_registering_a_handler_in_mid_stream_loses_nothing() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pushed: list[bytes] = []
        pulled: list[bytes] = []
        messages = numbered(3000)

        async def handle(session_id: bytes, data: bytes) -> None:
            pushed.append(data)

        async def send() -> None:
            for data in messages:
                await pair.near.send(data)
                if len(pair.listener.events.handlers("data_received")) == 0:
                    await asyncio.sleep(0)

        async def pull() -> None:
            while True:
                data, _ = await pair.listener.endpoints.receive_any()
                pulled.append(data)
                if len(pulled) == 700:
                    pair.listener.events.register("data_received", handle)

        pulling = asyncio.create_task(pull())
        await send()
        await until(lambda: len(pushed) + len(pulled) == len(messages))
        pulling.cancel()
        await asyncio.wait([pulling])
        assert pushed
        assert pulled + pushed == messages


async def test_removing_the_handler_in_mid_stream_loses_nothing() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pushed: list[bytes] = []
        messages = numbered(3000)

        async def handle(session_id: bytes, data: bytes) -> None:
            pushed.append(data)
            if len(pushed) == 1010:
                pair.listener.events.remove_handler("data_received", handle)

        pair.listener.events.register("data_received", handle)
        for data in messages:
            await pair.near.send(data)
        pulled = [
            (await pair.listener.endpoints.receive_any(timeout=9))[0]
            for _ in range(len(messages) - 1010)
        ]
        assert pushed == messages[:1010]
        assert pulled == messages[1010:]


async def test_an_emit_that_is_replaced_in_mid_stream_sees_every_message_from_then_on() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        events = pair.listener.events
        handled: list[bytes] = []
        seen: list[bytes] = []
        messages = numbered(3000)
        original = events.emit

        async def wrapper(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
            if name == "data_received":
                seen.append(kwargs["data"])
            return await original(name, *args, **kwargs)

        @events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            handled.append(data)
            if len(handled) == 1010:
                events.emit = wrapper  # type: ignore[method-assign]

        for data in messages:
            await pair.near.send(data)
        await until(lambda: len(handled) == len(messages))
        assert handled == messages
        assert seen == messages[1010:]


async def test_a_handler_for_one_message_takes_one_message() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pushed: list[bytes] = []

        @pair.listener.events.once("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            pushed.append(data)

        for data in numbered(5):
            await pair.near.send(data)
        for data in numbered(5)[1:]:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data
        assert pushed == [b"0"]


async def test_a_handler_may_deliver_to_the_inbox_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        listener = pair.listener
        seen = []

        @listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            session = listener.get_session(session_id)
            assert session is not None
            seen.append(data)
            await listener.endpoints.deliver(session.peer_node_id, data)

        for data in numbered(5):
            await pair.near.send(data)
        for data in numbered(5):
            message = await listener.endpoints.receive_from(pair.dialer.node_id, timeout=9)
            assert message == (data, pair.dialer.node_id)
        assert seen == numbered(5)


async def test_receiving_beside_a_handler_is_explained_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("data_received", misbehave_raise)
        for _ in range(3):
            with pytest.raises(STTEndpointError):
                await pair.listener.endpoints.receive_any(timeout=0.001)
            with pytest.raises(STTEndpointError):
                await pair.listener.endpoints.receive_from(pair.dialer.node_id, timeout=0.001)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (warning,) = [w for w in warnings if "data_received" in w]
    assert "deliver" in warning


@in_virtual_time
async def test_messages_from_before_the_first_handler_are_reported_once_and_can_be_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        for data in numbered(3):
            await pair.near.send(data)
        await asyncio.sleep(5)
        assert not caplog.records
        got: list[bytes] = []

        @pair.listener.events.on("data_received")
        async def take(session_id: bytes, data: bytes) -> None:
            got.append(data)

        await asyncio.sleep(5)
        (record,) = caplog.records
        assert "receive_any(timeout=0)" in record.getMessage()
        await pair.near.send(b"later")
        with contextlib.suppress(STTTimeoutError):
            while True:
                got.append((await pair.listener.endpoints.receive_any(timeout=0))[0])
        await asyncio.sleep(5)
        assert got == [*numbered(3), b"later"]
        assert len(caplog.records) == 1  # and none of a receiver that waits in vain


@in_virtual_time
async def test_messages_a_handler_keeps_for_later_cause_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def keep(session_id: bytes, data: bytes) -> None:
            await pair.listener.endpoints.deliver(pair.dialer.node_id, data)

        await pair.near.send(b"for later")
        await asyncio.sleep(5)
    assert not caplog.records


async def test_pulling_alone_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        with pytest.raises(STTEndpointError):
            await pair.listener.endpoints.receive_any(timeout=0.001)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_full_inbox_makes_the_sender_wait() -> None:
    async with Nodes(**SMALL, inbox_messages=2) as nodes:
        pair = await nodes.pair()
        messages = [bytes([k]) * 1000 for k in range(20)]

        async def send_all() -> None:
            for message in messages:
                await pair.near.send(message)

        sending = asyncio.create_task(send_all())
        # Two in the inbox, three of credit, three in the send window.
        await until(lambda: pair.near.stats.messages_sent >= 8)
        await asyncio.sleep(0.05)
        assert pair.near.stats.messages_sent <= 9
        for message in messages:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == message
        await sending


async def test_an_endpoint_removed_while_its_inbox_is_full_comes_back_for_the_rest() -> None:
    async with Nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        for data in numbered(6):
            await pair.near.send(data)
        await pair.near.flush()
        peer = pair.dialer.node_id
        pump = live(pair.far)._pump
        assert pump is not None
        await until(lambda: pump._room is not None)
        await pair.listener.endpoints.remove_endpoint(peer)  # and with it the two in the inbox
        for data in numbered(6)[2:]:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data
        gc.collect()  # a failed wait for room would be reported now
        await asyncio.sleep(0)


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_an_endpoint_that_the_application_retires_takes_messages_again(watched: bool) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        peer = pair.dialer.node_id
        if watched:  # then messages go to the inbox by way of the session's queue

            @pair.listener.events.on_any
            async def watch(*_: Any) -> None:
                """Only to be there."""

        await pair.near.send(b"before")
        await until(lambda: pair.far.stats.messages_received == 1)
        await until(lambda: inbox_of(pair.listener, peer) == len(b"before"))
        pair.listener._endpoints.retire_endpoint(peer)
        await pair.near.send(b"after")
        await pair.near.flush()  # it arrives while the endpoint is retiring
        for data in (b"before", b"after"):
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data
        assert pair.near.stats.resumes == 0


def inbox_of(node: STTNode, peer_node_id: bytes) -> int:
    """How many bytes the peer's inbox has ever taken."""
    info = node.endpoints.get_endpoint(peer_node_id)
    return 0 if info is None else info["bytes_received"]


class _Chaos:
    """An application whose handlers come and go, wait, fail and answer at random."""

    def __init__(self, pair: Pair, chance: random.Random) -> None:
        self._pair = pair
        self._chance = chance
        self._events = pair.listener.events
        self._emit = self._events.emit
        self._watching = False
        self.received: list[bytes] = []
        self._events.register("data_received", self.handle)

    async def handle(self, session_id: bytes, data: bytes) -> None:
        self.received.append(data)
        self._change()
        dice = self._chance.random()
        if dice < 0.03:
            await asyncio.sleep(self._chance.choice([0, 0.001, 0.03, 0.2]))
        if dice < 0.05:
            raise self._chance.choice([ValueError, asyncio.CancelledError])
        if dice > 0.97:
            await self._pair.far.send(b"an answer")

    def _change(self) -> None:
        events, dice = self._events, self._chance.random()
        if dice < 0.02:
            events.remove_handler("data_received", self.handle)
        elif dice < 0.04 and not self._watching:
            events.on_any(self.watch)
            self._watching = True
        elif dice < 0.06 and self._watching:
            events.remove_any(self.watch)
            self._watching = False
        elif dice < 0.07:
            events.emit = self.emit  # type: ignore[method-assign]
        elif dice < 0.08 and "emit" in vars(events):
            del events.emit

    async def watch(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See it."""

    async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        return await self._emit(name, *args, **kwargs)

    async def pull(self) -> None:
        """Receive what goes to the inbox while there is no handler, and register one again."""
        endpoints = self._pair.listener._endpoints
        while True:
            await asyncio.sleep(self._chance.choice([0.001, 0.05]))
            with contextlib.suppress(STTTimeoutError):
                while self._chance.random() > 0.1:
                    data, _ = await endpoints.manager.receive_any(timeout=0)
                    self.received.append(data)
            if not self._events.handlers("data_received") and not endpoints.held_bytes():
                self._events.register("data_received", self.handle)


@pytest.mark.parametrize("seed", range(30))
@in_virtual_time
async def test_whatever_happens_to_the_handlers_each_message_is_handed_over_once_and_in_order(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    chance = random.Random(seed)  # noqa: S311 - no secret
    window = chance.choice([20_000, 200_000, 8 << 20])
    limits = {"max_message_bytes": 8000, "inbox_messages": chance.choice([3, 100, 16_384])}
    async with memory_nodes(receive_window_bytes=window, **limits) as nodes:
        pair = await nodes.pair()
        application = _Chaos(pair, chance)
        messages = [
            b"%d %s" % (number, bytes(chance.choice([0, 60, 900])))
            for number in range(chance.choice([50, 700]))
        ]
        pulling = asyncio.create_task(application.pull())
        for message in messages:
            await pair.near.send(message)
            if chance.random() < 0.05:
                await asyncio.sleep(chance.choice([0, 0.0001, 0.01]))
        await pair.near.flush()
        await until(lambda: len(application.received) >= len(messages), 1000)
        await asyncio.sleep(1)
        pulling.cancel()
        assert application.received == messages
        assert live(pair.far).machine.held_cost == 0
