"""Errors that nobody handles: a few lines in the log, none with a message in it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from helpers.nodes import in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions.node.unheard import ErrorLog

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode

SECRET = b"a message that belongs into no log"
PEER = b"p" * 32


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def loss(*messages: bytes) -> dict[str, Any]:
    return {
        "session_id": b"s" * 16,
        "peer_node_id": PEER,
        "reason": "the peer is gone",
        "unsent": messages,
        "unknown": (),
    }


@in_virtual_time
async def test_an_error_is_one_line_with_ids_and_reason_and_without_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ErrorLog().note("session_lost", loss(SECRET), handled=False)
    [line] = lines(caplog)
    assert "session_lost: the peer is gone" in line
    assert PEER.hex()[:16] in line
    assert "belongs" not in line


@in_virtual_time
async def test_a_flood_is_one_line_and_then_one_sum_per_period(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unheard = ErrorLog()
    for _ in range(1900):
        unheard.note("session_lost", loss(SECRET, SECRET), handled=False)
        await asyncio.sleep(0.01)
    assert len(lines(caplog)) == 2  # in 19 seconds
    await asyncio.sleep(60)
    sums = lines(caplog)[1:]
    assert [line.partition(";")[0] for line in sums] == [
        "session_lost: 999 more since the last log line",
        "session_lost: 900 more since the last log line",
    ]
    assert sums[0].endswith("undelivered messages: 1998")
    unheard.note("session_lost", loss(SECRET), handled=False)
    assert "the peer is gone" in lines(caplog)[-1]


@in_virtual_time
async def test_types_of_errors_do_not_hide_each_other(caplog: pytest.LogCaptureFixture) -> None:
    unheard = ErrorLog()
    for name in ("session_lost", "peer_denied", "connect_failed"):
        unheard.note(name, loss(SECRET), handled=False)
    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "session_lost",
        "peer_denied",
        "connect_failed",
    ]


@in_virtual_time
async def test_errors_left_out_are_summed_up_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    unheard = ErrorLog()
    for _ in range(3):
        unheard.note("session_lost", loss(SECRET), handled=False)
    unheard.flush()
    assert lines(caplog)[1:] == [
        "session_lost: 2 more since the last log line; undelivered messages: 2"
    ]
    await asyncio.sleep(60)
    assert len(lines(caplog)) == 2


@in_virtual_time
async def test_strangers_and_sessions_lost_with_nothing_undelivered_log_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unheard = ErrorLog()
    unheard.note("session_lost", loss(), handled=False)
    unheard.note(
        "handshake_failed", {"address": ("192.0.2.1", 1), "reason": "x", "count": 1}, handled=False
    )
    assert not lines(caplog)


async def lose_messages(node: STTNode, peer: STTNode) -> None:
    """Let a node accept messages that its peer, which is gone, cannot acknowledge."""
    [session] = node.sessions
    for connection in [*node._registry.connections, *peer._registry.connections]:
        connection.drop()
    await asyncio.sleep(0)
    session.send_nowait(SECRET)
    session.send_nowait(SECRET)


@pytest.mark.parametrize("handled", ["no handler", "on_any", "handler", "stream"])
@in_virtual_time
async def test_a_block_that_ends_with_undelivered_messages_warns_unless_they_were_reported(
    handled: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_nodes(close_timeout=1) as nodes:
        pair = await nodes.pair()
        node = pair.dialer
        heard: list[str] = []

        async def handle(error_type: str, details: dict[str, Any]) -> None:
            heard.append(error_type)

        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """See everything, as metrics do."""

        async with AsyncExitStack() as stack, node:
            await lose_messages(node, pair.listener)
            await pair.listener.stop(drain=0)
            if handled == "handler":
                node.events.register("error", handle)
            elif handled == "on_any":
                node.events.on_any(watch)
            elif handled == "stream":
                await stack.enter_async_context(node.events.stream("error"))
        mine = [line for line in lines(caplog) if pair.listener.node_id.hex()[:16] in line]
        if handled in ("no handler", "on_any"):
            [line] = mine
            assert "session_lost" in line
            assert "2" in line
        else:
            assert not mine
        assert heard == (["session_lost"] if handled == "handler" else [])
        assert "belongs" not in caplog.text


@in_virtual_time
async def test_a_stop_with_many_losses_logs_them_in_two_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes(close_timeout=1, max_sessions_per_peer=10) as nodes:
        pair = await nodes.pair()
        for _ in range(9):
            await nodes.connect(pair.dialer, pair.listener)
        for session in pair.dialer.sessions:
            session.send_nowait(SECRET)
        for connection in [*pair.dialer._registry.connections]:
            connection.drop()
        await pair.listener.stop(drain=0)
        caplog.clear()
        assert len(await pair.dialer.stop(drain=0)) == 10
        first, rest = lines(caplog)
        assert "session_lost: the node was stopped" in first
        assert rest == "session_lost: 9 more since the last log line; undelivered messages: 9"


@in_virtual_time
async def test_a_peer_that_cannot_be_kept_connected_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(PEER, ("nowhere", 1), connect=True)
        await asyncio.sleep(300)
        assert 2 <= len(lines(caplog)) <= 31
        assert "connect_failed: cannot reach nowhere port 1" in lines(caplog)[0]


@in_virtual_time
async def test_a_member_that_is_refused_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen(allow=[])
        dialer = await nodes.start()
        address = listener.address
        assert address is not None
        for _ in range(20):
            with pytest.raises(Exception, match="does not allow"):
                await dialer.connect(*address)
        await until(lambda: lines(caplog))
        [line] = lines(caplog)
        assert "peer_denied: the peer is not among the node ids that are allowed" in line
        assert dialer.node_id.hex()[:16] in line


@in_virtual_time
async def test_a_session_that_cannot_be_resumed_is_a_warning_long_before_it_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        assert pair.listener._life._listener is not None
        await pair.listener._life._listener.close()
        for connection in [*pair.dialer._registry.connections]:
            connection.drop()
        for connection in [*pair.listener._registry.connections]:
            connection.drop()
        live(pair.near).cut("the network is gone")
        await asyncio.sleep(60)
        assert pair.near.state == "suspended"
        [first, *later] = lines(caplog)
        session = f"cannot resume session {pair.near.session_id.hex()[:16]} with peer "
        assert first.startswith(session)
        assert "cannot reach" in first
        assert "register a handler for 'session_suspended'" in first
        # When the pauses between attempts have grown beyond 10 s, an attempt has a line of its own.
        assert all(line.startswith((session, "cannot resume session: ")) for line in later)
        assert len(later) <= 6


@pytest.mark.parametrize("event", ["session_suspended", "error"])
@in_virtual_time
async def test_a_session_that_cannot_be_resumed_is_no_warning_to_a_program_that_was_told(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`session_suspended` tells it that a session has no connection; no `error` does."""
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        pair.dialer.events.register(event, told := AsyncMock())
        assert pair.listener._life._listener is not None
        await pair.listener._life._listener.close()
        live(pair.far).cut("the network is gone")
        live(pair.near).cut("the network is gone")
        await asyncio.sleep(60)
        assert pair.near.state == "suspended"
        assert bool(lines(caplog)) == (event == "error")
        assert told.await_count == (event == "session_suspended")
