"""Receiving in batches and by iterating, and the end of a manager's messages."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from helpers.nodes import address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.errors import (
    STTEndpointError,
    STTSessionClosedError,
    STTTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

X, Y, Z = b"x", b"y", b"z"


async def manager_with(*ids: bytes, **options: Any) -> EndpointManager:
    manager = EndpointManager(**options)
    for endpoint_id in ids:
        await manager.add_endpoint(endpoint_id, None)
    return manager


async def deliver(manager: EndpointManager, *messages: tuple[bytes, bytes]) -> None:
    for data, endpoint_id in messages:
        await manager.deliver(endpoint_id, data)


async def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run the work in a task until it waits."""
    task = asyncio.create_task(work)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


# In batches.


async def test_a_batch_holds_all_that_is_there_in_order_of_arrival() -> None:
    manager = await manager_with(X, Y)
    messages = [(b"1", X), (b"2", Y), (b"3", X), (b"4", X)]
    await deliver(manager, *messages)
    assert await manager.receive_many() == messages
    with pytest.raises(STTTimeoutError):
        await manager.receive_any(timeout=0)


async def test_a_batch_of_one_endpoint_leaves_the_others_messages() -> None:
    manager = await manager_with(X, Y)
    await deliver(manager, (b"1", X), (b"2", Y), (b"3", X))
    assert await manager.receive_many(X) == [(b"1", X), (b"3", X)]
    assert await manager.receive_many() == [(b"2", Y)]


@pytest.mark.parametrize("others", [[], [(b"other", Y)]])
async def test_a_batch_is_no_larger_than_asked(others: list[tuple[bytes, bytes]]) -> None:
    manager = await manager_with(X, Y)
    messages = [(b"%d" % number, X) for number in range(5)]
    await deliver(manager, *messages, *others)
    assert await manager.receive_many(max_messages=2) == messages[:2]
    assert await manager.receive_many(max_messages=1) == messages[2:3]
    assert await manager.receive_many(max_messages=9) == [*messages[3:], *others]


async def test_a_batch_waits_for_a_message_and_takes_those_that_came_with_it() -> None:
    manager = await manager_with(X)
    waiting = await start(manager.receive_many(max_messages=3))
    assert not waiting.done()
    await deliver(manager, *((b"%d" % number, X) for number in range(4)))
    assert await waiting == [(b"0", X), (b"1", X), (b"2", X)]
    assert await manager.receive_many(max_messages=1) == [(b"3", X)]


async def test_a_batch_does_not_overtake_a_receiver_that_has_yet_to_run() -> None:
    manager = await manager_with(X)
    before = await start(manager.receive_any())
    await deliver(manager, (b"1", X), (b"2", X), (b"3", X))
    batch = asyncio.ensure_future(manager.receive_many())
    assert await before == (b"1", X)
    assert await batch == [(b"2", X), (b"3", X)]


async def test_a_batch_times_out_as_a_receive_does() -> None:
    manager = await manager_with(X)
    with pytest.raises(STTTimeoutError, match="any endpoint"):
        await manager.receive_many(timeout=0)
    with pytest.raises(STTTimeoutError, match=X.hex()):
        await manager.receive_many(X, timeout=0.001)
    with pytest.raises(STTEndpointError, match="unknown"):
        await manager.receive_many(Z)


async def test_a_batch_of_no_messages_is_refused() -> None:
    manager = await manager_with(X)
    await manager.deliver(X, b"1")
    with pytest.raises(ValueError, match="at least 1"):
        await manager.receive_many(max_messages=0)
    assert await manager.receive_many() == [(b"1", X)]


async def test_a_batch_that_is_cancelled_while_it_waits_loses_nothing() -> None:
    manager = await manager_with(X)
    waiting = await start(manager.receive_many())
    await deliver(manager, (b"1", X), (b"2", X))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await manager.receive_many() == [(b"1", X), (b"2", X)]


async def test_a_batch_makes_room_for_everybody_who_waits_for_it() -> None:
    manager = await manager_with(X, inbox_messages=2)
    await deliver(manager, (b"0", X), (b"1", X))
    waiting = [await start(manager.deliver(X, b"%d" % number)) for number in range(2, 6)]
    got: list[tuple[bytes, bytes]] = []
    while len(got) < 6:
        got += await manager.receive_many(timeout=5)
    await asyncio.gather(*waiting)
    assert got == [(b"%d" % number, X) for number in range(6)]


# By iterating.


async def test_iterating_receives_what_is_there_and_what_comes_until_the_manager_closes() -> None:
    manager = await manager_with(X, Y)
    await deliver(manager, (b"1", X))
    got: list[tuple[bytes, bytes]] = []

    async def consume() -> None:
        async for data, endpoint_id in manager.messages():
            got.append((data, endpoint_id))

    consuming = await start(consume())
    await deliver(manager, (b"2", Y), (b"3", X))
    manager.close()
    await consuming
    assert got == [(b"1", X), (b"2", Y), (b"3", X)]


async def test_iterating_over_one_endpoint_skips_the_others() -> None:
    manager = await manager_with(X, Y)
    await deliver(manager, (b"1", X), (b"2", Y), (b"3", X))
    manager.close()
    assert [message async for message in manager.messages(X)] == [(b"1", X), (b"3", X)]
    assert await manager.receive_any() == (b"2", Y)


async def test_leaving_the_loop_leaves_the_rest_to_the_next_receiver() -> None:
    manager = await manager_with(X)
    await deliver(manager, (b"1", X), (b"2", X))
    async for data, _ in manager.messages():
        assert data == b"1"
        break
    assert await manager.receive_any(timeout=0) == (b"2", X)


async def test_an_iteration_that_is_cancelled_loses_nothing() -> None:
    manager = await manager_with(X)

    async def consume() -> None:
        async for _ in manager.messages():
            raise AssertionError

    consuming = await start(consume())
    await manager.deliver(X, b"1")
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert await manager.receive_any(timeout=0) == (b"1", X)


async def test_an_iterator_goes_on_after_a_wait_that_was_given_up() -> None:
    manager = await manager_with(X)
    messages = manager.messages()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await anext(messages)
    await deliver(manager, (b"1", X))
    assert await anext(messages) == (b"1", X)


async def test_tasks_may_share_an_iterator_and_each_hears_of_its_end() -> None:
    manager = await manager_with(X)
    messages = manager.messages()

    async def collect() -> list[bytes]:
        return [data async for data, _ in messages]

    collecting = [await start(collect()), await start(collect())]
    await deliver(manager, (b"1", X), (b"2", X))
    manager.close()
    assert [await each for each in collecting] == [[b"1"], [b"2"]]
    assert await collect() == []


async def test_iterating_over_an_unknown_endpoint_says_so() -> None:
    manager = await manager_with(X)
    with pytest.raises(TypeError, match="must be bytes"):
        manager.messages("x")  # type: ignore[arg-type]
    with pytest.raises(STTEndpointError, match="unknown"):
        await anext(manager.messages(Y))


@in_virtual_time
async def test_iterating_ends_when_the_node_stops_and_can_begin_again() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        got: list[bytes] = []

        async def consume() -> None:
            async for data, _ in pair.listener.endpoints.messages():
                got.append(data)

        consuming = await start(consume())
        await pair.near.send(b"1")
        await until(lambda: got)
        await pair.listener.stop()
        await consuming
        await pair.listener.start(server_mode=True)
        consuming = await start(consume())
        again = await pair.dialer.connect(*address_of(pair.listener))
        await again.send(b"2")
        await until(lambda: len(got) == 2)
        await pair.listener.stop()
        await consuming
        assert got == [b"1", b"2"]


@in_virtual_time
async def test_iterating_over_a_peer_that_leaves_ends_with_the_error_of_receiving() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"1")
        got: list[bytes] = []

        async def consume() -> None:
            async for data, _ in pair.listener.endpoints.messages(pair.dialer.node_id):
                got.append(data)

        consuming = await start(consume())
        await until(lambda: got)
        await pair.near.close()
        with pytest.raises(STTSessionClosedError, match="closed"):
            await consuming
        assert got == [b"1"]


# Closing.


async def test_after_closing_receivers_raise_once_everything_was_received() -> None:
    manager = await manager_with(X)
    await deliver(manager, (b"1", X), (b"2", X))
    manager.close()
    manager.close()
    assert await manager.receive_many() == [(b"1", X), (b"2", X)]
    for receiving in (manager.receive_any(), manager.receive_from(X), manager.receive_many()):
        with pytest.raises(STTEndpointError, match="closed"):
            await receiving


async def test_closing_ends_the_wait_of_every_receiver() -> None:
    manager = await manager_with(X)
    waiting = [
        await start(manager.receive_any()),
        await start(manager.receive_from(X, timeout=9)),
        await start(manager.receive_many(X)),
    ]
    manager.close()
    for each in waiting:
        with pytest.raises(STTEndpointError, match="closed"):
            await each


@in_virtual_time
async def test_iterating_over_one_peer_ends_when_the_node_stops() -> None:
    async def collect(peer: bytes) -> list[bytes]:
        return [data async for data, _ in hub.endpoints.messages(peer)]

    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, joined = pair.listener, pair.dialer.node_id
        added = await nodes.start("carol")
        await hub.endpoints.add_endpoint(added.node_id, None)
        other = await nodes.connect(added, hub)
        iterations = [await start(collect(peer)) for peer in (joined, added.node_id)]
        await pair.near.send(b"1")
        await other.near.send(b"2")
        await hub.stop()
        assert [await iteration for iteration in iterations] == [[b"1"], [b"2"]]


# What is refused.


@pytest.mark.parametrize("wrong", [1.5, "5", None])
async def test_a_number_of_messages_that_is_none_is_refused(wrong: Any) -> None:
    manager = await manager_with(X)
    await deliver(manager, (b"1", X))
    with pytest.raises(TypeError, match="max_messages must be an int"):
        await manager.receive_many(max_messages=wrong)
    assert await manager.receive_many() == [(b"1", X)]


@pytest.mark.parametrize(("wrong", "error"), [(math.nan, ValueError), ("5", TypeError)])
async def test_a_timeout_that_is_no_number_is_refused(wrong: Any, error: type[Exception]) -> None:
    async def send(endpoint_id: bytes, data: bytes) -> None:
        sent.append(data)

    sent: list[bytes] = []
    manager = EndpointManager(send)
    await manager.add_endpoint(X, None)
    for call in (
        manager.receive_any(timeout=wrong),
        manager.receive_from(X, timeout=wrong),
        manager.receive_many(timeout=wrong),
        manager.send_to_endpoint(X, b"1", timeout=wrong),
        manager.send_to_many([X], b"1", timeout=wrong),
        manager.broadcast(b"1", timeout=wrong),
        manager.wait_connected(X, timeout=wrong),
    ):
        with pytest.raises(error, match="timeout must be a number of seconds or None, not"):
            await call
    assert sent == []


async def test_a_deadline_that_has_passed_takes_only_what_is_there() -> None:
    manager = await manager_with(X)
    await deliver(manager, (b"1", X))
    assert await manager.receive_any(timeout=-0.1) == (b"1", X)
    with pytest.raises(STTTimeoutError):
        await manager.receive_any(timeout=-0.1)


# A peer that has left.


@in_virtual_time
async def test_a_patient_receiver_of_a_peer_that_has_left_waits_for_its_return() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        await pair.near.close()
        await until(lambda: peer not in hub.endpoints)
        with pytest.raises(STTSessionClosedError, match="reconnect=True"):
            await hub.endpoints.receive_from(peer)
        patient = await start(hub.endpoints.receive_from(peer, reconnect=True))
        again = await nodes.connect(pair.dialer, hub)
        await again.near.send(b"back")
        assert await patient == (b"back", peer)


@in_virtual_time
async def test_the_error_about_an_id_of_a_session_says_how_to_get_that_of_the_endpoint() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, session = pair.listener, pair.far
        said = rf"^endpoint {session.session_id.hex()} is unknown; .* the id of a session: use "
        for call in (
            hub.endpoints.send_to_endpoint(session.session_id, b""),
            hub.endpoints.receive_from(session.session_id),
        ):
            with pytest.raises(STTEndpointError, match=said + r".*, node\.get_session\(id\)\.peer"):
                await call
        found = hub.get_session(session.session_id)
        assert found is not None
        await hub.endpoints.send_to_endpoint(found.peer_node_id, b"as it says")
        with pytest.raises(STTEndpointError, match="is unknown; add it first"):
            await hub.endpoints.send_to_endpoint(b"n" * 16, b"")


@in_virtual_time
async def test_errors_about_a_peer_that_has_left_say_how_its_session_ended() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        await pair.near.close()
        await until(lambda: peer not in hub.endpoints)
        for call in (
            hub.endpoints.send_to_endpoint(peer, b"too late"),
            hub.endpoints.wait_connected(peer),
            hub.endpoints.remove_endpoint(peer),
        ):
            with pytest.raises(
                STTEndpointError, match=f"^peer {peer.hex()} closed its session, and the"
            ):
                await call
