"""The end of a node: what it still hands over, what it returns, and what it waits for."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import TYPE_CHECKING, Any, cast

import pytest

from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import StopReport
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
)
from seigr_toolset_transmissions.node import runtime
from seigr_toolset_transmissions.sessions.handshaking import _FIRST, _THIRD
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seigr_toolset_transmissions import Session


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def send(session: Session, messages: Sequence[bytes]) -> None:
    """Return when the peer's node has acknowledged them."""
    for data in messages:
        await session.send(data)
    await session.flush()


def send_nowait(session: Session, messages: Sequence[bytes]) -> None:
    for data in messages:
        session.send_nowait(data)


@pytest.mark.parametrize("closed", [True, False], ids=["session closed", "session open"])
@pytest.mark.parametrize(("drain", "seconds"), [(None, 2), (0, 2), (6, 6)])
@in_virtual_time
async def test_stop_hands_over_acknowledged_messages_and_returns_the_rest(
    closed: bool, drain: float | None, seconds: float
) -> None:
    async with memory_nodes(close_timeout=2) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        handled = list[bytes]()

        @pair.listener.events.on("data_received")
        async def slow(session_id: bytes, data: bytes) -> None:
            handled.append(data)
            await asyncio.sleep(0.5)

        await send(pair.near, numbered(100))
        if closed:
            await pair.near.close()
        before = asyncio.get_running_loop().time()
        report = await pair.listener.stop(drain)
        assert seconds - 0.1 < asyncio.get_running_loop().time() - before < seconds + 1
        assert len(handled) >= seconds / 0.5
        [left] = report.undelivered.values()
        assert handled + list(left) == numbered(100)
        assert list(report.undelivered) == [pair.dialer.node_id]
        assert report == ()
        [(kind, details)] = log.errors
        assert kind == "undelivered"
        assert details["messages"] == left
        assert details["session_id"] == pair.far.session_id
        assert details["peer_node_id"] == pair.dialer.node_id
        assert log.names == ["error", "session_closed", "peer_disconnected"]


@in_virtual_time
async def test_stop_returns_nothing_that_handlers_took_in_time() -> None:
    async with memory_nodes(close_timeout=5) as nodes:
        pair = await nodes.pair()
        handled = list[bytes]()

        @pair.listener.events.on("data_received")
        async def slow(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(0.1)
            handled.append(data)

        await send(pair.near, numbered(30))
        report = await pair.listener.stop()
        assert (report, report.undelivered) == ((), {})
        assert handled == numbered(30)


@pytest.mark.parametrize("stops", ["listener", "dialer"])
@in_virtual_time
async def test_a_session_whose_connection_breaks_before_the_stop_loses_nothing(stops: str) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=3, close_timeout=5) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(node) for node in (pair.dialer, pair.listener)]
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        send_nowait(pair.near, numbered(10))
        send_nowait(pair.far, numbered(20))
        assert await getattr(pair, stops).stop() == ()
        for node, sender, count in (
            (pair.listener, pair.dialer, 10),
            (pair.dialer, pair.listener, 20),
        ):
            received = [
                (await node.endpoints.receive_from(sender.node_id))[0] for _ in range(count)
            ]
            assert received == numbered(count)
        await until(lambda: pair.near.state == pair.far.state == "closed")
        assert [log.errors for log in logs] == [[], []]


@pytest.mark.parametrize("drain", [0, 7])
@pytest.mark.parametrize("owed", [(), (b"unsent",)], ids=["nothing owed", "a message owed"])
@in_virtual_time
async def test_a_stop_waits_as_long_as_it_may_for_a_peer_that_stays_away(
    drain: float, owed: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")
        live(pair.near).dial_address = ("nowhere", 1)
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        send_nowait(pair.far, owed)
        before = asyncio.get_running_loop().time()
        report = await pair.listener.stop(drain)
        assert ("waits up to 7 s for peers without a connection: 1" in caplog.text) == (drain == 7)
        assert drain <= asyncio.get_running_loop().time() - before < drain + 1
        assert [error.unsent for error in report] == [owed] * len(owed)
        [(_, details)] = log.errors
        assert details["reason"].startswith("the node was stopped while the session had no conn")
        assert (details["unsent"], details["unknown"]) == (owed, ())


@in_virtual_time
async def test_a_stopping_node_resumes_sessions_and_begins_none() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=3) as nodes:
        pair = await nodes.pair()
        address = address_of(pair.listener)
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        stopping = asyncio.create_task(pair.listener.stop())
        await asyncio.sleep(0)
        carol = await nodes.start("carol")
        with pytest.raises(STTConnectError, match="accepts no more sessions at present"):
            await carol.connect(*address)
        assert not stopping.done()
        assert await stopping == ()
        with pytest.raises(STTConnectError, match="cannot reach"):
            await carol.connect(*address)


@in_virtual_time
async def test_a_session_that_its_dialer_has_not_used_yet_loses_nothing_in_a_stop() -> None:
    fault = Fault(Direction.OUT, _FIRST + _THIRD + 1, Kind.RST)
    async with Nodes(FaultNetwork(MemoryNetwork(), [fault])) as nodes:
        listener, dialer = await nodes.listen(), await nodes.start()
        log = EventLog(dialer, "error")
        session = await dialer.connect(*address_of(listener))
        assert listener._registry.unconfirmed
        send_nowait(session, numbered(10))
        assert await listener.stop() == ()
        received = [(await listener.endpoints.receive_any())[0] for _ in range(10)]
        assert received == numbered(10)
        assert session.state == "closed"
        assert log.errors == []


@in_virtual_time
async def test_messages_that_wait_for_a_full_inbox_can_be_received_after_stop() -> None:
    async with memory_nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        await send(pair.near, numbered(10))
        report = await pair.listener.stop()
        assert report.undelivered == {}
        endpoints = pair.listener.endpoints
        assert [(await endpoints.receive_any())[0] for _ in range(10)] == numbered(10)
        with pytest.raises(STTEndpointError):
            await endpoints.receive_any()


@pytest.mark.parametrize(
    "event",
    ["session_created", "peer_connected", "data_received", "session_closed", "peer_disconnected"],
)
@pytest.mark.parametrize("how", ["awaited", "as a task", "gathered", "within a time"])
@pytest.mark.parametrize("others", [0, 2], ids=["alone", "among several"])
@in_virtual_time
async def test_a_handler_that_stops_the_node_does_not_hold_back_events(
    event: str, how: str, others: int
) -> None:
    async with memory_nodes(close_timeout=3) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        handled = list[bytes]()
        stops = list[StopReport]()
        told = list[str]()

        async def stop(**details: Any) -> None:
            if "data" in details:
                handled.append(details["data"])
            if stops or listener._runtime.stopping:
                return
            await asyncio.sleep(0.1)
            if how == "awaited":
                report = await listener.stop()
            elif how == "as a task":
                report = await asyncio.create_task(listener.stop())
            elif how == "within a time":
                report = await asyncio.wait_for(listener.stop(), 9)
            else:
                report, _ = await asyncio.gather(listener.stop(), asyncio.sleep(0))
            told.extend(log.names)
            stops.append(report)

        async def idle(**_: Any) -> None:
            await asyncio.sleep(0)

        async def take(session_id: bytes, data: bytes) -> None:
            handled.append(data)

        if event != "data_received":
            listener.events.register("data_received", take)
        listener.events.register(event, stop)
        for _ in range(others):
            listener.events.register(event, idle)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        for data in numbered(10):
            await session.send(data)
        await asyncio.sleep(0.05)
        if event in {"session_closed", "peer_disconnected"}:
            await session.close()
        before = asyncio.get_running_loop().time()
        await until(lambda: stops)
        assert asyncio.get_running_loop().time() - before < 1  # nobody waits for the handler
        assert handled == numbered(10)
        assert stops[0].undelivered == {}
        assert told == ["session_created", "peer_connected", "session_closed", "peer_disconnected"]


@in_virtual_time
async def test_a_handler_whose_own_task_stops_the_node_is_waited_for_unless_it_waits_too() -> None:
    async with memory_nodes(close_timeout=3) as nodes:
        pair = await nodes.pair()
        log = list[str]()
        background = set[asyncio.Task[None]]()

        async def stop() -> None:
            await pair.listener.stop()
            log.append("stopped")

        @pair.listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            log.append(f"begin {data.decode()}")
            if data == b"0":
                background.add(asyncio.create_task(stop()))
            await asyncio.sleep(0.5)
            log.append(f"end {data.decode()}")

        await send(pair.near, numbered(2))
        await asyncio.gather(*background)
        assert log == ["begin 0", "end 0", "begin 1", "end 1", "stopped"]


@pytest.mark.parametrize("how", ["awaited", "as a task"])
@in_virtual_time
async def test_a_stop_ends_even_if_asyncio_does_not_show_which_task_waits_for_it(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hide(thing: object, name: str, default: object) -> object:
        assert name in {"_fut_waiter", "_children", "_callbacks"}
        return default

    monkeypatch.setattr(runtime, "getattr", hide, raising=False)
    async with memory_nodes(close_timeout=3) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        handled = list[bytes]()

        @pair.listener.events.on("data_received")
        async def stop(session_id: bytes, data: bytes) -> None:
            handled.append(data)
            if how == "awaited":
                await pair.listener.stop()
            else:
                await asyncio.create_task(pair.listener.stop())

        for data in numbered(10):
            await pair.near.send(data)
        before = asyncio.get_running_loop().time()
        await until(lambda: pair.listener.address is None and not pair.listener._runtime.running)
        seconds = asyncio.get_running_loop().time() - before
        assert seconds < 1 if how == "awaited" else 3 <= seconds < 4
        lost = [data for _, details in log.errors for data in details.get("messages", ())]
        assert handled + lost == numbered(10)
        assert log.names[-2:] == ["session_closed", "peer_disconnected"]


@in_virtual_time
async def test_tasks_that_wait_for_each_other_are_visited_once() -> None:
    class Waiting:
        _fut_waiter: Any = None

    one, another = Waiting(), Waiting()
    one._fut_waiter, another._fut_waiter = another, one
    current = asyncio.current_task()
    assert current is not None
    assert not runtime._waits_for(cast("asyncio.Task[None]", one), current)
    another._fut_waiter = current
    assert runtime._waits_for(cast("asyncio.Task[None]", one), current)


@in_virtual_time
async def test_a_handler_that_cannot_be_ended_holds_back_no_other_message_of_its_session() -> None:
    async with memory_nodes(close_timeout=1) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        release = asyncio.Event()

        @pair.listener.events.on("data_received")
        async def resist(session_id: bytes, data: bytes) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        await send(pair.near, numbered(3))
        report = await pair.listener.stop()
        assert report.undelivered == {pair.dialer.node_id: (b"1", b"2")}
        assert log.names == ["error", "session_closed", "peer_disconnected"]
        release.set()


@pytest.mark.parametrize("event", ["session_created", "peer_connected", "session_closed"])
@pytest.mark.parametrize("failure", ["cancelled", "base exception"])
@in_virtual_time
async def test_an_event_whose_handler_ends_badly_is_followed_by_the_next(
    event: str, failure: str
) -> None:
    class OutcomeError(BaseException):
        pass

    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)

        async def fail(**_: Any) -> None:
            if failure == "base exception":
                raise OutcomeError
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(1)

        listener.events.clear_event(event)
        listener.events.register(event, fail)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        await send(session, [b"a message"])
        await session.close()
        await log.until("peer_disconnected")
        await until(lambda: not listener._registry.peers)
        expected = ["session_created", "peer_connected", "session_closed", "peer_disconnected"]
        expected[expected.index(event)] = "error"
        assert log.names == expected
        [(kind, details)] = log.errors
        assert (kind, details["event"], details["handler"]) == ("handler_failed", event, fail)


@pytest.mark.parametrize("event", ["session_created", "peer_connected"])
@in_virtual_time
async def test_a_handler_of_another_event_may_receive_the_peers_messages(event: str) -> None:
    async with memory_nodes(inbox_messages=2) as nodes:
        listener = await nodes.listen()
        received = list[bytes]()

        @listener.events.on_any
        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            await asyncio.sleep(0)

        async def log_in(**_: Any) -> None:
            while len(received) < 10:  # more than the inbox holds
                received.append((await listener.endpoints.receive_any(timeout=5))[0])

        listener.events.register(event, log_in)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        await send(session, numbered(10))
        await until(lambda: len(received) == 10)
        assert received == numbered(10)


@in_virtual_time
async def test_a_handler_that_is_called_once_may_receive_the_messages_after_its_own() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        received = list[bytes]()

        @pair.listener.events.once("data_received")
        async def converse(session_id: bytes, data: bytes) -> None:
            received.append(data)
            while len(received) < 5:
                message = await pair.listener.endpoints.receive_from(pair.dialer.node_id, timeout=5)
                received.append(message[0])

        await send(pair.near, numbered(5))
        await until(lambda: len(received) == 5)
        assert received == numbered(5)


def test_a_report_is_a_tuple_of_losses_that_can_be_copied_and_pickled() -> None:
    report = StopReport((), {b"a peer": [b"1", b"2"]})
    assert report == ()
    assert not report
    for other in (copy.copy(report), pickle.loads(pickle.dumps(report))):  # noqa: S301
        assert isinstance(other, StopReport)
        assert other.undelivered == {b"a peer": (b"1", b"2")}
    assert StopReport().undelivered == {}
