"""A receiver that does not keep up stops its sender, and no other: whole nodes, virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import FaultNetwork, Kind
from helpers.nodes import EventLog, Nodes, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions import SendOutcome
from seigr_toolset_transmissions.errors import STTSessionClosedError
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions import Session, STTNode

KIB = 1024
SETTINGS: dict[str, Any] = {
    "max_message_bytes": 16 * KIB,
    "send_window_bytes": 128 * KIB,
    "receive_window_bytes": 64 * KIB,
    "max_sessions": 8,  # so that there is room for whole windows from the first
    "inbox_bytes": 32 * KIB,
    "inbox_messages": 1000,
    "ping_interval": 5,
    "ping_timeout": 5,
}
SIZES = [1000, 0, 16 * KIB, 30, 4000]
"""Of the messages, over and over."""
COUNT = 500
SILENCE = 60.0
"""Seconds for which the application consumes nothing."""


def message(number: int) -> bytes:
    return (b"%d " % number * KIB * 8)[: SIZES[number % len(SIZES)]]


async def send_all(session: Session) -> None:
    for number in range(COUNT):
        await session.send(message(number))


class Watch:
    """Looks, every tenth of a second, at what both sides hold."""

    def __init__(self, listener: STTNode, sender: Session) -> None:
        self.most_received = self.most_sent = 0
        self._listener, self._sender = listener, sender
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self.most_received = max(self.most_received, self._listener.stats().buffered_bytes)
            self.most_sent = max(self.most_sent, self._sender.stats.unacknowledged_bytes)
            await asyncio.sleep(0.1)

    def check(self) -> None:
        """Check that both windows were filled, and exceeded by no more than a tenth."""
        self._task.cancel()
        # The cost of each message in the inbox counts here, and not in `inbox_bytes`.
        held = SETTINGS["receive_window_bytes"] + SETTINGS["inbox_bytes"]
        assert held / 2 < self.most_received <= 1.1 * held
        window = SETTINGS["send_window_bytes"]
        assert window / 2 < self.most_sent <= 1.1 * window


@pytest.mark.parametrize("push", [False, True], ids=["pull", "push"])
@in_virtual_time
async def test_a_receiver_that_stops_for_a_minute_stops_its_sender_and_nobody_else(
    push: bool,
) -> None:
    loop = asyncio.get_running_loop()
    async with memory_nodes(**SETTINGS) as nodes:
        listener = await nodes.listen()
        slow = await nodes.connect(await nodes.start("alice"), listener)
        quick = await nodes.connect(await nodes.start("carol"), listener)
        logs = [EventLog(node) for node in nodes.made]
        received: dict[bytes, list[bytes]] = {slow.near.session_id: [], quick.near.session_id: []}
        resume_at = loop.time() + SILENCE
        if push:

            @listener.events.on("data_received")
            async def handle(session_id: bytes, data: bytes) -> None:
                if session_id == slow.near.session_id and loop.time() < resume_at:
                    await asyncio.sleep(resume_at - loop.time())
                received[session_id].append(data)

        async def pull(pair_id: bytes, session_id: bytes) -> None:
            while len(received[session_id]) < COUNT:
                data, _ = await listener.endpoints.receive_from(pair_id)
                received[session_id].append(data)

        watch = Watch(listener, slow.near)
        sending = asyncio.create_task(send_all(slow.near))

        # Another session runs at full speed meanwhile: without any waiting for time to pass.
        await asyncio.sleep(1)
        before = loop.time()
        if push:
            await send_all(quick.near)
            await quick.near.flush()
        else:
            pulling = pull(quick.dialer.node_id, quick.near.session_id)
            await asyncio.gather(send_all(quick.near), pulling)
        assert loop.time() - before < 0.5
        expected = [message(number) for number in range(COUNT)]
        assert received[quick.near.session_id] == expected

        # The sender waits, and knows that its peer lives.
        await asyncio.sleep(resume_at - loop.time() - 1)
        assert not sending.done()
        assert slow.near.stats.messages_sent < COUNT / 2
        assert slow.near.rtt is not None
        assert live(slow.near).machine.last_received > loop.time() - 7
        assert live(slow.far).machine.last_received > loop.time() - 7
        assert [log.names for log in logs] == [[], [], []]

        # And then all of it arrives.
        if not push:
            await pull(slow.dialer.node_id, slow.near.session_id)
        await sending
        await slow.near.flush()
        await asyncio.sleep(1)
        assert received[slow.near.session_id] == expected
        assert listener.stats().buffered_bytes == 0
        watch.check()


@in_virtual_time
async def test_a_sender_resumes_as_its_peer_consumes_messages() -> None:
    """A slow handler frees the sender message by message, not a whole window at a time."""
    async with memory_nodes() as nodes:
        pair = await nodes.pair(
            max_message_bytes=1000,
            send_window_bytes=3 * (1000 + FRAME_COST),
            receive_window_bytes=3 * (1000 + FRAME_COST),
            ping_interval=1000,
        )
        loop = asyncio.get_running_loop()

        @pair.listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(100)

        times = []
        before = loop.time()
        for _ in range(12):
            await pair.near.send(bytes(1000))
            times.append(loop.time() - before)
        # Three fill the peer's window and three ours; from then on one for each that is handled.
        expected = [0.0] * 6 + [100.0 * k for k in range(1, 7)]
        assert times == [pytest.approx(time, abs=1) for time in expected]


@in_virtual_time
async def test_a_sender_does_not_wait_for_watchers() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair(
            max_message_bytes=1000,
            send_window_bytes=3 * (1000 + FRAME_COST),
            receive_window_bytes=3 * (1000 + FRAME_COST),
            ping_interval=1000,
        )

        @pair.listener.events.on_any
        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name == "data_received":
                await asyncio.sleep(100)

        # Three are in the inbox, and watched; three fill the peer's window and three ours.
        async with asyncio.timeout(1):
            for _ in range(9):
                await pair.near.send(bytes(1000))
        # Then the next three go to the inbox, before they are watched.
        async with asyncio.timeout(301):
            for _ in range(3):
                await pair.near.send(bytes(1000))


@in_virtual_time
async def test_a_broadcast_waits_for_a_slow_peer_no_longer_than_it_may() -> None:
    loop = asyncio.get_running_loop()
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, **SETTINGS) as nodes:
        hub = await nodes.listen()
        slow = await nodes.connect(await nodes.start("alice"), hub)
        quick = await nodes.connect(await nodes.start("carol"), hub)
        await hub.endpoints.add_endpoint(b"nobody.." * 4, ("nowhere", 1))
        # The way to the slow one hangs; it is noticed only after five seconds and more.
        network.cables[0].cut(Kind.BLACK_HOLE)
        while live(slow.far).try_send(bytes(16 * KIB)):
            pass
        to_all = b"!" * 16 * KIB
        before = loop.time()
        broadcast = asyncio.create_task(hub.endpoints.broadcast(to_all, timeout=2))
        assert (await quick.dialer.endpoints.receive_any(timeout=1))[0] == to_all
        assert loop.time() - before < 0.1  # the others do not wait for it
        outcomes = await broadcast
        assert loop.time() - before == pytest.approx(2, abs=0.1)
        assert outcomes == {
            slow.dialer.node_id: SendOutcome.FULL,
            quick.dialer.node_id: SendOutcome.ACCEPTED,
            b"nobody.." * 4: SendOutcome.UNREACHABLE,
        }
        # What was not accepted does not come later either.
        count = slow.far.stats.messages_sent
        for _ in range(count):
            assert (await slow.dialer.endpoints.receive_any(timeout=99))[0] == bytes(16 * KIB)
        await slow.far.flush()
        assert slow.far.stats.messages_sent == slow.near.stats.messages_received == count


@in_virtual_time
async def test_a_broadcast_may_be_given_no_time_at_all() -> None:
    loop = asyncio.get_running_loop()
    async with memory_nodes(**SETTINGS) as nodes:
        hub = await nodes.listen()
        pair = await nodes.connect(await nodes.start(), hub)
        pair.far.send_nowait(bytes(16 * KIB))
        while live(pair.far).try_send(bytes(16 * KIB)):
            pass
        before = loop.time()
        outcomes = await hub.endpoints.broadcast(bytes(16 * KIB), timeout=0)
        assert outcomes == {pair.dialer.node_id: SendOutcome.FULL}
        assert loop.time() == before


def standstill_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "answer from a task of your own" in line]


@in_virtual_time
async def test_two_handlers_that_wait_for_each_other_are_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes(**SETTINGS) as nodes:
        pair = await nodes.pair()
        flooding = []
        for node, session in ((pair.dialer, pair.near), (pair.listener, pair.far)):

            async def answer(session_id: bytes, data: bytes, node: STTNode = node) -> None:
                own = node.get_session(session_id)
                assert own is not None
                await own.send(data)

            async def flood(session: Session = session) -> None:
                with suppress(STTSessionClosedError):
                    while True:
                        await session.send(bytes(10 * KIB))

            node.events.register("data_received", answer)
            flooding.append(asyncio.create_task(flood()))
        await asyncio.sleep(30)
        lines = standstill_warnings(caplog)
        assert len(lines) == 2  # one for each node
        assert pair.near.session_id.hex()[:16] in lines[0]
        await asyncio.sleep(600)
        assert len(standstill_warnings(caplog)) == 2
        await pair.dialer.kick(pair.listener.node_id)
        await pair.listener.kick(pair.dialer.node_id)
        await asyncio.wait(flooding)


@in_virtual_time
async def test_a_slow_handler_or_another_waiting_task_is_not_a_standstill(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes(**SETTINGS) as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def work(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(10)

        async def flood(session: Session) -> None:
            with suppress(STTSessionClosedError):
                while True:
                    await session.send(bytes(10 * KIB))

        flooding = [asyncio.create_task(flood(session)) for session in (pair.near, pair.far)]
        await asyncio.sleep(100)
        assert not standstill_warnings(caplog)
        await pair.dialer.kick(pair.listener.node_id)
        await pair.listener.kick(pair.dialer.node_id)
        await asyncio.wait(flooding)
