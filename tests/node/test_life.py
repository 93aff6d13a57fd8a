"""How a node stops, whatever holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from typing import Any

import pytest

from helpers.fault_network import FaultNetwork
from helpers.nodes import (
    BUILT_IN,
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    assert_nothing_held,
    free_port,
    in_virtual_time,
    live,
    memory_nodes,
    seed_of,
    until,
)
from helpers.relay import Kind, Relay
from seigr_toolset_transmissions import EventEmitter, STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTEventError,
    STTHandshakeError,
    STTTimeoutError,
)
from seigr_toolset_transmissions.transports.memory import MemoryNetwork


async def test_a_node_that_never_ran_can_be_stopped() -> None:
    node = STTNode(seed_of("alice"), SHARED_SEED)
    assert await node.stop() == ()


async def test_stopping_twice_or_concurrently_stops_once() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        results = await asyncio.gather(*(pair.dialer.stop() for _ in range(3)))
        assert results == [(), (), ()]
        assert await pair.dialer.stop() == ()
        assert_nothing_held(pair.dialer)


async def test_a_stop_says_goodbye_to_the_peers() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        await pair.dialer.stop()
        await log.until("peer_disconnected")
        assert log.names == ["session_closed", "peer_disconnected"]
        assert pair.near.state == pair.far.state == "closed"


async def test_a_stop_delivers_accepted_messages() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        messages = [b"%d" % k for k in range(1000)]
        for data in messages:
            pair.near.send_nowait(data)
        assert await pair.dialer.stop() == ()
        for data in messages:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data


async def test_a_stopped_node_can_be_started_again_as_another_incarnation() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        first = pair.far.peer_incarnation
        await pair.dialer.stop()
        await pair.dialer.start()
        again = await nodes.connect(pair.dialer, pair.listener)
        assert again.far.peer_incarnation != first
        assert again.far.peer_node_id == pair.far.peer_node_id
        await again.near.send(b"again")
        await until(lambda: again.far.stats.messages_received == 1)


async def test_a_stop_during_the_start_wins() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        for _ in range(2):  # the second time it has run before
            starting = asyncio.create_task(node.start(server_mode=True))
            await asyncio.sleep(0)
            assert await node.stop() == ()
            with pytest.raises(RuntimeError, match="stopped"):
                await starting
            assert_nothing_held(node)
            await node.start(server_mode=True)
            await node.stop()


@in_virtual_time
async def test_receivers_learn_that_the_node_was_stopped() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        endpoints, stranger = pair.listener.endpoints, b"added by the program"
        await endpoints.add_endpoint(stranger, None)

        def receiving() -> list[asyncio.Task[Any]]:
            return [
                asyncio.create_task(endpoints.receive_any()),
                asyncio.create_task(endpoints.receive_any(timeout=1000)),
                asyncio.create_task(endpoints.receive_from(stranger)),
            ]

        waiting = receiving()
        of_the_peer = asyncio.create_task(endpoints.receive_from(pair.dialer.node_id))
        await asyncio.sleep(1)
        await pair.listener.stop()
        for task in [*waiting, of_the_peer, *receiving()]:
            with pytest.raises(STTEndpointError, match="the node was stopped") as ended:
                await task
            assert not isinstance(ended.value, TimeoutError)
        with pytest.raises(STTTimeoutError):
            await endpoints.receive_any(timeout=0)


@pytest.mark.parametrize("event", sorted(BUILT_IN))
@in_virtual_time
async def test_waits_for_events_learn_that_the_node_was_stopped(event: str) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.listen()

        async def read() -> None:
            async with node.events.stream(event) as stream:
                async for _ in stream:
                    raise AssertionError("nothing was emitted")

        waiting = [
            asyncio.create_task(node.events.wait_for(event)),
            asyncio.create_task(node.events.wait_for(event, lambda _: False, timeout=1000)),
            asyncio.create_task(read()),
        ]
        own = asyncio.create_task(node.events.wait_for("an event of the program"))
        await asyncio.sleep(1)
        await node.stop()
        for task in waiting:
            with pytest.raises(STTEventError, match="the node was stopped"):
                await task
        for_the_next_life = asyncio.create_task(node.events.wait_for("peer_connected"))
        await asyncio.sleep(1)
        assert not own.done()
        own.cancel()
        await node.start(server_mode=True)
        await nodes.connect(await nodes.start("alice"), node)
        await for_the_next_life


@in_virtual_time
async def test_a_stream_is_read_to_its_end_before_it_ends_with_the_node() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with pair.listener.events.stream("data_received", maxsize=2) as stream:
            for data in (b"1", b"2"):
                await pair.near.send(data)
            await asyncio.sleep(1)
            await pair.listener.stop()
            for data in (b"1", b"2"):
                assert (await anext(stream)).kwargs["data"] == data
            for _ in range(2):
                with pytest.raises(STTEventError, match="the node was stopped"):
                    await anext(stream)


@in_virtual_time
async def test_nodes_that_share_an_emitter_end_its_waits_with_the_last_of_them() -> None:
    async with memory_nodes() as nodes:
        events = EventEmitter()
        one = await nodes.start("alice", events=events)
        other = await nodes.start("bob", events=events)
        waiting = asyncio.create_task(events.wait_for("peer_connected"))
        await asyncio.sleep(1)
        await one.stop()
        await asyncio.sleep(1)
        assert not waiting.done()
        await other.stop()
        with pytest.raises(STTEventError, match="the node was stopped"):
            await waiting


@in_virtual_time
async def test_messages_received_by_a_stopped_node_can_be_read() -> None:
    async with memory_nodes(inbox_messages=3) as nodes:
        pair = await nodes.pair()
        messages = [b"%d" % k for k in range(10)]
        for data in messages:
            await pair.near.send(data)
        await pair.near.flush()
        await pair.listener.stop()
        for data in messages:
            assert await pair.listener.endpoints.receive_any() == (data, pair.dialer.node_id)
        with pytest.raises(STTEndpointError, match="the node was stopped"):
            await pair.listener.endpoints.receive_any()


@in_virtual_time
async def test_receivers_wait_again_on_a_node_that_was_started_again() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        for _ in range(2):
            await pair.listener.stop()
            await pair.listener.start(server_mode=True)
            receiving = asyncio.create_task(pair.listener.endpoints.receive_any())
            again = await nodes.connect(pair.dialer, pair.listener)
            assert not receiving.done()
            await again.near.send(b"again")
            assert (await receiving)[0] == b"again"


@in_virtual_time
async def test_receivers_wait_on_a_node_that_is_yet_to_be_started() -> None:
    async with memory_nodes() as nodes:
        listener, dialer = nodes.make("bob"), await nodes.start("alice")
        receiving = asyncio.create_task(listener.endpoints.receive_any())
        await asyncio.sleep(1)
        await listener.start(server_mode=True)
        pair = await nodes.connect(dialer, listener)
        await pair.near.send(b"hello")
        assert (await receiving)[0] == b"hello"


@pytest.mark.parametrize("starting", [False, True])
async def test_a_stop_before_the_start_ends_waiting_receivers(starting: bool) -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        receiving = asyncio.create_task(node.endpoints.receive_any())
        start = asyncio.create_task(node.start()) if starting else None
        await asyncio.sleep(0)
        await node.stop()
        with pytest.raises(STTEndpointError, match="the node was stopped"):
            await receiving
        if start is not None:
            with pytest.raises(RuntimeError, match="stopped"):
                await start


@in_virtual_time
async def test_a_stop_with_a_handler_that_hangs_is_bounded_and_reports_the_end() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)

        @pair.listener.events.on("data_received")
        async def hang(session_id: bytes, data: bytes) -> None:
            await asyncio.Event().wait()

        await pair.near.send(b"hang")
        await pair.near.send(b"is never handed on")
        await pair.near.flush()
        loop = asyncio.get_running_loop()
        before = loop.time()
        report = await pair.listener.stop()
        assert loop.time() - before < 7
        assert report.undelivered == {pair.dialer.node_id: (b"is never handed on",)}
        assert log.names == ["error", "session_closed", "peer_disconnected"]
        assert_nothing_held(pair.listener)


@in_virtual_time
async def test_a_stop_with_hanging_handlers_of_every_event_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen()

        async def hang(**_: Any) -> None:
            await asyncio.Event().wait()

        for event in ("session_created", "peer_connected", "session_closed", "peer_disconnected"):
            listener.events.register(event, hang)
        dialer = await nodes.start()
        await nodes.connect(dialer, listener)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await listener.stop()
        assert loop.time() - before < 10
        assert caplog.text == ""  # all of them could be ended
        for event in list(listener.events.events()):
            listener.events.clear_event(event)
        # Nothing of it remains for the next life.
        log = EventLog(listener)
        await listener.start(server_mode=True)
        again = await nodes.connect(dialer, listener)
        await again.near.close()
        await log.until("peer_disconnected")
        assert log.names == [
            "session_created",
            "peer_connected",
            "session_closed",
            "peer_disconnected",
        ]


@in_virtual_time
async def test_a_handler_that_cannot_be_ended_is_reported_and_does_not_outlive_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        release = asyncio.Event()

        @listener.events.on("peer_connected")
        async def resist(peer_node_id: bytes) -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        dialer = await nodes.start()
        await nodes.connect(dialer, listener)
        await listener.stop()
        assert "a handler is still running although it was cancelled" in caplog.text
        listener.events.clear_all()
        log = EventLog(listener)
        await listener.start(server_mode=True)
        await nodes.connect(dialer, listener)
        await log.until("peer_connected")
        release.set()
        await until(lambda: len(listener._runtime._tasks) == 0)
        assert len(listener._registry.peers) == 1


@in_virtual_time
async def test_a_stop_with_a_peer_that_hangs_is_bounded_and_reports_undelivered_messages() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"into the hole")
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        before = loop.time()
        (error,) = await pair.dialer.stop()
        assert loop.time() - before < 12
        assert error.session_id == pair.near.session_id
        assert error.unknown == (b"into the hole",)
        assert_nothing_held(pair.dialer)


async def test_a_stop_with_a_peer_that_hangs_is_bounded_by_drain() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        relay.links[0].cut(Kind.BLACK_HOLE)
        await pair.near.send(b"into the hole")
        loop = asyncio.get_running_loop()
        before = loop.time()
        (error,) = await dialer.stop(drain=0.05)
        assert loop.time() - before < 2
        assert error.unknown == (b"into the hole",)


@in_virtual_time
async def test_a_stop_with_nothing_to_deliver_does_not_wait_for_a_peer_that_is_out_of_reach() -> (
    None
):
    async with memory_nodes(close_timeout=5) as nodes:
        pair = await nodes.pair()
        live(pair.near).dial_address = ("nowhere", 1)
        live(pair.far).cut("test")
        await until(lambda: pair.near.state == "suspended")
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await pair.dialer.stop() == ()
        assert loop.time() - before < 1


@pytest.mark.usefixtures("longest_draw")  # or the session is back before it is looked at
@in_virtual_time
async def test_a_stop_dials_again_to_deliver_accepted_messages() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.near.state == "suspended")
        await pair.near.send(b"last words")
        assert await pair.dialer.stop() == ()
        assert (await pair.listener.endpoints.receive_any(timeout=1))[0] == b"last words"


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "among several"])
@pytest.mark.parametrize("how", ["awaited", "as a task"])
async def test_a_node_may_be_stopped_by_a_handler(others: int, how: str) -> None:
    async with Nodes(close_timeout=5) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        stopped = asyncio.Event()

        async def idle(session_id: bytes, data: bytes) -> None:
            pass

        @pair.listener.events.on("data_received")
        async def stop(session_id: bytes, data: bytes) -> None:
            stopping = pair.listener.stop()
            if how == "awaited":
                assert await stopping == ()
            else:
                assert await asyncio.create_task(stopping) == ()
            stopped.set()

        for _ in range(others):
            pair.listener.events.register("data_received", idle)
        await pair.near.send(b"stop")
        async with asyncio.timeout(3):  # it does not wait for its own handler
            await stopped.wait()
        await log.until("peer_disconnected")
        assert log.names == ["session_closed", "peer_disconnected"]
        assert log.errors == []
        await until(lambda: not pair.listener._runtime._tasks)


@pytest.mark.parametrize(
    "event", ["session_created", "peer_connected", "session_closed", "peer_disconnected"]
)
async def test_a_node_may_be_stopped_by_a_handler_of_any_event(event: str) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        stopped = asyncio.Event()

        async def stop(**_: Any) -> None:
            await listener.stop()
            stopped.set()

        listener.events.register(event, stop)
        dialer = await nodes.start()
        session = await dialer.connect(*address_of(listener))
        if event in {"session_closed", "peer_disconnected"}:
            await session.close()
        async with asyncio.timeout(3):
            await stopped.wait()
        await until(lambda: not listener._runtime._tasks)


async def test_a_node_may_be_stopped_by_a_handler_of_errors() -> None:
    """Such a handler runs for no session."""
    async with Nodes() as nodes:
        listener = await nodes.listen()
        stopped = asyncio.Event()

        @listener.events.on("error")
        async def stop(error_type: str, details: dict[str, Any]) -> None:
            await listener.stop()
            stopped.set()

        stranger = await nodes.start("alice", shared=b"the seed of another group")
        with pytest.raises(STTConnectError):
            await stranger.connect(*address_of(listener))
        async with asyncio.timeout(3):
            await stopped.wait()


async def test_a_node_may_be_stopped_by_a_handler_of_a_dial_that_failed() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        stopped = asyncio.Event()

        @node.events.on("error")
        async def stop(error_type: str, details: dict[str, Any]) -> None:
            assert error_type == "connect_failed"
            await node.stop()
            stopped.set()

        address = ("127.0.0.1", free_port())
        await node.endpoints.add_endpoint(b"x" * 32, address, connect=True)
        async with asyncio.timeout(3):
            await stopped.wait()
        await until(lambda: not node._runtime._tasks)


@pytest.mark.parametrize("later", [0.0, 0.1], ids=["at once", "a while later"])
async def test_two_handlers_that_stop_the_node_do_not_wait_for_each_other(later: float) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        entered = []
        stopped = []
        both = asyncio.Event()

        @listener.events.on("data_received")
        async def stop(session_id: bytes, data: bytes) -> None:
            entered.append(session_id)
            if len(entered) == 2:
                both.set()
            await both.wait()
            if session_id == entered[0]:
                await asyncio.sleep(later)
            await listener.stop()
            stopped.append(session_id)

        dialer = await nodes.start()
        for _ in range(2):
            session = await dialer.connect(*address_of(listener))
            await session.send(b"stop")
        await until(lambda: len(stopped) == 2, seconds=3)
        await until(lambda: not listener._runtime._tasks)


async def test_a_cancelled_stop_continues() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        stopping = asyncio.create_task(pair.dialer.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert await pair.dialer.stop() == ()
        assert_nothing_held(pair.dialer)


@pytest.mark.parametrize("turns", range(12))
async def test_a_stop_ends_a_connect_wherever_it_is(turns: int) -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        connecting = asyncio.create_task(dialer.connect(*address_of(listener)))
        for _ in range(turns):
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await dialer.stop()
        assert loop.time() - before < 1
        if not connecting.done():
            await asyncio.wait([connecting], timeout=1)
        if isinstance(connecting.exception(), STTConnectError):
            assert "stop" in str(connecting.exception())
        else:
            assert connecting.result().state == "closed"
        assert_nothing_held(dialer)


def test_nothing_is_left_of_a_node_when_its_loop_is_closed_at_once() -> None:
    """No socket and no timer: the loop gets no turn after the stop."""

    async def main() -> None:
        listener = STTNode(seed_of("bob"), SHARED_SEED)
        dialer = STTNode(seed_of("alice"), SHARED_SEED)
        stranger = STTNode(seed_of("alice"), b"the seed of another group")
        address = await listener.start(server_mode=True)
        assert address is not None
        await dialer.start()
        await stranger.start()
        session = await dialer.connect(*address)
        await session.send(b"hello")
        with pytest.raises(STTHandshakeError):
            await stranger.connect(*address)
        connecting = asyncio.create_task(stranger.connect(*address))
        await asyncio.sleep(0)
        await asyncio.gather(listener.stop(), dialer.stop(), stranger.stop())
        await asyncio.wait([connecting])
        assert isinstance(connecting.exception(), STTConnectError)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
            assert not asyncio.all_tasks(loop)
        finally:
            loop.close()
        del loop
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def test_a_stop_ends_handshakes_that_have_only_begun() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        reader, writer = await asyncio.open_connection(*address_of(listener))
        writer.write(b"x")
        await until(lambda: any(answering.heard for answering in listener._life.acceptor.answering))
        await listener.stop()
        assert_nothing_held(listener)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert log.names == []


@in_virtual_time
async def test_a_refused_dialer_that_hangs_does_not_outlive_the_stop() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, max_sessions=1) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        await nodes.connect(dialer, listener)
        connecting = asyncio.create_task(dialer.connect(*address_of(listener)))
        await until(lambda: listener.stats().handshakes_failed == 1)
        await listener.stop()
        with pytest.raises(STTConnectError):
            await connecting
