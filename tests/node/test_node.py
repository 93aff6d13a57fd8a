"""A node's life: starting, stopping, connecting, its endpoints, its limits and its secrets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import socket
import traceback
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import Fault, FaultNetwork
from helpers.nodes import (
    BUILT_IN,
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    assert_no_task_left,
    assert_nothing_held,
    in_virtual_time,
    live,
    memory_nodes,
    seed_of,
    until,
)
from helpers.relay import Direction, Kind, Relay
from seigr_toolset_transmissions import EventEmitter, NodeConfig, SendOutcome, STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTError,
    STTEventError,
    STTHandshakeError,
    STTIdentityError,
    STTListenError,
    STTSeedError,
    STTSessionClosedError,
    STTSilenceError,
    STTTimeoutError,
)
from seigr_toolset_transmissions.identity import Identity, derive_psk
from seigr_toolset_transmissions.sessions.handshaking import Answering
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from seigr_toolset_transmissions.transports.base import Address


@asynccontextmanager
async def server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Address]:
    """A TCP server that is not a node."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[:2]
    finally:
        listening.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# Starting.


async def test_a_listening_node_says_where_it_is() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        before = node.address
        assert before is None
        address = await node.start(server_mode=True)
        assert address == node.address
        assert address is not None
        assert address[0] == "127.0.0.1"
        assert address[1] > 0
        await node.stop()
        assert node.address is None


async def test_a_node_that_only_dials_has_no_address() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        assert node.address is None


async def test_a_node_listens_within_a_block_and_is_stopped_at_its_end() -> None:
    async with Nodes() as nodes:
        hub, peer = nodes.make(), await nodes.start("carol")
        async with hub.listening() as same:
            assert same is hub
            await peer.connect(*address_of(hub))
        assert hub.address is None
        with pytest.raises(RuntimeError, match="not running"):
            await hub.connect("127.0.0.1", 1)
        async with hub.listening():  # once more
            await peer.connect(*address_of(hub))


async def test_a_node_that_cannot_listen_is_not_started_by_its_block() -> None:
    async with Nodes() as nodes:
        port = address_of(await nodes.listen())[1]
        second = nodes.make("alice", port=port)
        with pytest.raises(STTListenError):
            async with second.listening():
                pytest.fail("the block must not begin")
        await second.start()


async def test_a_node_with_a_port_that_only_dials_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Nodes() as nodes:
        node = nodes.make(port=9400)
        for _ in range(2):
            await node.start()
            await node.stop()
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "port 9400" in record.getMessage()
        assert "node.listening()" in record.getMessage()


@pytest.mark.parametrize("server_mode", [True, False])
async def test_a_node_without_a_port_of_its_own_does_not_warn(
    no_log: None, server_mode: bool
) -> None:
    async with Nodes() as nodes:
        await nodes.make().start(server_mode)


async def test_the_node_id_is_that_of_the_seed() -> None:
    node = STTNode(seed_of("alice"), SHARED_SEED)
    assert node.node_id == Identity.from_seed(seed_of("alice")).node_id
    assert len(node.node_id) == 32


async def test_a_busy_port_is_reported_with_the_remedy() -> None:
    async with Nodes() as nodes:
        first = await nodes.listen()
        port = address_of(first)[1]
        second = nodes.make("alice", port=port)
        with pytest.raises(STTListenError, match=rf"{port}.*another host or port") as caught:
            await second.start(server_mode=True)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(RuntimeError, match="not running"):
            await second.connect(*address_of(first))
        await first.stop()
        assert await second.start(server_mode=True) == ("127.0.0.1", port)


async def test_a_running_node_cannot_be_started() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            await node.start()


@pytest.mark.parametrize("which", ["node_seed", "shared_seed"])
@pytest.mark.parametrize("bad", [b"", b"fifteen bytes!!", "a text of sixteen", bytearray(32), None])
def test_a_seed_that_cannot_be_used_is_refused_with_the_remedy(which: str, bad: Any) -> None:
    seeds: dict[str, Any] = {"node_seed": b"n" * 16, "shared_seed": b"s" * 16} | {which: bad}
    with pytest.raises(STTSeedError, match=rf"^{which} must .*`stt keygen`") as caught:
        STTNode(**seeds)
    if bad:
        text = bad if isinstance(bad, str) else bytes(bad).decode()
        assert text not in str(caught.value)


async def test_a_block_starts_and_stops_the_node() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        async with node as entered:
            assert entered is node
            with pytest.raises(RuntimeError):
                await node.start()
        assert_nothing_held(node)
        listener = await nodes.listen("bob")
        async with listener:
            assert listener.address is not None
        assert listener.address is None


@pytest.mark.parametrize("when", ["never", "stopped"])
async def test_a_node_that_does_not_run_says_so(when: str) -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        if when == "stopped":
            await node.start()
            await node.stop()
        with pytest.raises(RuntimeError, match="start"):
            await node.connect("127.0.0.1", 1)
        await node.endpoints.add_endpoint(b"x" * 32, ("127.0.0.1", 1))
        with pytest.raises(RuntimeError, match="start"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")
        assert await node.send_to_all(b"data") == {}
        assert node.sessions == []
        gc.collect()  # a coroutine that was never awaited would be reported now


async def test_a_start_that_is_cancelled_leaves_the_node_stopped() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        starting = asyncio.create_task(node.start(server_mode=True))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await node.start(server_mode=True) is not None


# Stopping.


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
async def test_a_stop_does_not_wait_for_suspended_sessions_with_nothing_to_deliver() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=1000) as nodes:
        pair = await nodes.pair()
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        await pair.far.send(b"cannot be delivered: nobody will listen")
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await pair.dialer.stop() == ()
        (error,) = await pair.listener.stop()
        assert error.unsent == (b"cannot be delivered: nobody will listen",)
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


# Connecting.


async def test_connect_returns_an_open_session_known_on_both_sides() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        assert pair.near.state == "open"
        assert pair.near.session_id == pair.far.session_id
        assert len(pair.near.session_id) == 16
        assert pair.near.peer_node_id == pair.listener.node_id
        assert pair.far.peer_node_id == pair.dialer.node_id
        assert pair.near.address == address_of(pair.listener)
        assert pair.dialer.sessions == [pair.near]
        assert pair.dialer.get_session(pair.near.session_id) is pair.near
        assert pair.dialer.get_session(bytes(16)) is None
        assert pair.dialer.get_session_for_endpoint(pair.listener.node_id) is pair.near
        assert pair.listener.get_session_for_endpoint(pair.dialer.node_id) is pair.far
        assert pair.dialer.get_session_for_endpoint(pair.dialer.node_id) is None


async def test_the_list_of_sessions_is_a_snapshot() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pair.dialer.sessions.clear()
        assert pair.dialer.sessions == [pair.near]


async def test_another_shared_seed_is_reported() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        stranger = await nodes.start("alice", shared=b"the seed of another group")
        with pytest.raises(STTHandshakeError, match="has another shared seed"):
            await stranger.connect(*address_of(listener))
        await log.until("error")
        ((error_type, details),) = log.errors
        assert error_type == "handshake_failed"
        assert details["count"] == 1
        assert details["address"][0] == "127.0.0.1"
        assert log.names == ["error"]
        assert stranger.stats().handshakes_failed == listener.stats().handshakes_failed == 3


async def test_an_unexpected_identity_is_reported() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen("bob")
        log = EventLog(listener)
        dialer = await nodes.start("alice")
        carol = Identity.from_seed(seed_of("carol")).node_id
        with pytest.raises(STTSilenceError, match=f"does not answer as node {carol.hex()}") as told:
            await dialer.connect(*address_of(listener), expect=carol)
        assert isinstance(told.value, STTIdentityError)
        assert isinstance(told.value, STTHandshakeError)
        assert dialer.sessions == []
        session = await dialer.connect(*address_of(listener), expect=listener.node_id)
        await session.close()
        await log.until("peer_disconnected")
        assert len(log.of("session_created")) == 1


async def test_connecting_to_oneself_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.listen()
        with pytest.raises(STTIdentityError, match=r"own|itself"):
            await node.connect(*address_of(node))
        assert node.sessions == []
        assert len(node.endpoints) == 0


async def test_a_port_without_a_listener_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(STTConnectError, match=r"cannot reach .*is the node there running"):
            await node.connect("127.0.0.1", free_port())


async def test_a_host_that_does_not_exist_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(STTConnectError, match=r"cannot reach no\.such\.host\.invalid"):
            await node.connect("no.such.host.invalid", 9000)


@pytest.mark.parametrize(
    ("host", "port", "advice"),
    [
        ("127.0.0.1", "9400", "an address is a host"),
        (9400, 9400, "an address is a host"),
        (None, 9400, '"" means all addresses'),
    ],
)
def test_a_host_or_port_of_a_wrong_type_is_refused_at_once(
    host: Any, port: Any, advice: str
) -> None:
    with pytest.raises(TypeError, match=advice):
        STTNode(seed_of("alice"), SHARED_SEED, host, port)


@pytest.mark.parametrize(
    ("host", "parts"),
    [("192.0.2.7:9400", "'192.0.2.7' and 9400"), ("[::1]:9400", "'::1' and 9400")],
)
async def test_a_host_that_contains_the_port_is_refused_with_both_parts(
    host: str, parts: str
) -> None:
    with pytest.raises(ValueError, match=f"give them separately, {parts}"):
        STTNode(seed_of("alice"), SHARED_SEED, host)
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(ValueError, match=f"give them separately, {parts}"):
            await node.connect(host, 9400)


@pytest.mark.parametrize("port", [-1, 70000])
async def test_an_invalid_port_is_reported(port: int) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(STTConnectError, match="a port must be a number from 0 to") as caught:
            await node.connect("127.0.0.1", port)
        assert str(caught.value).count("127.0.0.1") == str(caught.value).count(str(port)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "fe80::1", "a" * 70, "no.such.host.invalid"])
@pytest.mark.parametrize("port", [1, 70000])
async def test_an_error_names_the_address_once(host: str, port: int) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(STTConnectError) as caught:
            await node.connect(host, port, timeout=1)
        assert str(caught.value).count(host) == 1
        assert str(caught.value).count(f"port {port}") == 1
        if host != "127.0.0.1":
            with pytest.raises(STTListenError) as listening:
                await nodes.listen(host=host, port=port)
            assert str(listening.value).count(host) == 1
            assert str(listening.value).count(f"port {port}") == 1


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Nodes() as nodes, server(silence) as address:
        node = await nodes.start()
        with pytest.raises(STTConnectError, match="did not answer in time"):
            await node.connect(*address, timeout=0.05)
        assert_no_session(node)


async def test_the_time_to_connect_is_a_setting() -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Nodes(connect_timeout=0.05) as nodes, server(silence) as address:
        node = await nodes.start()
        with pytest.raises(STTConnectError, match="did not answer in time"):
            await node.connect(*address)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 200\r\n\r\n" + b"?" * 200,
        b"",
    ],
    ids=["short", "long", "nothing"],
)
async def test_a_server_of_another_protocol_is_reported(answer: bytes) -> None:
    async def answer_and_close(reader: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
        await reader.read(64)
        w.write(answer)

    async with Nodes() as nodes, server(answer_and_close) as address:
        node = await nodes.start()
        with pytest.raises(STTHandshakeError, match="not an STT node"):
            await node.connect(*address, timeout=9)
        assert_no_session(node)


async def test_a_server_that_speaks_first_is_reported() -> None:
    async def speak(reader: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
        w.write(b"220 mail.example ESMTP, and much more to say" * 10)
        await reader.read()

    async with Nodes() as nodes, server(speak) as address:
        node = await nodes.start()
        with pytest.raises(STTHandshakeError, match="not an STT node"):
            await node.connect(*address, timeout=9)


async def test_a_peer_that_leaves_right_after_its_answer_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection ends between the second and the third message."""
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        answer = Answering._answer

        def answer_and_leave(self: Answering, message: bytes) -> None:
            answer(self, message)
            self.end()

        monkeypatch.setattr(Answering, "_answer", answer_and_leave)
        for _ in range(20):
            with pytest.raises(STTHandshakeError):
                await dialer.connect(*address_of(listener), timeout=2)
            await until(lambda: not dialer._registry.connections, 3)
        assert_no_session(dialer)


async def test_an_unreachable_or_taken_port_is_reported_in_the_systems_words() -> None:
    async with Nodes() as nodes:
        node = await nodes.listen()
        host, port = address_of(node)
        busy = re.escape(f"cannot listen on {host} port {port}: Address already in use; choose")
        with pytest.raises(STTListenError, match=f"^{busy}"):
            await nodes.make("alice", host=host, port=port).start(server_mode=True)
        await node.stop()
        nobody = re.escape(f"cannot reach {host} port {port}: Connection refused; is the node")
        with pytest.raises(STTConnectError, match=f"^{nobody}"):
            await (await nodes.start("carol")).connect(host, port)


def assert_no_session(node: STTNode) -> None:
    assert node.sessions == []
    assert node._registry.opening == {}
    assert not len(node._life.dialer)
    assert node._registry.connections == set()


@pytest.mark.parametrize("network", ["tcp", "memory"])
async def test_a_connect_cancelled_anywhere_leaves_nothing(network: str) -> None:
    async with Nodes(MemoryNetwork() if network == "memory" else None) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        log = EventLog(dialer)
        for turns in range(40):
            before = asyncio.all_tasks()
            connecting = asyncio.create_task(dialer.connect(*address_of(listener)))
            for _ in range(turns):
                await asyncio.sleep(0)
            if connecting.done():
                await connecting.result().close()
                break
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await until(lambda: not dialer._registry.connections and not dialer.sessions, 3)
            await until(
                lambda: (
                    not listener._life.acceptor.answering and not listener._registry.connections
                ),
                3,
            )
            await until(lambda: not listener.sessions, 3)
            await until(lambda: not dialer._runtime._tasks, 3)
            await assert_no_task_left(before)
            assert_no_session(dialer)
        assert connecting.done()
        await until(lambda: not dialer._registry.peers)
        assert log.errors == []
        assert log.names.count("session_created") == log.names.count("session_closed")


@in_virtual_time
async def test_a_connect_that_runs_out_of_time_anywhere_leaves_nothing() -> None:
    for direction, offset in [
        (Direction.OUT, 0),
        (Direction.OUT, 64),
        (Direction.OUT, 100),
        (Direction.OUT, 224),
        (Direction.IN, 0),
        (Direction.IN, 100),
        (Direction.IN, 160),
    ]:
        network = FaultNetwork(MemoryNetwork(), [Fault(direction, offset, Kind.BLACK_HOLE)])
        async with Nodes(network) as nodes:
            listener = await nodes.listen()
            dialer = await nodes.start()
            with pytest.raises(STTConnectError, match="did not answer in time"):
                await dialer.connect(*address_of(listener))
            await asyncio.sleep(1)
            assert_no_session(dialer)


async def test_two_nodes_that_dial_each_other_at_once_have_two_sessions() -> None:
    async with Nodes() as nodes:
        a, b = await nodes.listen("alice"), await nodes.listen("bob")
        logs = [EventLog(a), EventLog(b)]
        first, second = await asyncio.gather(a.connect(*address_of(b)), b.connect(*address_of(a)))
        await until(lambda: len(a.sessions) == len(b.sessions) == 2)
        assert first.session_id != second.session_id
        await a.endpoints.send_to_endpoint(b.node_id, b"to b")
        await b.endpoints.send_to_endpoint(a.node_id, b"to a")
        assert await b.endpoints.receive_from(a.node_id, timeout=9) == (b"to b", a.node_id)
        assert await a.endpoints.receive_from(b.node_id, timeout=9) == (b"to a", b.node_id)
        await first.close()
        await second.close()
        for log in logs:
            await log.until("peer_disconnected")
            assert log.names.count("peer_connected") == log.names.count("peer_disconnected") == 1


async def test_many_connects_at_once() -> None:
    async with Nodes(max_sessions_per_peer=50) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        sessions = await asyncio.gather(*(dialer.connect(*address_of(listener)) for _ in range(50)))
        assert len({session.session_id for session in sessions}) == 50
        await until(lambda: len(listener.sessions) == 50)


# Sending over sessions.


async def test_sends_use_the_newest_session_that_has_a_connection() -> None:
    async with Nodes(reconnect_delay=30) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        old = await nodes.connect(dialer, listener)
        new = await nodes.connect(dialer, listener, relay.address)
        peer = listener.node_id
        assert dialer.get_session_for_endpoint(peer) is new.near
        relay.down = True
        relay.links[0].cut(Kind.RST)
        await until(lambda: new.near.state == "suspended")
        assert dialer.get_session_for_endpoint(peer) is old.near
        await dialer.endpoints.send_to_endpoint(peer, b"over the old one")
        assert (await listener.endpoints.receive_any(timeout=9))[0] == b"over the old one"
        await old.near.close()
        assert dialer.get_session_for_endpoint(peer) is new.near
        info = dialer.endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "suspended"


async def test_an_older_session_takes_over_when_the_newest_closes() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        pairs = [await nodes.connect(dialer, listener) for _ in range(3)]
        peer = listener.node_id
        for pair in reversed(pairs):
            assert dialer.get_session_for_endpoint(peer) is pair.near
            await pair.near.close()
        assert dialer.get_session_for_endpoint(peer) is None


async def test_send_to_sessions_returns_an_outcome_for_each() -> None:
    async with Nodes() as nodes:
        bob, carol = await nodes.listen("bob"), await nodes.listen("carol")
        dialer = await nodes.start()
        to_bob = await nodes.connect(dialer, bob)
        to_carol = await nodes.connect(dialer, carol)
        live(to_carol.near).start_closing()
        unknown = b"?" * 16
        outcomes = await dialer.send_to_sessions(
            [to_bob.near.session_id, unknown, to_carol.near.session_id], b"news"
        )
        assert outcomes == {
            to_bob.near.session_id: SendOutcome.ACCEPTED,
            unknown: SendOutcome.UNKNOWN,
            to_carol.near.session_id: SendOutcome.UNREACHABLE,
        }
        assert await bob.endpoints.receive_any(timeout=9) == (b"news", dialer.node_id)


@pytest.mark.parametrize("how", ["send_to_sessions", "send_to_all", "broadcast"])
async def test_a_recipient_that_does_not_accept_within_send_timeout_is_full(how: str) -> None:
    small: dict[str, Any] = {
        "max_message_bytes": 1024,
        "send_window_bytes": 2048,
        "receive_window_bytes": 2048,
    }
    async with Nodes(**small, inbox_messages=1, send_timeout=0.05) as nodes:
        pair = await nodes.pair()

        async def send() -> SendOutcome:
            data = b"x" * 1000
            if how == "send_to_sessions":
                (outcome,) = (
                    await pair.dialer.send_to_sessions([pair.near.session_id], data)
                ).values()
            elif how == "send_to_all":
                (outcome,) = (await pair.dialer.send_to_all(data)).values()
            else:
                (outcome,) = (await pair.dialer.endpoints.broadcast(data)).values()
            return outcome

        async with asyncio.timeout(5):  # the manager's own default is longer
            outcomes = [await send() for _ in range(6)]
        assert outcomes[0] is SendOutcome.ACCEPTED
        assert outcomes[-1] is SendOutcome.FULL
        assert set(outcomes) == {SendOutcome.ACCEPTED, SendOutcome.FULL}


async def test_send_to_all_reaches_each_peer_once() -> None:
    async with Nodes() as nodes:
        bob, carol = await nodes.listen("bob"), await nodes.listen("carol")
        dialer = await nodes.start()
        assert await dialer.send_to_all(b"nobody") == {}
        for listener in (bob, carol, bob):
            await nodes.connect(dialer, listener)
        await dialer.endpoints.add_endpoint(b"known, but away", None)
        outcomes = await dialer.send_to_all(bytearray(b"news"))
        assert outcomes == {
            bob.node_id: SendOutcome.ACCEPTED,
            carol.node_id: SendOutcome.ACCEPTED,
        }
        for listener in (bob, carol):
            assert await listener.endpoints.receive_any(timeout=9) == (b"news", dialer.node_id)
            with pytest.raises(STTEndpointError):
                await listener.endpoints.receive_any(timeout=0.02)
        outcomes = await dialer.endpoints.broadcast(b"more", timeout=5)
        assert outcomes[b"known, but away"] is SendOutcome.UNREACHABLE


@pytest.mark.parametrize("bad", ["text", 5, None])
async def test_only_bytes_can_be_sent(bad: Any) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        name = type(bad).__name__
        for sending in (
            pair.near.send(bad),
            pair.dialer.send_to_sessions([pair.near.session_id], bad),
            pair.dialer.send_to_all(bad),
            pair.dialer.endpoints.send_to_endpoint(pair.listener.node_id, bad),
        ):
            with pytest.raises(TypeError, match=name):
                await sending
        with pytest.raises(TypeError, match=name):
            pair.near.send_nowait(bad)
        assert pair.near.stats.messages_sent == 0


async def test_one_session_id_is_not_a_list_of_them() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        ids: Any = pair.near.session_id
        with pytest.raises(TypeError, match="iterable of ids"):
            await pair.dialer.send_to_sessions(ids, b"data")


# Endpoints.


async def test_a_peer_is_an_endpoint_while_it_is_connected() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        info = pair.listener.endpoints.get_endpoint(pair.dialer.node_id)
        assert info is not None
        assert info["address"] == pair.far.address
        assert info["address"][0] == "127.0.0.1"
        assert info["state"] == "connected"
        assert info["metadata"] == {}
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["address"] == address_of(pair.listener)
        await pair.near.flush()
        await pair.near.send(b"x")
        await pair.near.flush()
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["min_rtt"] is not None
        assert info["rtt"] is not None
        assert 0 <= info["min_rtt"] <= info["rtt"] < 5
        await pair.listener.endpoints.receive_any()
        await pair.near.close()
        await log.until("peer_disconnected")
        await until(lambda: len(pair.listener.endpoints) == 0)
        await until(lambda: len(pair.dialer.endpoints) == 0)


async def test_the_endpoint_stays_until_peer_disconnected_was_emitted() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        present: dict[str, bool] = {}

        async def look(event: str, **_: bytes) -> None:
            present[event] = dialer.node_id in listener.endpoints

        dialer = await nodes.start()
        for event in ("session_created", "session_closed", "peer_disconnected"):

            async def handler(event: str = event, **details: bytes) -> None:
                await look(event, **details)

            listener.events.register(event, handler)
        session = await dialer.connect(*address_of(listener))
        await session.close()
        await until(lambda: "peer_disconnected" in present)
        await until(lambda: dialer.node_id not in listener.endpoints)
        assert present == {
            "session_created": True,
            "session_closed": True,
            "peer_disconnected": True,
        }


async def test_messages_outlive_the_session_that_brought_them() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        for data in (b"1", b"2", b"3"):
            await pair.near.send(data)
        await pair.near.close()
        await log.until("peer_disconnected")
        await until(lambda: not pair.listener._registry.peers)
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        assert peer in endpoints
        info = endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "disconnected"
        assert await endpoints.receive_from(peer) == (b"1", peer)
        assert await endpoints.receive_any() == (b"2", peer)
        assert peer in endpoints
        assert await endpoints.receive_from(peer) == (b"3", peer)
        assert peer not in endpoints


async def test_messages_beyond_the_inbox_outlive_the_session_too() -> None:
    async with Nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        messages = [b"%d" % k for k in range(10)]
        for data in messages:
            await pair.near.send(data)
        await pair.near.close()
        await log.until("peer_disconnected")
        for data in messages:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data


async def test_an_endpoint_that_the_user_added_stays() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()
        await listener.endpoints.add_endpoint(dialer.node_id, None, {"name": "alice"})
        session = await dialer.connect(*address_of(listener))
        await log.until("peer_connected")
        info = listener.endpoints.get_endpoint(dialer.node_id)
        assert info is not None
        assert (info["address"], info["state"]) == (None, "connected")
        await session.close()
        await log.until("peer_disconnected")
        await until(lambda: not listener._registry.peers)
        info = listener.endpoints.get_endpoint(dialer.node_id)
        assert info is not None
        assert info["metadata"] == {"name": "alice"}
        assert (info["state"], info["rtt"]) == ("disconnected", None)


async def test_the_first_send_dials_an_endpoint_with_an_address() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        peer = listener.node_id
        await dialer.endpoints.add_endpoint(peer, address_of(listener))
        assert dialer.sessions == []
        await dialer.endpoints.send_to_endpoint(peer, b"hello")
        assert await listener.endpoints.receive_any(timeout=9) == (b"hello", dialer.node_id)
        (session,) = dialer.sessions
        await session.close()
        await dialer.endpoints.send_to_endpoint(peer, b"hello again")
        assert await listener.endpoints.receive_any(timeout=9) == (b"hello again", dialer.node_id)


async def test_sends_at_once_share_one_dial() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        peer = listener.node_id
        await dialer.endpoints.add_endpoint(peer, address_of(listener))
        messages = {b"%d" % k for k in range(20)}
        sends = [
            asyncio.create_task(dialer.endpoints.send_to_endpoint(peer, data)) for data in messages
        ]
        await asyncio.sleep(0)
        info = dialer.endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "connecting"
        sends.pop().cancel()  # a cancelled send does not take the others with it
        await asyncio.wait(sends)
        received = {(await listener.endpoints.receive_any(timeout=9))[0] for _ in sends}
        assert len(received & messages) == 19
        assert len(dialer.sessions) == 1


async def test_another_identity_at_the_address_gets_nothing() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen("bob")
        log = EventLog(listener)
        dialer = await nodes.start()
        carol = Identity.from_seed(seed_of("carol")).node_id
        await dialer.endpoints.add_endpoint(carol, address_of(listener))
        for _ in range(2):
            with pytest.raises(STTIdentityError):
                await dialer.endpoints.send_to_endpoint(carol, b"for carol only")
        outcomes = await dialer.endpoints.send_to_many([carol], b"for carol only")
        assert outcomes == {carol: SendOutcome.UNREACHABLE}
        await log.until("error")
        assert set(log.names) == {"error"}
        assert listener.stats().sessions_opened == 0


async def test_an_endpoint_without_an_address_to_dial_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(b"x" * 32, None)
        with pytest.raises(STTEndpointError, match=r"None.*update_endpoint"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")


async def test_an_address_without_a_listener_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(b"x" * 32, ("127.0.0.1", free_port()))
        with pytest.raises(STTConnectError, match="cannot reach"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")
        outcomes = await node.endpoints.broadcast(b"data")
        assert outcomes == {b"x" * 32: SendOutcome.UNREACHABLE}


async def test_a_user_may_give_an_address_to_a_peer_that_came_by_itself() -> None:
    """Adding it again makes it the user's, and it can be dialed."""
    async with Nodes() as nodes:
        listener = await nodes.listen("bob")
        dialer = await nodes.listen("alice")
        pair = await nodes.connect(dialer, listener)
        peer = dialer.node_id
        await listener.endpoints.remove_endpoint(peer)
        await listener.endpoints.add_endpoint(peer, address_of(dialer))
        await pair.near.close()
        await until(lambda: not listener._registry.peers)
        await listener.endpoints.send_to_endpoint(peer, b"my turn to dial")
        assert (await dialer.endpoints.receive_any(timeout=9))[0] == b"my turn to dial"


async def test_an_endpoint_that_came_by_itself_goes_however_it_was_described() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        endpoints.update_endpoint(peer, address=("192.0.2.1", 1), metadata={"name": "alice"})
        await pair.near.close()
        await until(lambda: peer not in endpoints)


# Limits.


async def test_sessions_beyond_the_limit_of_a_peer_are_refused() -> None:
    async with Nodes(max_sessions_per_peer=2) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()
        results = await asyncio.gather(
            *(dialer.connect(*address_of(listener)) for _ in range(5)), return_exceptions=True
        )
        refusals = [result for result in results if isinstance(result, BaseException)]
        assert len(refusals) == 3
        for refusal in refusals:
            assert type(refusal) is STTConnectError
            assert "accepts no more sessions" in str(refusal)
        await log.until("error")
        # A member that insists does not bring about a flood of events.
        ((name, details),) = log.errors
        assert name == "limit_reached"
        assert details["peer_node_id"] == dialer.node_id
        assert "max_sessions_per_peer is 2" in details["reason"]
        assert listener.stats().handshakes_failed == 3
        assert len(listener.sessions) == len(dialer.sessions) == 2
        await dialer.sessions[0].close()
        await dialer.connect(*address_of(listener))


@in_virtual_time
async def test_dialers_that_left_silently_do_not_use_up_the_limit() -> None:
    third = Fault(Direction.OUT, 224, Kind.FIN)  # right behind the third message
    network = FaultNetwork(MemoryNetwork(), [third] * 5)
    async with Nodes(network, max_sessions_per_peer=2) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        for _ in range(5):
            with pytest.raises(STTConnectError):
                await dialer.connect(*address_of(listener))
        for _ in range(2):
            await nodes.connect(dialer, listener)
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await dialer.connect(*address_of(listener))


async def test_sessions_beyond_the_limit_of_the_node_are_refused() -> None:
    async with Nodes(max_sessions=2) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        alice, carol = await nodes.start("alice"), await nodes.start("carol")
        await nodes.connect(alice, listener)
        await nodes.connect(carol, listener)
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await carol.connect(*address_of(listener))
        await log.until("error")
        ((error_type, details),) = log.errors
        assert error_type == "limit_reached"
        assert "max_sessions is 2" in details["reason"]
        assert len(listener.sessions) == 2


@in_virtual_time
async def test_sessions_without_a_connection_are_limited_the_oldest_goes() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        listener = await nodes.listen(config=NodeConfig(max_suspended=2))
        log = EventLog(listener)
        dialer = await nodes.start(config=NodeConfig(reconnect_delay=1000))
        pairs = [await nodes.connect(dialer, listener) for _ in range(4)]
        for cable in network.cables:
            cable.cut(Kind.RST)
            await asyncio.sleep(0)
        await log.until("error", 2)
        assert [details["session_id"] for _, details in log.errors] == [
            pair.far.session_id for pair in pairs[:2]
        ]
        assert {name for name, _ in log.errors} == {"session_lost"}
        assert listener.stats().suspended == 2
        assert listener.stats().sessions_lost == 2


async def test_two_hundred_sessions() -> None:
    count = 200
    async with Nodes(MemoryNetwork(), max_sessions_per_peer=count) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        sessions = [await dialer.connect(*address_of(listener)) for _ in range(count)]
        await until(lambda: len(listener.sessions) == count)
        outcomes = await dialer.send_to_sessions([s.session_id for s in sessions], b"to each")
        assert set(outcomes.values()) == {SendOutcome.ACCEPTED}
        received = [await listener.endpoints.receive_any(timeout=9) for _ in range(count)]
        assert received == [(b"to each", dialer.node_id)] * count
        stats = listener.stats()
        assert (stats.sessions, stats.peers, stats.suspended) == (count, 1, 0)
        assert stats.sessions_opened == count


async def test_a_thousand_endpoints_beside_the_peers() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        endpoints = pair.dialer.endpoints
        ids = [b"%028d" % k for k in range(1000)]
        for endpoint_id in ids:
            await endpoints.add_endpoint(endpoint_id, None, {"type": "known"})
        assert len(endpoints) == 1001
        outcomes = await endpoints.broadcast(b"to all", timeout=5)
        assert outcomes.pop(pair.listener.node_id) is SendOutcome.ACCEPTED
        assert outcomes == dict.fromkeys(ids, SendOutcome.UNREACHABLE)
        assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == b"to all"
        await pair.near.close()
        await until(lambda: len(endpoints) == 1000)


# Secrets.


async def test_no_secret_is_in_any_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    shared, own = b"the shared-secret of this test", b"the nodes-own-secret of this test"
    other = b"another shared-secret of this test"
    async with Nodes() as nodes:
        listener = STTNode(own, shared)
        nodes.made.append(listener)
        await listener.start(server_mode=True)
        stranger = STTNode(own, other)
        nodes.made.append(stranger)
        await stranger.start()
        dialer = await nodes.start("alice", shared=shared)
        session = await dialer.connect(*address_of(listener))
        listener.events.register("data_received", fail)
        await session.send(b"the content of a message")
        await session.flush()
        texts += [repr(listener), str(listener), repr(session), repr(dialer.stats())]
        texts += [repr(session.stats), repr(dialer.sessions), repr(dialer.endpoints)]
        log = EventLog(listener)
        for connecting in (
            stranger.connect(*address_of(listener)),
            listener.connect(*address_of(listener)),
            dialer.connect(*address_of(listener), expect=bytes(32)),
            dialer.connect("127.0.0.1", free_port()),
        ):
            try:
                await connecting
            except STTError as error:
                texts.append("".join(traceback.format_exception(error)))
                texts += [repr(error.__dict__)]
        for broken in (shared[:9], str(own[:9]), own[:15]):
            seed: Any = broken
            try:
                STTNode(seed, shared)
            except STTError as error:
                # A traceback shows this test's own lines, and no values.
                texts.append(str(error) + repr(error.args))
        await log.until("error")
        texts.append(repr(log.entries))
        await listener.stop()
        texts.append(repr(listener))
    texts.append(caplog.text)
    everything = "\n".join(texts)
    identity = Identity.from_seed(own)
    secrets = [
        shared,
        own,
        other,
        derive_psk(shared),
        identity.private_key.private_bytes_raw(),
        b"the content of a message",
    ]
    for secret in secrets:
        for form in (secret.decode("latin-1"), repr(secret)[2:-1], secret.hex(), str(list(secret))):
            assert form not in everything
    assert b"shared-secret".decode() not in everything
    assert len(caplog.records) > 0


async def fail(session_id: bytes, data: bytes) -> None:
    raise RuntimeError("a handler that fails")


async def test_nothing_on_the_wire_reveals_anything_to_a_stranger() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        content = b"a message that nobody else may read"
        await pair.near.send(content)
        await pair.far.send(content * 1000)
        await pair.near.flush()
        await pair.far.flush()
        relay.links[0].cut(Kind.RST)
        await until(lambda: pair.near.stats.resumes == 1 and pair.near.state == "open")
        await pair.near.send(content)
        await pair.near.close()
        wire = relay.recorded
        assert len(wire) > 36_000
        for secret in (
            content,
            b"message",
            SHARED_SEED,
            seed_of("alice"),
            seed_of("bob"),
            dialer.node_id,
            listener.node_id,
            pair.near.session_id,
            Identity.from_seed(seed_of("alice")).public_key,
            Identity.from_seed(seed_of("bob")).public_key,
            derive_psk(SHARED_SEED),
            pair.near.peer_incarnation,
            pair.far.peer_incarnation,
            b"seigr",
            b"stt",
        ):
            assert secret not in wire


async def test_errors_of_the_session_are_those_of_this_library() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.close()
        with pytest.raises(STTSessionClosedError):
            await pair.near.send(b"too late")
        with pytest.raises(STTSessionClosedError):
            pair.near.send_nowait(b"too late")


@pytest.mark.parametrize("first", [10, 11, 12, 15, 19])
@in_virtual_time
async def test_the_bound_of_an_inbox_holds_for_the_peers_next_session(first: int) -> None:
    async with memory_nodes(inbox_messages=10) as nodes:
        pair = await nodes.pair()
        endpoints = pair.listener._endpoints
        for number in range(first):
            await pair.near.send(b"%d" % number)
        await pair.near.close()
        await asyncio.sleep(1)
        again = await nodes.connect(pair.dialer, pair.listener)
        for number in range(first, 1000):
            await again.near.send(b"%d" % number)
        await asyncio.sleep(1)
        for number in range(1000):
            assert endpoints.held_bytes(1) - endpoints.held_bytes() <= max(first, 10)
            data, _ = await endpoints.manager.receive_any(timeout=1)
            assert data == b"%d" % number


@in_virtual_time
async def test_a_listener_that_sends_and_closes_cannot_fill_its_dialers_inbox_either() -> None:
    settings: Any = {"max_message_bytes": 1000, "receive_window_bytes": 4000}
    async with memory_nodes(inbox_bytes=4000, **settings) as nodes:
        listener, dialer = await nodes.listen(), await nodes.start()

        async def hear_and_leave() -> None:
            pair = await nodes.connect(dialer, listener)
            for _ in range(3):
                await pair.far.send(bytes(900))
            await pair.far.close()
            await until(lambda: not dialer.sessions)

        async def until_refused() -> None:
            for _ in range(20):
                await hear_and_leave()

        with pytest.raises(STTConnectError, match="to be received"):
            await until_refused()
        await until(lambda: not listener.sessions)
        assert dialer._endpoints.held_bytes() < 3 * 4000
        while dialer._endpoints.held_bytes():
            await dialer.endpoints.receive_any(timeout=1)
        await hear_and_leave()


@in_virtual_time
async def test_a_peer_that_keeps_coming_back_cannot_fill_its_inbox_endlessly() -> None:
    """What a session leaves behind goes to the inbox beyond its bounds; no other may follow."""
    settings: Any = {"max_message_bytes": 1000, "receive_window_bytes": 4000}
    async with memory_nodes(inbox_bytes=4000, **settings) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()

        async def send_and_leave() -> None:
            session = await dialer.connect(*address_of(listener))
            for _ in range(3):
                await session.send(bytes(900))
            await session.close()
            await until(lambda: not listener.sessions)

        async def until_refused() -> None:
            for _ in range(20):
                await send_and_leave()

        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await until_refused()
        assert 2 * 4000 < listener.stats().buffered_bytes < 3 * 4000
        ((name, details),) = log.errors
        assert name == "limit_reached"
        assert "to be received" in details["reason"]
        while listener.stats().buffered_bytes:
            await listener.endpoints.receive_any(timeout=1)
        await send_and_leave()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("events", "STTNode(events="), ("config", "STTNode(config="), ("endpoints", "add_endpoint(")],
)
def test_the_parts_of_a_node_cannot_be_replaced(name: str, remedy: str) -> None:
    node = STTNode(bytes(16), bytes(range(16)))
    before = getattr(node, name)
    with pytest.raises(AttributeError, match=re.escape(remedy)):
        setattr(node, name, before)
    assert getattr(node, name) is before
