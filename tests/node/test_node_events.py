"""How messages reach a program: through handlers, from the inbox, and from one to the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import (
    BUILT_IN,
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.sessions import numbered
from seigr_toolset_transmissions import EventEmitter, STTNode


class EventMetrics:
    """The specification's, word for word."""

    def __init__(self, event_emitter: Any) -> None:
        self.events = event_emitter
        self.counters: dict[str, int] = {}

        # Intercept all events
        original_emit = self.events.emit

        async def emit_with_metrics(event_name: str, **kwargs: Any) -> Any:
            # Count event
            self.counters[event_name] = self.counters.get(event_name, 0) + 1

            # Call original emit
            return await original_emit(event_name, **kwargs)

        self.events.emit = emit_with_metrics

    def get_stats(self) -> dict[str, int]:
        return self.counters


# The life of a session, reported on both sides.


async def test_both_sides_report_a_sessions_life_in_order() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        logs = [EventLog(dialer), EventLog(listener)]
        session = await dialer.connect(*address_of(listener))
        await logs[1].until("peer_connected")
        await session.close()
        for log, peer in zip(logs, (listener, dialer), strict=True):
            await log.until("peer_disconnected")
            assert log.entries == [
                ("session_created", {"session_id": session.session_id}),
                ("peer_connected", {"peer_node_id": peer.node_id}),
                ("session_closed", {"session_id": session.session_id}),
                ("peer_disconnected", {"peer_node_id": peer.node_id}),
            ]


async def test_the_specifications_handlers_fit_the_built_in_events() -> None:
    """They have exactly these parameters; a wrong one would be a failure of the handler."""
    seen = []

    def register(events: EventEmitter) -> None:
        @events.on("session_created")
        async def handle_session_created(session_id: bytes) -> None:
            seen.append("session_created")

        @events.on("session_closed")
        async def handle_session_closed(session_id: bytes) -> None:
            seen.append("session_closed")

        @events.on("peer_connected")
        async def handle_peer_connected(peer_node_id: bytes) -> None:
            seen.append("peer_connected")

        @events.on("peer_disconnected")
        async def handle_peer_disconnected(peer_node_id: bytes) -> None:
            seen.append("peer_disconnected")

        @events.on("data_received")
        async def handle_data_received(session_id: bytes, data: bytes) -> None:
            seen.append("data_received")

        @events.on("error")
        async def handle_error(error_type: str, details: dict[str, Any]) -> None:
            seen.append(error_type)

    async with Nodes() as nodes:
        listener = await nodes.listen()
        register(listener.events)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        await session.send(b"hello")
        await session.close()
        await until(lambda: "peer_disconnected" in seen)
    assert seen == [
        "session_created",
        "peer_connected",
        "data_received",
        "session_closed",
        "peer_disconnected",
    ]


@pytest.mark.parametrize("event", ["session_closed", "peer_disconnected"])
@in_virtual_time
async def test_a_wait_that_begins_right_after_a_close_sees_the_end_of_the_session(
    event: str,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.close()
        assert (await pair.dialer.events.wait_for(event, timeout=1)).name == event


@pytest.mark.parametrize("heard", ["session_created", "session_closed"])
@in_virtual_time
async def test_events_without_observers_take_no_task(heard: str) -> None:
    """Events with handlers are emitted all the same."""
    owned = []
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        runtime = pair.dialer._runtime
        own = runtime.own

        def count(coroutine: Any, *args: Any, **kwargs: Any) -> Any:
            owned.append(coroutine.__qualname__)
            return own(coroutine, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "own", count)
            session = await pair.dialer.connect(*address_of(pair.listener))
            await session.close()
            await asyncio.sleep(0)
            assert owned == ["Dialer._take_turn"]
            log = EventLog(pair.dialer, heard)
            session = await pair.dialer.connect(*address_of(pair.listener))
            await session.close()
            await log.until(heard)
        assert owned.count("Pump._run") == 1
        assert log.entries == [(heard, {"session_id": session.session_id})]


async def test_the_events_are_the_same_whichever_side_closes() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        logs = [EventLog(dialer), EventLog(listener)]
        pair = await nodes.connect(dialer, listener)
        await pair.far.close()
        for log in logs:
            await log.until("peer_disconnected")
            assert log.names == [
                "session_created",
                "peer_connected",
                "session_closed",
                "peer_disconnected",
            ]


async def test_a_peer_is_reported_once_however_many_sessions_it_has() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        logs = [EventLog(dialer), EventLog(listener)]
        sessions = [await dialer.connect(*address_of(listener)) for _ in range(3)]
        await logs[1].until("session_created", 3)
        for session in sessions:
            await session.close()
        for log in logs:
            await log.until("peer_disconnected")
            assert log.names.count("peer_connected") == log.names.count("peer_disconnected") == 1
            assert log.names.index("peer_connected") == 1
            assert log.names[-2:] == ["session_closed", "peer_disconnected"]
            assert [k["session_id"] for k in log.of("session_created")] == [
                s.session_id for s in sessions
            ]


async def test_a_peer_that_comes_again_is_reported_again() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()
        for round_ in (1, 2):
            session = await dialer.connect(*address_of(listener))
            await log.until("peer_connected", round_)
            await session.close()
            await log.until("peer_disconnected", round_)
        once = ["session_created", "peer_connected", "session_closed", "peer_disconnected"]
        assert log.names == once * 2


async def test_overlapping_sessions_are_reported_in_pairs() -> None:
    """A second session begins and ends while a handler still holds up the events of the first."""
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        gate = asyncio.Event()
        entered: list[bytes] = []

        @listener.events.on("session_created")
        async def slow(session_id: bytes) -> None:
            entered.append(session_id)
            if len(entered) == 2:
                await gate.wait()

        dialer = await nodes.start()
        first = await nodes.connect(dialer, listener)
        await log.until("peer_connected")
        second = await nodes.connect(dialer, listener)
        await until(lambda: len(entered) == 2)
        await second.near.close()
        await first.near.close()
        await log.until("session_closed")
        gate.set()
        await log.until("session_closed", 2)
        await until(lambda: not listener._registry.peers)
        told = [n for n in log.names if n.startswith("peer_")]
        assert told == ["peer_connected", "peer_disconnected"] * (len(told) // 2)
        assert log.errors == []


# Watching everything.


async def test_a_replaced_emit_sees_every_built_in_event() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        metrics = EventMetrics(listener.events)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        for data in numbered(3):
            await session.send(data)
        for data in numbered(3):
            assert await listener.endpoints.receive_any(timeout=9) == (data, dialer.node_id)
        await session.close()
        await until(lambda: "peer_disconnected" in metrics.get_stats())
        assert metrics.get_stats() == {
            "session_created": 1,
            "peer_connected": 1,
            "data_received": 3,
            "session_closed": 1,
            "peer_disconnected": 1,
        }


async def test_on_any_sees_every_built_in_event_with_its_arguments() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        seen: list[tuple[str, dict[str, Any]]] = []

        @listener.events.on_any
        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert args == ()
            assert set(kwargs) == BUILT_IN[name]
            seen.append((name, kwargs))

        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        await session.send(b"hello")
        assert await listener.endpoints.receive_any(timeout=9) == (b"hello", dialer.node_id)
        await session.close()
        await until(lambda: seen and seen[-1][0] == "peer_disconnected")
        assert ("data_received", {"session_id": session.session_id, "data": b"hello"}) in seen
        assert [name for name, _ in seen] == [
            "session_created",
            "peer_connected",
            "data_received",
            "session_closed",
            "peer_disconnected",
        ]


async def test_a_replaced_emit_that_fails_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()

        async def broken(name: str, **kwargs: Any) -> list[Any]:
            raise RuntimeError("a broken wrapper")

        listener.events.emit = broken  # type: ignore[method-assign]
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        for data in numbered(3):
            await session.send(data)
        for data in numbered(3):
            assert (await listener.endpoints.receive_any(timeout=9))[0] == data
        await session.close()
        await until(lambda: not listener.sessions)
    assert "a broken wrapper" in caplog.text


# What a handler may do.


async def test_a_handler_may_answer_over_its_session() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def echo(session_id: bytes, data: bytes) -> None:
            session = pair.listener.get_session(session_id)
            assert session is not None
            await session.send(data.upper())

        for data in (b"a", b"b"):
            await pair.dialer.endpoints.send_to_endpoint(pair.listener.node_id, data)
            answer = await pair.dialer.endpoints.receive_from(pair.listener.node_id, timeout=9)
            assert answer[0] == data.upper()


async def test_a_handler_may_close_the_session_that_it_serves() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        closed = []

        @pair.listener.events.on("data_received")
        async def close(session_id: bytes, data: bytes) -> None:
            session = pair.listener.get_session(session_id)
            assert session is not None
            await session.close()
            closed.append(session.state)

        await pair.near.send(b"go")
        await log.until("peer_disconnected")
        assert closed == ["closed"]
        assert log.names == ["session_closed", "peer_disconnected"]


@pytest.mark.parametrize("event", ["session_created", "peer_connected"])
async def test_a_handler_may_close_a_session_that_has_just_begun(event: str) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()

        async def close(**_: bytes) -> None:
            await listener.sessions[0].close()

        log = EventLog(listener)
        listener.events.register(event, close)
        dialer = await nodes.start()
        await dialer.connect(*address_of(listener))
        await log.until("peer_disconnected")
        assert log.names == [
            "session_created",
            "peer_connected",
            "session_closed",
            "peer_disconnected",
        ]


async def test_a_handler_may_add_and_remove_endpoints() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)

        @listener.events.on("peer_connected")
        async def adopt(peer_node_id: bytes) -> None:
            await listener.endpoints.remove_endpoint(peer_node_id)
            await listener.endpoints.add_endpoint(peer_node_id, ("192.0.2.1", 7), {"kept": True})

        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        await session.send(b"hello")
        assert (await listener.endpoints.receive_any(timeout=9))[0] == b"hello"
        await session.close()
        await log.until("peer_disconnected")
        await until(lambda: not listener._registry.peers)
        info = listener.endpoints.get_endpoint(dialer.node_id)
        assert info is not None  # the application's now
        assert info["metadata"] == {"kept": True}
        await listener.endpoints.remove_endpoint(dialer.node_id)


async def test_a_handler_may_connect_elsewhere() -> None:
    async with Nodes() as nodes:
        relay = await nodes.listen("bob")
        target = await nodes.listen("carol")

        @relay.events.on("data_received")
        async def forward(session_id: bytes, data: bytes) -> None:
            session = await relay.connect(*address_of(target))
            await session.send(data)
            await session.close()

        dialer = await nodes.start()
        session = await dialer.connect(*address_of(relay))
        await session.send(b"onwards")
        assert await target.endpoints.receive_any(timeout=9) == (b"onwards", relay.node_id)


@in_virtual_time
async def test_the_events_of_a_lost_peer_come_in_order() -> None:
    async with memory_nodes(resume_window=20) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        await pair.near.send(b"arrives")
        await pair.near.flush()
        live(pair.near)._connection._transport.abort()  # type: ignore[union-attr]
        await pair.listener.stop(drain=0)
        await log.until("session_suspended")
        await pair.near.send(b"never arrives")
        await log.until("peer_disconnected", seconds=60)
        assert log.names == ["session_suspended", "error", "session_closed", "peer_disconnected"]
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert details["session_id"] == pair.near.session_id
        assert details["peer_node_id"] == pair.listener.node_id
        assert details["unsent"] == (b"never arrives",)
        assert details["unknown"] == ()
        assert "20 s" in details["reason"]


def test_a_given_emitter_is_used() -> None:
    events = EventEmitter()
    assert STTNode(b"x" * 16, b"y" * 16, events=events).events is events
