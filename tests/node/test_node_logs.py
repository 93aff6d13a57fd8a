"""What a node writes to the log while all goes well, and when something does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from helpers.nodes import Pair, address_of, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions.errors import STTConnectError, STTEndpointError

if TYPE_CHECKING:
    from helpers.nodes import Nodes

LOGGER = "seigr_toolset_transmissions"


class Log:
    """The lines of a level and those above it, as ``LEVEL text``."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def has(self, level: str, *parts: str) -> bool:
        """Whether a line of this level begins with the first part and has all of them."""
        return any(
            record.levelname == level
            and record.getMessage().startswith(parts[0])
            and all(part in record.getMessage() for part in parts)
            for record in self._caplog.records
        )

    def of_handlers(self) -> list[str]:
        """Return the warnings about handlers that run long."""
        lines = [record.getMessage() for record in self._caplog.records]
        return [line for line in lines if line.startswith("a handler of ")]

    @property
    def count(self) -> int:
        return len(self._caplog.records)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.DEBUG, LOGGER)
    return Log(caplog)


@in_virtual_time
async def test_info_tells_of_a_session_from_its_beginning_to_its_end(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        host, port = address_of(pair.listener)
        listener, dialer = pair.listener.node_id.hex()[:16], pair.dialer.node_id.hex()[:16]
        session = f"(session {pair.near.session_id.hex()[:16]})"
        there = f"{listener} at {host} port {port} {session}"
        assert log.has("INFO", f"node {listener} listens at {host} port {port}")
        assert log.has("INFO", f"node {dialer} started; it only dials")
        assert log.has("DEBUG", f"dialing {host} port {port}")
        assert log.has("INFO", f"connected to {there}")
        assert log.has("INFO", f"connected to {dialer} at ", session)
        live(pair.near).cut("a cable is pulled")
        await asyncio.sleep(60)
        assert log.has("INFO", f"lost the connection to {there}: a cable is pulled")
        assert log.has("INFO", f"resumed with {there}")
        await pair.near.close()
        await asyncio.sleep(1)
        assert log.has("INFO", f"ended with {there}: closed, with everything delivered")
        await pair.listener.stop()
        assert log.has("INFO", "the node stopped; sessions that lost messages: 0")
        assert not log.has("WARNING", "")


@in_virtual_time
async def test_info_tells_why_a_session_was_lost(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.dialer.events.register("error", _handle)
        pair.near.send_nowait(b"the contents of a message")
        live(pair.near).lose("pulled out")
        assert log.has("INFO", "ended with ", "pulled out (messages not sent: 0; sent, but not")
        await asyncio.sleep(1)
        assert not log.has("INFO", "session_lost")  # that would say it twice


async def _handle(**_: object) -> None:
    """Handle an error."""


@pytest.mark.parametrize("handled", [True, False])
@in_virtual_time
async def test_a_refused_peer_is_a_warning_only_if_nobody_handles_it(
    log: Log, handled: bool
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        if handled:
            pair.listener.events.register("error", _handle)
        await pair.listener.ban(pair.dialer.node_id)
        for _ in range(20):
            with pytest.raises(STTConnectError, match="does not allow"):
                await pair.dialer.connect(*address_of(pair.listener))
        await asyncio.sleep(1)
        peer = pair.dialer.node_id.hex()[:16]
        for level in ("INFO", "WARNING"):
            expected = level == ("INFO" if handled else "WARNING")
            assert log.has(level, "peer_denied: ", f"peer_node_id {peer}") is expected


async def _knock(nodes: Nodes) -> None:
    listener = await nodes.listen("bob")
    stranger = await nodes.start("alice", shared=b"that of another group")
    for _ in range(5):
        with pytest.raises(STTConnectError):
            await stranger.connect(*address_of(listener))


@in_virtual_time
async def test_a_stranger_causes_no_line_above_debug_and_at_most_one_a_second(log: Log) -> None:
    async with memory_nodes() as nodes:
        await _knock(nodes)
        assert log.has("DEBUG", "handshake_failed: ")
        assert not log.has("INFO", "handshake_failed: ")
        assert not log.has("WARNING", "")


@in_virtual_time
async def test_messages_leave_no_line(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        before = log.count
        for _ in range(100):
            await pair.near.send(b"a message")
            await pair.listener.endpoints.receive_any()
        assert log.count == before


@in_virtual_time
async def test_an_endpoint_that_cannot_be_reached_is_told_of_at_info_if_handled(log: Log) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start("alice")
        node.events.register("error", _handle)
        await node.endpoints.add_endpoint(b"b" * 32, ("192.0.2.1", 9), connect=True)
        await asyncio.sleep(5)
        assert log.has("INFO", "connect_failed: ", f"peer_node_id {(b'b' * 8).hex()}")
        assert not log.has("WARNING", "")


class Asker:
    """Asks the peer a question, and waits in the handler for the answer."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    async def ask(self, **_: object) -> None:
        node, peer = self._pair.listener, self._pair.dialer.node_id
        await node.endpoints.send_to_endpoint(peer, b"a question")
        with contextlib.suppress(STTEndpointError):  # the node stops
            await node.endpoints.receive_from(peer)


async def _answer(pair: Pair) -> None:
    """Cause a question, and answer it."""
    await pair.near.send(b"ask me")
    await pair.dialer.endpoints.receive_any()
    await pair.near.send(b"the answer")


@in_virtual_time
async def test_a_handler_that_waits_for_its_own_peer_is_named_once(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("data_received", Asker(pair).ask)
        await _answer(pair)
        await asyncio.sleep(9)
        assert log.of_handlers() == []
        await asyncio.sleep(3)
        (line,) = log.of_handlers()
        assert line.startswith("a handler of data_received (")
        assert "Asker.ask) has run for 10 s" in line
        assert pair.near.session_id.hex()[:16] in line
        assert f"with {pair.dialer.node_id.hex()[:16]})" in line
        assert "asyncio.create_task" in line
        await pair.near.send(b"one more")
        await asyncio.sleep(600)
        assert log.of_handlers() == [line]


@in_virtual_time
async def test_a_handler_of_another_event_that_holds_up_messages_is_named(log: Log) -> None:
    async with memory_nodes(handler_warning=3) as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("session_resumed", Asker(pair).ask)
        pair.listener.events.register("data_received", _handle)
        live(pair.near).cut("a cable is pulled")
        await pair.dialer.endpoints.receive_any()
        await pair.near.send(b"the answer")
        await asyncio.sleep(5)
        (line,) = log.of_handlers()
        assert line.startswith("a handler of session_resumed (")
        assert "Asker.ask) has run for 3 s" in line


@in_virtual_time
async def test_the_handlers_of_one_session_after_the_other_make_one_line_a_minute(log: Log) -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen("bob")
        hub.events.register("data_received", _hang)
        for name in ("alice", "carol"):
            session = await (await nodes.start(name)).connect(*address_of(hub))
            await session.send(b"1")
            await session.send(b"2")
        await asyncio.sleep(30)
        assert len(log.of_handlers()) == 1


async def _hang(**_: object) -> None:
    await asyncio.get_running_loop().create_future()


@in_virtual_time
async def test_handlers_that_end_in_time_are_not_warned_about_however_many_wait(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def work(**_: object) -> None:
            await asyncio.sleep(8)

        for _ in range(10):
            await pair.near.send(b"work")
        await asyncio.sleep(100)
        assert log.of_handlers() == []


@in_virtual_time
async def test_a_handler_is_warned_about_only_once_something_waits_for_it(log: Log) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("data_received", _hang)
        await pair.near.send(b"1")
        await asyncio.sleep(100)
        assert log.of_handlers() == []
        await pair.near.send(b"2")
        await asyncio.sleep(2)
        assert len(log.of_handlers()) == 1


@in_virtual_time
async def test_messages_that_wait_for_room_in_an_inbox_do_not_wait_for_a_handler(log: Log) -> None:
    async with memory_nodes(inbox_messages=1) as nodes:
        pair = await nodes.pair()
        for _ in range(5):
            await pair.near.send(b"a message")
        await asyncio.sleep(100)
        assert log.of_handlers() == []


@in_virtual_time
async def test_without_handler_warning_no_handler_is_warned_about(log: Log) -> None:
    async with memory_nodes(handler_warning=None) as nodes:
        pair = await nodes.pair()
        pair.listener.events.register("data_received", Asker(pair).ask)
        await _answer(pair)
        await asyncio.sleep(600)
        assert log.of_handlers() == []
