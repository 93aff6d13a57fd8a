"""Dialing by host and port: what comes of it, and how failures read."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import Fault, FaultNetwork
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    assert_no_task_left,
    free_port,
    in_virtual_time,
    seed_of,
    until,
)
from helpers.relay import Direction, Kind
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTHandshakeError,
    STTIdentityError,
    STTListenError,
    STTSilenceError,
)
from seigr_toolset_transmissions.identity import Identity
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
        with pytest.raises(STTConnectError, match=r"cannot reach no\.such.*is the name spelled"):
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
