"""Every snippet of the specification runs as written, and does what it says.

The snippets are the users' contract, so `helpers.snippets` has them word for word. Each is executed
as it is, `await` at the top level included, in a namespace that holds the names which it takes for
granted; where it speaks of peers, these are real nodes, connected over TCP. A last test compares
our copies with the specification, when that lies beside the repository.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from helpers.clock import run_virtual
from helpers.snippets import SNIPPETS
from seigr_toolset_transmissions import EndpointManager, EventEmitter, STTNode
from seigr_toolset_transmissions.errors import STTConnectError, STTEndpointError, STTEventError
from seigr_toolset_transmissions.node import node
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from seigr_toolset_transmissions.endpoints import EndpointInfo
    from seigr_toolset_transmissions.transports.base import Listener, Receiver


SHARED_SEED = b"the seed that all nodes here know"
SPECIFICATION = (
    Path(__file__).resolve().parent.parent / ".." / "shared" / "spec" / "endpoints-and-events.md"
)

_T = TypeVar("_T")
_tested: set[str] = set()


def snippet(title: str) -> Callable[[_T], _T]:
    """Mark the test of one snippet."""
    _tested.add(title)

    def decorator(test: _T) -> _T:
        return test

    return decorator


async def run(title: str, /, **names: Any) -> dict[str, Any]:
    """Execute a snippet with these names; return the namespace that it leaves."""
    code = compile(
        SNIPPETS[title], f"<specification: {title}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    result = eval(code, names)  # noqa: S307 - the snippets are ours
    if inspect.isawaitable(result):
        await result
    return names


def make_node(number: int, **options: Any) -> STTNode:
    return STTNode(b"the seed of node %05d" % number, SHARED_SEED, **options)


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[tuple[STTNode, list[STTNode]]]:
    """Start a hub, and peers that are connected to it; all of them know that they are."""
    hub, *peers = (make_node(number) for number in range(count + 1))
    async with AsyncExitStack() as stack:
        address = await hub.start(server_mode=True)
        assert address is not None
        await stack.enter_async_context(hub)
        for peer in peers:
            await stack.enter_async_context(peer)
            session = await peer.connect(*address)
            await session.send(b"ready")
            assert await hub.endpoints.receive_any(timeout=10) == (b"ready", peer.node_id)
        yield hub, peers


async def received(peer: STTNode, count: int) -> list[bytes]:
    """Receive this many messages; make sure that there are no more."""
    messages = [(await peer.endpoints.receive_any(timeout=10))[0] for _ in range(count)]
    with pytest.raises(TimeoutError):
        await peer.endpoints.receive_any(timeout=0)
    return messages


async def info_of(endpoints: EndpointManager, endpoint_id: bytes) -> EndpointInfo:
    info = endpoints.get_endpoint(endpoint_id)
    assert info is not None
    return info


# ------------------------------------------------------------------- EndpointManager


@snippet("creating an endpoint manager")
async def test_a_manager_is_made_with_a_send_function() -> None:
    async with nodes(1) as (hub, [peer]):

        class Transport:
            async def send(self, data: bytes, address: bytes) -> None:
                await hub.endpoints.send_to_endpoint(address, data)

        addresses = {b"the peer": peer.node_id}
        names = await run(
            "creating an endpoint manager",
            send_callback=None,  # the snippet uses it before it defines it
            transport=Transport(),
            get_address=addresses.__getitem__,
        )
        assert isinstance(names["endpoints"], EndpointManager)
        names = await run("creating an endpoint manager", **names)
        endpoints = names["endpoints"]
        await endpoints.add_endpoint(b"the peer", None)
        await endpoints.send_to_endpoint(b"the peer", b"through the callback")
        assert await received(peer, 1) == [b"through the callback"]


@snippet("adding endpoints")
async def test_an_endpoint_is_tracked_once_added() -> None:
    async with nodes(0) as (hub, []):
        node_id = make_node(99).node_id
        await run("adding endpoints", endpoints=hub.endpoints, node_id=node_id)
        assert hub.endpoints.list_endpoints() == [node_id]
        info = await info_of(hub.endpoints, node_id)
        assert info["address"] == ("192.168.1.100", 9000)
        assert info["metadata"] == {
            "type": "relay",
            "trust_score": 0.95,
            "capabilities": ["video", "storage"],
        }


@snippet("sending to endpoints")
async def test_sending_to_one_to_all_and_to_some() -> None:
    async with nodes(4) as (hub, peers):
        ids = [peer.node_id for peer in peers]
        await run(
            "sending to endpoints",
            endpoints=hub.endpoints,
            peer_node_id=ids[3],
            endpoint_id1=ids[0],
            endpoint_id2=ids[1],
            endpoint_id3=ids[2],
        )
        for peer in peers[:3]:
            assert await received(peer, 2) == [b"Announcement", b"Group message"]
        assert await received(peers[3], 2) == [b"Hello peer", b"Announcement"]


@snippet("receiving from endpoints")
async def test_receiving_from_one_and_from_any(capsys: pytest.CaptureFixture[str]) -> None:
    async with nodes(2) as (hub, [first, second]):
        await second.endpoints.send_to_endpoint(hub.node_id, b"older")
        await second.sessions[0].flush()
        await first.endpoints.send_to_endpoint(hub.node_id, b"newer")
        names = await run(
            "receiving from endpoints", endpoints=hub.endpoints, endpoint_id=first.node_id
        )
        # What was asked for from `first` was the newer one: only the older one was left.
        assert names["data"] == b"older"
        assert names["endpoint_id"] == second.node_id
        assert capsys.readouterr().out == f"Received from {second.node_id.hex()}: b'older'\n"
        with pytest.raises(TimeoutError):
            await hub.endpoints.receive_any(timeout=0)


@snippet("managing endpoints")
async def test_looking_up_listing_and_removing() -> None:
    async with nodes(2) as (hub, [first, second]):
        names = await run("managing endpoints", endpoints=hub.endpoints, endpoint_id=first.node_id)
        assert {"address", "metadata", "connected_at"} <= names["info"].keys()
        assert names["info"]["address"][0] == "127.0.0.1"
        assert names["info"]["metadata"] == {}
        assert abs(names["info"]["connected_at"] - time.time()) < 60
        assert names["all_endpoints"] == [first.node_id, second.node_id]
        assert hub.endpoints.list_endpoints() == [second.node_id]
        assert hub.endpoints.get_endpoint(first.node_id) is None


@snippet("endpoint metadata")
async def test_metadata_is_stored_and_queried(capsys: pytest.CaptureFixture[str]) -> None:
    async with nodes(0) as (hub, []):
        peer_id = make_node(99).node_id
        names = await run("endpoint metadata", endpoints=hub.endpoints, peer_id=peer_id, time=time)
        assert capsys.readouterr().out == "High-capacity node\n"
        metadata = names["info"]["metadata"]
        assert metadata["node_type"] == "storage"
        assert metadata["region"] == "us-west"
        assert abs(metadata["last_health_check"] - time.time()) < 60
        assert hub.endpoints.find(lambda known: known["capacity_gb"] > 500) == [peer_id]


# ---------------------------------------------------------------------- EventEmitter


async def emitter_with_handlers() -> dict[str, Any]:
    names = await run("creating an event emitter")
    return await run("decorator style", **names)


@snippet("creating an event emitter")
async def test_an_emitter_begins_without_handlers() -> None:
    events = (await run("creating an event emitter"))["events"]
    assert isinstance(events, EventEmitter)
    assert events.events() == []
    assert await events.emit("anything", at="all") == []


@snippet("decorator style")
async def test_a_decorator_registers_and_returns_the_handler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = await emitter_with_handlers()
    events = names["events"]
    assert events._handlers == {
        "bytes_received": [names["handle_bytes"]],
        "connection_established": [names["handle_connection"]],
        "custom_event": [names["handle_custom"]],
    }
    assert names["handle_bytes"].__doc__ == "Handle received bytes"
    assert await events.emit("connection_established", endpoint_id=b"\xab") == [None]
    assert capsys.readouterr().out == "Connected to ab\n"


@snippet("programmatic style")
async def test_a_function_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    events = EventEmitter()
    names = await run("programmatic style", events=events)
    assert events.handlers("my_event") == [names["my_handler"]]
    await events.emit("my_event", "positional")
    await events.emit("my_event", data="by keyword")
    assert capsys.readouterr().out == "Event data: positional\nEvent data: by keyword\n"


@snippet("emitting events")
async def test_an_emit_calls_all_handlers_of_the_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = await emitter_with_handlers()
    events: EventEmitter = names["events"]
    called = []

    @events.on("bytes_received")
    async def another(**kwargs: Any) -> None:
        called.append(kwargs)

    await run("emitting events", **names, peer_id=b"\x01\x02")
    assert capsys.readouterr().out == "Got 5 bytes from 0102\nCustom event: {'key': 'value'}\n"
    assert called == [{"data": b"Hello", "endpoint_id": b"\x01\x02"}]


@snippet("removing handlers")
async def test_handlers_are_removed_one_by_one_by_event_and_altogether() -> None:
    states = []

    class Traced(EventEmitter):
        def remove_handler(self, name: str, handler: Any) -> None:
            super().remove_handler(name, handler)
            states.append({name: len(self.handlers(name)) for name in self.events()})

        def clear_event(self, name: str) -> None:
            super().clear_event(name)
            states.append({name: len(self.handlers(name)) for name in self.events()})

    events = Traced()
    names = await run("decorator style", events=events)

    @events.on("bytes_received")
    async def another(**_: Any) -> None:
        """Only to be removed."""

    await run("removing handlers", **names)
    assert states[:2] == [
        {"bytes_received": 1, "connection_established": 1, "custom_event": 1},
        {"connection_established": 1, "custom_event": 1},
    ]
    assert events._handlers == {}
    assert await events.emit("custom_event", user_data={}) == []


# ------------------------------------------------------------------ complete example


class _AnyPort(TcpNetwork):
    """TCP, but on a free port: the snippet's own may be taken on the machine that runs the test."""

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        return await super().listen(accept, host, 0)


@snippet("complete example")
def test_the_complete_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[STTNode] = []
    looked_up: list[tuple[bytes, object]] = []
    listening: list[bool] = []

    class Node(STTNode):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    def get_session_for_endpoint(endpoint_id: bytes) -> object:
        session = made[-1].get_session_for_endpoint(endpoint_id)
        looked_up.append((endpoint_id, session))
        listening.append(made[-1].address is not None)
        return session

    monkeypatch.setattr(node, "TcpNetwork", _AnyPort)
    monkeypatch.setattr("seigr_toolset_transmissions.STTNode", Node)
    # It ends with asyncio.run, so it needs a test without a running event loop.
    code = compile(SNIPPETS["complete example"], "<specification: complete example>", "exec")
    names = {"time": time, "get_session_for_endpoint": get_session_for_endpoint}
    eval(code, names)  # noqa: S307 - the snippets are ours

    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "New peer: 706565725f6e6f64...",
        "Message from 706565725f6e6f64: b'Hello back!'",
        "",
        "Active endpoints: 1",
    ]
    assert re.fullmatch(r"  706565725f6e6f64: \{'connected_at': \d+\.\d+\}", lines[4])
    assert len(lines) == 5
    assert looked_up == [(b"peer_node_id_32bytes!!!!!!!!", None)]
    assert listening == [True]
    assert made[0].address is None, "the node was stopped"


async def test_the_complete_examples_callback_reaches_a_real_peer() -> None:
    """Its way to send, with a session where the snippet's simulated peer has none."""
    async with nodes(1) as (hub, [peer]):

        async def send_via_node(endpoint_id: bytes, data: bytes) -> None:
            session = hub.get_session_for_endpoint(endpoint_id)
            if session:
                await hub.send_to_sessions([session.session_id], data)

        endpoints = EndpointManager(transport_send_callback=send_via_node)
        await endpoints.add_endpoint(peer.node_id, ("unknown", 0))
        await endpoints.send_to_endpoint(peer.node_id, b"Hello peer!")
        assert await received(peer, 1) == [b"Hello peer!"]


# -------------------------------------------------------------------------- patterns


@snippet("broadcasting to multiple endpoints")
async def test_the_broadcaster_reaches_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    broadcaster = (await run("broadcasting to multiple endpoints"))["EndpointBroadcaster"]
    async with nodes(3) as (hub, peers):
        await broadcaster(hub.endpoints, hub.events).send_to_all(b"news")
        for peer in peers:
            assert await received(peer, 1) == [b"news"]
    assert capsys.readouterr().out == "Message sent to 3 endpoints\n"


@snippet("health monitoring")
def test_the_health_monitor_says_which_peers_answer() -> None:
    async def main() -> None:
        monitor_class = (await run("health monitoring", asyncio=asyncio))["HealthMonitor"]
        network = MemoryNetwork()
        hub, lively, late = (make_node(number, network=network) for number in range(3))
        answering = [lively]

        for peer in (lively, late):

            @peer.events.on("data_received")
            async def answer(session_id: bytes, data: bytes, peer: STTNode = peer) -> None:
                assert data == b"PING"
                if peer in answering:
                    await peer.send_to_sessions([session_id], b"PONG")

        await lively.start(server_mode=True)
        await late.start(server_mode=True)
        async with hub, lively, late:
            for peer in (lively, late):
                await hub.endpoints.add_endpoint(peer.node_id, peer.address)
            monitor = monitor_class(hub.endpoints)
            monitoring = asyncio.create_task(monitor.monitor())
            await asyncio.sleep(1)
            assert monitor.health_status == {lively.node_id: "healthy"}
            await asyncio.sleep(5)  # `late` has had its five seconds
            assert monitor.health_status == {lively.node_id: "healthy", late.node_id: "unhealthy"}
            answering.append(late)
            await asyncio.sleep(20)  # less than 30 s since the round ended: no peer was asked
            assert monitor.health_status[late.node_id] == "unhealthy"
            await asyncio.sleep(20)
            assert monitor.health_status == {lively.node_id: "healthy", late.node_id: "healthy"}
            monitoring.cancel()

    run_virtual(main())


@snippet("health monitoring")
def test_the_health_monitor_outlives_a_peer_that_leaves_while_it_is_asked() -> None:
    async def main() -> None:
        monitor_class = (await run("health monitoring", asyncio=asyncio))["HealthMonitor"]
        network = MemoryNetwork()
        hub, leaving, lively = (make_node(number, network=network) for number in range(3))

        @lively.events.on("data_received")
        async def answer(session_id: bytes, data: bytes) -> None:
            await lively.send_to_sessions([session_id], b"PONG")

        address = await hub.start(server_mode=True)
        assert address is not None
        async with hub, leaving, lively:
            for peer in (leaving, lively):  # the node shows them as endpoints while they are there
                await peer.connect(*address)
            monitor = monitor_class(hub.endpoints)
            monitoring = asyncio.create_task(monitor.monitor())
            await asyncio.sleep(1)  # it waits for an answer of the one that leaves
            await leaving.stop()
            await asyncio.sleep(1)
            statuses = {leaving.node_id: "unhealthy", lively.node_id: "healthy"}
            assert monitor.health_status == statuses
            monitor.health_status.clear()
            await asyncio.sleep(60)
            assert monitor.health_status == {lively.node_id: "healthy"}
            assert not monitoring.done()
            monitoring.cancel()

    run_virtual(main())


@snippet("event metrics")
async def test_the_metrics_see_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    hub, peer = make_node(0), make_node(1)
    names = await run("event metrics", events=hub.events)
    assert capsys.readouterr().out == "{'my_event': 2}\n"
    address = await hub.start(server_mode=True)
    assert address is not None
    async with hub, peer:
        await (await peer.connect(*address)).send(b"counted")
        await hub.endpoints.receive_any(timeout=10)
    assert names["metrics"].get_stats() == {
        "my_event": 2,
        "session_created": 1,
        "peer_connected": 1,
        "data_received": 1,
        "session_closed": 1,
        "peer_disconnected": 1,
    }


@snippet("built-in events")
async def test_a_node_emits_its_events_with_exactly_these_arguments() -> None:
    hub, peer = make_node(0), make_node(1)
    stranger = STTNode(b"the seed of a stranger", b"another group's shared seed")
    names = await run("built-in events", events=hub.events)
    calls: list[tuple[str, dict[str, Any]]] = []

    def count(name: str, handler: Any) -> None:
        async def counted(**kwargs: Any) -> None:
            await handler(**kwargs)
            calls.append((name, kwargs))

        hub.events.remove_handler(name, handler)
        hub.events.register(name, counted)

    for name in hub.events.events():
        count(name, names[f"handle_{name}"])
    address = await hub.start(server_mode=True)
    assert address is not None
    async with hub, peer, stranger:
        session = await peer.connect(*address)
        await session.send(b"some data")
        await session.close()
        with pytest.raises(STTConnectError):
            await stranger.connect(*address)
    session_id, peer_node_id = session.session_id, peer.node_id
    errors = [details for name, details in calls if name == "error"]
    assert [call for call in calls if call[0] != "error"] == [
        ("session_created", {"session_id": session_id}),
        ("peer_connected", {"peer_node_id": peer_node_id}),
        ("data_received", {"session_id": session_id, "data": b"some data"}),
        ("session_closed", {"session_id": session_id}),
        ("peer_disconnected", {"peer_node_id": peer_node_id}),
    ]
    assert [error.keys() for error in errors] == [{"error_type", "details"}]
    assert errors[0]["error_type"] == "handshake_failed"


# ------------------------------------------------------------------- troubleshooting


@snippet("handlers not called")
async def test_registered_handlers_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    names = await emitter_with_handlers()
    events = names["events"]
    before = {name: list(handlers) for name, handlers in events._handlers.items()}
    names = await run("handlers not called", **names)
    assert capsys.readouterr().out == f"{before}\n"
    assert events.handlers("my_event") == [names["handler"]]

    def not_async(data: Any) -> None:
        """A handler as it must not be."""

    with pytest.raises(STTEventError, match="async def"):
        events.on("my_event")(not_async)


@snippet("endpoint not found")
async def test_an_unknown_endpoint_is_added_and_then_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub, peer = make_node(0), make_node(1)
    await peer.start(server_mode=True)
    async with hub, peer:
        names = {
            "endpoints": hub.endpoints,
            "endpoint_id": peer.node_id,
            "data": b"found",
            "address": peer.address,
            "metadata": {"new": True},
        }
        with pytest.raises(STTEndpointError, match="unknown"):
            await hub.endpoints.send_to_endpoint(peer.node_id, b"too early")
        await run("endpoint not found", **names)
        assert capsys.readouterr().out == "Endpoint not registered!\n"
        assert (await info_of(hub.endpoints, peer.node_id))["metadata"] == {"new": True}
        await run("endpoint not found", **names)
        assert capsys.readouterr().out == ""
        assert await received(peer, 1) == [b"found"]


# ------------------------------------------------------------------------- coverage


def test_every_snippet_has_a_test() -> None:
    assert _tested == set(SNIPPETS)


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="the specification is not at hand")
def test_the_snippets_are_those_of_the_specification() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)

    def lines(block: str) -> list[str]:
        return [line.rstrip() for line in block.strip().splitlines()]

    assert [lines(block) for block in blocks] == [lines(block) for block in SNIPPETS.values()]
