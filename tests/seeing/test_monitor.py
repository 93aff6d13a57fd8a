"""A node that is watched: rates, their history, events, and what watching does not change."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Never

import pytest

from helpers.nodes import address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import EventEmitter
from seigr_toolset_transmissions.seeing import Monitor, Rates, SeenEvent, monitor

if TYPE_CHECKING:
    from seigr_toolset_transmissions.seeing import Sample

NOTHING = Rates(0, 0, 0, 0)


@pytest.fixture(autouse=True)
def snapshots_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "thread_time", lambda: 0.0)


@in_virtual_time
async def test_rates_are_what_came_and_went_each_second() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with Monitor(pair.listener) as watched:
            assert watched.snapshot.stats.messages_received == 0
            assert watched.endpoint_rates() == {}
            await pair.near.send(b"one")
            await pair.near.send(b"three")
            await pair.far.send(b"a reply")
            await asyncio.sleep(1.5)
            (sample,) = watched.history
            assert sample.rates == pytest.approx(Rates(1, 2, 7, 8))
            assert watched.endpoint_rates() == {pair.dialer.node_id: sample.rates}
            assert sample.stats == watched.snapshot.stats
            await asyncio.sleep(1)
            assert [each.rates for each in watched.history] == [sample.rates, NOTHING]
            assert watched.endpoint_rates() == {pair.dialer.node_id: NOTHING}


@in_virtual_time
async def test_the_rates_of_an_endpoint_that_is_added_again_begin_at_nothing() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.send(bytes(100))
        await pair.near.flush()
        async with Monitor(pair.listener) as watched:
            await asyncio.sleep(1.2)
            await pair.listener.endpoints.receive_any()
            await pair.near.close()
            await until(lambda: not pair.listener.sessions)
            again = await nodes.connect(pair.dialer, pair.listener)
            await again.near.send(bytes(10))
            await again.near.flush()
            await asyncio.sleep(1)
            rates = watched.endpoint_rates()[pair.dialer.node_id]
            assert rates == pytest.approx(Rates(0, 1, 0, 10))
            assert watched.history[-1].rates == pytest.approx(rates)


@in_virtual_time
async def test_rates_can_be_asked_for_some_endpoints_alone() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with Monitor(pair.listener) as watched:
            await asyncio.sleep(1.5)
            assert watched.endpoint_rates({pair.dialer.node_id}) == watched.endpoint_rates()
            assert watched.endpoint_rates({b"another"}) == {}


@in_virtual_time
async def test_events_do_not_wake_a_reader_of_samples() -> None:
    """There may be thousands in a second."""
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with Monitor(node) as watched:
            reading = asyncio.create_task(anext(watched.samples(), None))
            await asyncio.sleep(0.5)
            asyncio.get_running_loop().call_soon = fail  # type: ignore[method-assign]
            try:
                watched._note(SeenEvent(1, 0.0, "hub_lost", {}))
            finally:
                del asyncio.get_running_loop().call_soon
            assert (await reading) is watched.history[0]


def fail(*_: object, **__: object) -> Never:
    raise AssertionError("something was woken")


@in_virtual_time
async def test_the_history_holds_the_last_ten_minutes() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with Monitor(node) as watched:
            await asyncio.sleep(700.5)
            assert len(watched.history) == 600
            first, *_, last = (sample.time for sample in watched.history)
            assert first <= last == watched.snapshot.time
            assert watched.snapshot.uptime == pytest.approx(700, abs=0.1)


@in_virtual_time
async def test_a_sample_has_the_round_trips_of_the_endpoints() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        lonely = await nodes.start("carol")
        async with Monitor(pair.listener) as watched, Monitor(lonely) as alone:
            pair.far.ping()
            await asyncio.sleep(1.5)
            (sample,) = watched.history
            (nothing,) = alone.history
        assert sample.rtt == sample.rtt_high == watched.snapshot.endpoints[0].rtt is not None
        assert nothing.rtt is nothing.rtt_high is None


@in_virtual_time
async def test_events_are_kept_with_their_time_and_without_payloads() -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen("bob")
        dialer = await nodes.start("alice")
        async with Monitor(listener) as watched:
            pair = await nodes.connect(dialer, listener)
            await pair.far.send(b"the payload")
            live(pair.far).lose("for the test")
            await until(lambda: len(watched.events) >= 5)
            assert [event.name for event in watched.events] == [
                "session_created",
                "peer_connected",
                "error",
                "session_closed",
                "peer_disconnected",
            ]
            assert [event.number for event in watched.events] == [1, 2, 3, 4, 5]
            _, connected, error, *_ = watched.events
            peer = dialer.node_id.hex()
            assert connected.facts == {"peer_node_id": peer}
            assert connected.time == pytest.approx(watched.snapshot.time, abs=30)
            assert error.facts == {
                "error_type": "session_lost",
                "session_id": pair.far.session_id.hex(),
                "peer_node_id": peer,
                "reason": error.facts["reason"],
            }
            assert "for the test" in str(error.facts["reason"])
            assert "payload" not in repr(watched.events)


@in_virtual_time
async def test_the_last_thousand_events_are_kept() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with Monitor(node) as watched:
            for number in range(1001):
                await node.events.emit("hub_lost", hub=f"{number:04}")
            assert len(watched.events) == 1000
            assert (watched.events[0].number, watched.events[0].facts) == (2, {"hub": "0001"})


@in_virtual_time
async def test_events_of_a_program_with_the_names_of_a_node_do_no_harm() -> None:
    async with memory_nodes() as nodes:
        events = EventEmitter()
        node = await nodes.start(events=events)
        async with Monitor(node) as watched:
            await events.emit("error", "text", details=[1])
            await events.emit("error", error_type=object(), details={"reason": "x" * 1000})
            await events.emit("error", details={"address": ("a host", 9000), "count": 3})
            await events.emit("error", details={"count": 10**5000})  # too long for JSON
            assert [event.facts for event in watched.events] == [
                {},
                {"error_type": "object", "reason": "x" * 200},
                {"address": "a host port 9000", "count": 3},
                {"count": "int"},
            ]


@in_virtual_time
async def test_messages_go_to_the_inbox_and_are_no_events() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with Monitor(pair.listener) as watched:
            assert not pair.listener.events.observed("data_received")
            await pair.near.send(b"a message")
            assert await pair.listener.endpoints.receive_any() == (
                b"a message",
                pair.dialer.node_id,
            )
            assert watched.events == []


@in_virtual_time
async def test_an_error_that_only_a_monitor_sees_is_a_warning_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with Monitor(pair.listener) as watched:
            await pair.far.send(b"a message")
            live(pair.far).lose("for the test")
            await until(lambda: watched.events)
    assert [record.levelno for record in caplog.records if "session_lost" in record.message] == [
        logging.WARNING
    ]


@in_virtual_time
async def test_a_reader_gets_each_sample_and_a_slow_one_the_latest() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with Monitor(node) as watched:

            async def read(pause: float) -> list[Sample]:
                found = []
                async for sample in watched.samples():
                    found.append(sample)
                    assert sample is watched.history[-1]
                    await asyncio.sleep(pause)
                return found

            fast, slow = asyncio.create_task(read(0)), asyncio.create_task(read(2.7))
            await asyncio.sleep(9.5)
            history = watched.history
        assert len(history) == 9
        assert await fast == history
        assert await slow == [history[number] for number in (0, 2, 5, 8)]


@in_virtual_time
async def test_watching_ends_when_the_node_stops() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with Monitor(pair.listener) as watched:
            reading = asyncio.create_task(anext(watched.samples(), None))
            await asyncio.sleep(0.5)
            await pair.listener.stop()
            assert not watched.watching
            assert await reading is None
            assert watched.events[-1].name == "peer_disconnected"
            await pair.listener.start()
            await asyncio.sleep(3600)
            assert (watched.history, watched.snapshot.stats.sessions) == ([], 1)
        async with watched:
            await asyncio.sleep(1.5)
            assert (len(watched.history), watched.events) == (1, [])


@in_virtual_time
async def test_watching_ends_with_its_node_though_another_one_shares_the_emitter() -> None:
    async with memory_nodes() as nodes:
        events = EventEmitter()
        node = await nodes.start("alice", events=events)
        await nodes.start("bob", events=events)
        async with Monitor(node) as watched:
            await asyncio.sleep(2.5)
            await node.stop()
            reading = [sample async for sample in watched.samples()]
            assert reading == []
            assert not watched.watching


@in_virtual_time
async def test_the_end_of_the_block_ends_watching() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.listen()
        watched = Monitor(node)
        with pytest.raises(RuntimeError, match="nothing was watched"):
            _ = watched.snapshot
        async with watched:
            with pytest.raises(RuntimeError, match="already in use"):
                await watched.__aenter__()
            await asyncio.sleep(1.5)
        assert not watched.watching
        assert not node.events.observed("peer_connected")
        dialer = await nodes.start("alice")
        await dialer.connect(*address_of(node))
        await asyncio.sleep(60)
        assert (len(watched.history), watched.events) == (1, [])


@in_virtual_time
async def test_a_node_that_does_not_run_cannot_be_watched() -> None:
    async with memory_nodes() as nodes:
        watched = Monitor(nodes.make())
        with pytest.raises(RuntimeError, match="the node is not running"):
            await watched.__aenter__()


@in_virtual_time
async def test_snapshots_that_take_long_are_taken_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(monitor, "thread_time", lambda: next(clock) * 0.1)
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with Monitor(node) as watched:
            await asyncio.sleep(10.5)
            assert len(watched.history) == 5  # a twentieth of 2 seconds each


@in_virtual_time
async def test_a_reader_ends_with_its_block_even_if_the_next_one_begins_at_once() -> None:
    async with memory_nodes() as nodes:
        monitor = Monitor(await nodes.listen("bob"))

        async def read() -> None:
            async for _ in monitor.samples():
                pass

        async with monitor:
            reader = asyncio.create_task(read())
            await asyncio.sleep(1.5)
        async with monitor:
            await asyncio.wait_for(reader, 5)
