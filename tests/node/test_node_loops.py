"""A node whose event loop was closed, or that is used from another loop or thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from helpers.nodes import SHARED_SEED, Nodes, address_of, live, seed_of, until
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.errors import STTSessionLostError
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from seigr_toolset_transmissions.transports.base import Address

LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


@pytest.fixture(autouse=True)
def unclosed_transports() -> Iterator[None]:
    """A closed loop leaves transports behind, which say so when they are collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Do what `asyncio.run` does, but without cancelling what still runs."""
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, 20))
    finally:
        loop.close()


def make(name: str, **options: Any) -> STTNode:
    return STTNode(seed_of(name), SHARED_SEED, **options)


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("server_mode", [False, True])
def test_a_node_whose_loop_was_closed_can_be_stopped_and_started_again(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server_mode: bool
) -> None:
    async def again() -> None:
        assert await node.stop() == ()
        assert node.address is None
        await node.start(server_mode)
        assert await node.stop() == ()

    node = make("alice")
    for _ in range(3):
        run(new_loop(), node.start(server_mode))
        run(new_loop(), again())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_node_whose_loop_was_closed_can_be_started_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def live() -> None:
        await bob.start(server_mode=True)
        async with make("alice") as alice:
            session = await alice.connect(*address_of(bob))
            await session.send(b"in each life")
            data, _ = await bob.endpoints.receive_any(timeout=9)
            assert data == b"in each life"
            assert await session.request(b"again") == b"again"
            await session.close()

    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        return data

    bob = make("bob")
    bob.on_request(answer)
    for _ in range(3):
        run(new_loop(), live())
        assert not bob._runtime.running


@pytest.mark.parametrize("new_loop", LOOPS)
def test_the_remains_of_a_closed_loop_are_cleared_away_and_its_losses_reported(
    new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    async def first() -> Any:
        await bob.start(server_mode=True)
        await alice.start()
        session = await alice.connect(*address_of(bob))
        await until(lambda: bob.sessions)
        session.send_nowait(b"acknowledged by nobody")
        return session

    async def second() -> None:
        (lost,) = await alice.stop()
        assert isinstance(lost, STTSessionLostError)
        assert lost.unknown == (b"acknowledged by nobody",)
        assert alice.sessions == []
        assert alice.stats().sessions == alice.stats().peers == 0
        assert alice.stats().sessions_opened == 1
        assert list(alice.endpoints) == []
        assert alice.get_session_for_endpoint(bob.node_id) is None
        assert session.state == "closed"
        with pytest.raises(STTSessionLostError, match="event loop was closed"):
            await session.send(b"too late")
        await bob.stop()

    alice, bob = make("alice"), make("bob")
    session = run(new_loop(), first())
    with caplog.at_level(logging.WARNING):
        run(new_loop(), second())
    assert "messages of 1 of its sessions are lost" in caplog.text


@pytest.mark.parametrize("new_loop", LOOPS)
def test_the_sockets_of_a_closed_loop_are_closed_when_the_node_is_stopped(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def first() -> Address:
        await bob.start(server_mode=True)
        stranger.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stranger, address_of(bob))
        await until(lambda: any(one._transport for one in bob._life.acceptor.answering))
        stranger.settimeout(9)
        return address_of(bob)

    bob = make("bob")
    with socket.socket() as stranger, socket.socket() as late:
        address = run(new_loop(), first())
        run(new_loop(), bob.stop())
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            late.connect(address)


def test_a_kept_endpoint_is_dialed_in_the_next_life() -> None:
    async def first() -> None:
        await alice.start()
        await alice.endpoints.add_endpoint(bob.node_id, ("127.0.0.1", 9), connect=True)

    async def second() -> None:
        await bob.start(server_mode=True)
        alice.endpoints.update_endpoint(bob.node_id, address=address_of(bob))
        async with alice:
            await until(lambda: alice.sessions)
        await bob.stop()

    network = MemoryNetwork()
    alice, bob = make("alice", network=network), make("bob", network=network)
    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_error_is_logged_though_a_closed_loop_left_a_wait_for_errors_behind(
    new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    node = make("alice", network=MemoryNetwork())

    async def leave() -> asyncio.Task[Any]:
        waiting = asyncio.create_task(node.events.wait_for("error"))
        await asyncio.sleep(0)
        return waiting

    async def again() -> None:
        async with node:
            await node._runtime.emit_error("connect_failed", {"reason": "nobody is there"})

    left = run(new_loop(), leave())
    run(new_loop(), again())
    assert "connect_failed: nobody is there" in caplog.text
    left._log_destroy_pending = False


async def test_a_call_from_another_running_loop_is_refused_with_the_reason() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair(send_window_messages=1)
        node = pair.dialer
        for call in (
            node.start,
            node.stop,
            lambda: node.connect("127.0.0.1", 9),
            lambda: node.kick(bytes(32)),
            lambda: node.set_shared_seed(SHARED_SEED),
            lambda: node.send_to_all(b""),
            lambda: node.endpoints.receive_any(timeout=5),
            pair.near.flush,
            pair.near.close,
            pair.near.wait_closed,
        ):

            def elsewhere(call: Callable[[], Coroutine[Any, Any, Any]] = call) -> None:
                with pytest.raises(RuntimeError, match="runs in another event loop"):
                    asyncio.run(call())

            await asyncio.to_thread(elsewhere)
        await pair.near.send(b"1")
        await pair.near.flush()


def on_a_loop_of_its_own(make: Callable[[], Coroutine[Any, Any, object]]) -> None:
    asyncio.run(make())


async def test_a_call_from_another_thread_is_refused_in_debug_mode() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    async with Nodes() as nodes:
        pair = await nodes.pair()
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(pair.dialer.retry_now, bytes(32))
        for call in (pair.near.send_nowait, live(pair.near).try_send):
            with pytest.raises(RuntimeError):
                await asyncio.to_thread(call, b"from another thread")
        endpoints, peer = pair.dialer.endpoints, pair.listener.node_id
        inner = pair.dialer._endpoints

        await pair.far.send(b"1")
        await pair.far.flush()
        endpoints.join("another group", peer)
        for verb in (
            lambda: inner.add_endpoint_nowait(bytes(32), None),
            lambda: endpoints.update_endpoint(peer, metadata={}),
            lambda: endpoints.join("a group", peer),
            lambda: endpoints.leave("another group", peer),
            lambda: inner.retire_endpoint(peer),
            lambda: inner.offer(peer, [b"2"]),
            lambda: inner.close_inboxes("from another thread"),
            inner.open_inboxes,
            pair.near.abort,
            pair.dialer.stats,
        ):
            with pytest.raises(RuntimeError):
                await asyncio.to_thread(verb)
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: endpoints.add_endpoint(bytes(32), None),
            lambda: endpoints.remove_endpoint(peer),
            lambda: endpoints.send_to_endpoint(peer, b"from another thread"),
            lambda: endpoints.send_to_many([peer], b"from another thread"),
            lambda: endpoints.broadcast(b"from another thread"),
            lambda: endpoints.send_to_group("another group", b"from another thread"),
            lambda: endpoints.receive_from(peer),
            endpoints.receive_any,
            lambda: endpoints.receive_any(timeout=0),
            lambda: endpoints.deliver(peer, b"2"),
            lambda: inner.wait_for_room(peer),
            lambda: pair.near.send(b"from another thread"),
        ]
        for make in calls:
            with pytest.raises(RuntimeError):
                await asyncio.to_thread(on_a_loop_of_its_own, make)
        assert endpoints.list_endpoints() == [peer]
        assert endpoints.groups(peer) == ["another group"]
        assert pair.near.stats.messages_sent == 0
        assert await endpoints.receive_from(peer) == (b"1", peer)
        with pytest.raises(TimeoutError):
            await endpoints.receive_any(timeout=0)
        await endpoints.deliver(peer, b"2")
        assert await endpoints.receive_any() == (b"2", peer)


async def test_a_stopped_node_works_in_any_loop_even_after_debug_mode() -> None:
    asyncio.get_running_loop().set_debug(True)
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await pair.far.send(b"1")
        await pair.far.flush()
        await pair.dialer.stop()

        async def receive() -> None:
            await pair.dialer.endpoints.receive_any()

        await asyncio.to_thread(on_a_loop_of_its_own, receive)
