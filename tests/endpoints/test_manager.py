"""Sending to one endpoint, to several and to all: outcomes, time limits and cancellation."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock, create_autospec

import pytest

from helpers.lines import counting_lines
from helpers.wire import A, B, C, D, Wire, manager_with
from seigr_toolset_transmissions.endpoints import EndpointManager, SendOutcome
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import (
    STTConfigError,
    STTEndpointError,
)

# -- lifecycle -------------------------------------------------------------------------------


async def test_an_added_endpoint_is_described_as_it_was_given() -> None:
    manager = EndpointManager()
    metadata = {"type": "relay", "trust_score": 0.95}
    before = time.time()
    await manager.add_endpoint(endpoint_id=A, address=("192.168.1.100", 9000), metadata=metadata)
    info = manager.get_endpoint(A)
    assert info is not None
    assert info["address"] == ("192.168.1.100", 9000)
    assert info["metadata"] is metadata
    assert before <= info["connected_at"] <= time.time()
    assert (info["bytes_sent"], info["bytes_received"], info["last_activity"]) == (0, 0, None)
    assert (info["state"], info["rtt"]) == ("known", None)


async def test_metadata_that_was_not_given_is_a_dict_of_the_endpoints_own() -> None:
    manager = manager_with([A, B])
    first, second = manager.get_endpoint(A), manager.get_endpoint(B)
    assert first is not None
    assert second is not None
    first["metadata"]["type"] = "relay"
    assert second["metadata"] == {}
    assert manager.find(type="relay") == [A]


async def test_counters_follow_what_was_accepted() -> None:
    manager = manager_with([A], Wire().send)
    await manager.send_to_endpoint(A, b"12345")
    await manager.broadcast(b"678")
    await manager.deliver(A, b"12")
    assert Side(manager).offer(A, [b"3", b"45"]) == 2
    info = manager.get_endpoint(A)
    assert info is not None
    assert (info["bytes_sent"], info["bytes_received"]) == (8, 5)
    assert info["last_activity"] is not None
    assert info["last_activity"] >= info["connected_at"]


@pytest.mark.parametrize("how", ["send_to_endpoint", "broadcast", "deliver", "offer"])
async def test_a_message_in_either_direction_is_an_activity(how: str) -> None:
    manager = manager_with([A, B], Wire().send)
    before = time.time()
    if how == "send_to_endpoint":
        await manager.send_to_endpoint(A, b"x")
    elif how == "broadcast":
        await manager.send_to_many([A], b"x")
    elif how == "deliver":
        await manager.deliver(A, b"x")
    else:
        Side(manager).offer(A, [b"x"])
    active, idle = manager.get_endpoint(A), manager.get_endpoint(B)
    assert active is not None
    assert idle is not None
    assert active["last_activity"] is not None
    assert before <= active["last_activity"] <= time.time()
    assert idle["last_activity"] is None


async def test_the_counters_restart_when_an_endpoint_comes_back() -> None:
    manager = manager_with([A], Wire().send)
    await manager.send_to_endpoint(A, b"12345")
    await manager.deliver(A, b"12")
    Side(manager).retire_endpoint(A)
    await manager.add_endpoint(A, None)
    info = manager.get_endpoint(A)
    assert info is not None
    assert (info["bytes_sent"], info["bytes_received"], info["last_activity"]) == (0, 0, None)


async def test_the_transport_learns_which_endpoints_to_connect() -> None:
    told: list[tuple[bytes, list[bytes]]] = []
    manager = EndpointManager()
    side = Side(manager, on_wanted=lambda peer: told.append((peer, manager.list_endpoints())))
    await manager.add_endpoint(A, None)
    await manager.add_endpoint(B, None, connect=True)
    assert told == [(B, [A, B])]  # it is there by then
    assert [side.wanted(endpoint_id) for endpoint_id in (A, B, C)] == [False, True, False]
    await manager.deliver(B, b"x")
    side.retire_endpoint(B)
    await manager.add_endpoint(B, None)  # again, and now without
    assert not side.wanted(B)
    await manager.remove_endpoint(B)
    await manager.add_endpoint(B, None, connect=True)
    assert side.wanted(B)
    await manager.remove_endpoint(B)
    assert not side.wanted(B)
    assert len(told) == 2
    await EndpointManager().add_endpoint(A, None, connect=True)  # without a transport


async def test_an_endpoint_that_the_transport_added_is_its_own_until_the_user_adds_it() -> None:
    manager = EndpointManager()
    Side(manager).add_endpoint_nowait(A, None, temporary=True)
    await manager.add_endpoint(B, None)
    side = Side(manager)
    assert [side.is_temporary(endpoint_id) for endpoint_id in (A, B, C)] == [True, False, False]
    await manager.remove_endpoint(A)
    assert not Side(manager).is_temporary(A)
    await manager.add_endpoint(A, None)
    assert not Side(manager).is_temporary(A)


async def test_the_status_function_adds_to_the_description() -> None:
    status = {"state": "open", "rtt": 0.1, "min_rtt": 0.05}
    manager = manager_with([A])
    Side(manager, status=lambda peer: status if peer == A else {})
    info = manager.get_endpoint(A)
    assert info is not None
    assert (info["state"], info["rtt"], info["min_rtt"]) == ("open", 0.1, 0.05)
    assert info["bytes_sent"] == 0


async def test_adding_twice_fails_and_changes_nothing() -> None:
    manager = EndpointManager()
    await manager.add_endpoint(A, "first", {"n": 1})
    with pytest.raises(STTEndpointError, match=f"{A.hex()} already exists"):
        await manager.add_endpoint(A, "second", {"n": 2})
    info = manager.get_endpoint(A)
    assert info is not None
    assert (info["address"], info["metadata"]) == ("first", {"n": 1})


async def test_update_replaces_only_what_is_given() -> None:
    manager = EndpointManager()
    await manager.add_endpoint(A, "old", {"n": 1})

    def described() -> tuple[Any, Any]:
        info = manager.get_endpoint(A)
        assert info is not None
        return info["address"], info["metadata"]

    manager.update_endpoint(A, address="new")
    assert described() == ("new", {"n": 1})
    metadata = {"n": 2}
    manager.update_endpoint(A, metadata=metadata)
    assert described() == ("new", {"n": 2})
    assert described()[1] is metadata
    manager.update_endpoint(A, address=None, metadata=None)
    assert described() == (None, {})
    manager.update_endpoint(A)
    assert described() == (None, {})
    with pytest.raises(TypeError, match="metadata must be a dict or None, not list"):
        manager.update_endpoint(A, address="other", metadata=[])  # type: ignore[arg-type]
    assert described() == (None, {})


async def test_endpoints_are_listed_counted_and_iterated_in_order_of_addition() -> None:
    manager = manager_with([C, A, B])
    assert manager.list_endpoints() == [C, A, B]
    assert len(manager) == 3
    assert A in manager
    assert D not in manager
    assert "a" not in manager
    assert bytearray(A) not in manager
    for endpoint_id in manager:
        await manager.remove_endpoint(endpoint_id)
    assert list(manager) == []


async def test_an_unknown_endpoint_is_none_or_an_error() -> None:
    manager = manager_with([A], Wire().send)
    await manager.remove_endpoint(A)
    assert manager.get_endpoint(A) is None
    for attempt in (
        manager.send_to_endpoint(A, b""),
        manager.receive_from(A),
        manager.deliver(A, b""),
        Side(manager).wait_for_room(A),
        manager.remove_endpoint(A),
    ):
        with pytest.raises(STTEndpointError, match=f"{A.hex()} is unknown; add it first"):
            await attempt
    for call in (manager.update_endpoint, Side(manager).retire_endpoint):
        with pytest.raises(STTEndpointError):
            call(A)
    with pytest.raises(STTEndpointError):
        Side(manager).offer(A, [b""])


@pytest.mark.parametrize("wrong", ["a", 7, None, bytearray(A), memoryview(A), [A], ("x", 1)])
async def test_an_invalid_id_is_named(wrong: Any) -> None:
    manager = manager_with([A], Wire().send)
    expected = f"endpoint id must be bytes, not {type(wrong).__name__}"
    for attempt in (
        manager.add_endpoint(wrong, None),
        manager.send_to_endpoint(wrong, b""),
        manager.send_to_many([A, wrong], b""),
        manager.receive_from(wrong),
        manager.deliver(wrong, b""),
        Side(manager).wait_for_room(wrong),
        manager.remove_endpoint(wrong),
    ):
        with pytest.raises(TypeError, match=expected):
            await attempt
    for call in (
        manager.get_endpoint,
        manager.update_endpoint,
        Side(manager).retire_endpoint,
    ):
        with pytest.raises(TypeError, match=expected):
            call(wrong)
    with pytest.raises(TypeError, match=expected):
        Side(manager).offer(wrong, [b""])
    assert wrong not in manager
    assert manager.list_endpoints() == [A]


async def test_an_id_must_not_be_empty() -> None:
    manager = EndpointManager()
    with pytest.raises(ValueError, match="must not be empty"):
        await manager.add_endpoint(b"", None)
    with pytest.raises(ValueError, match="must not be empty"):
        manager.get_endpoint(b"")


async def test_other_wrong_arguments_are_named_and_nothing_is_sent() -> None:
    wire = Wire()
    manager = manager_with([A], wire.send)
    wrong: Any = "text"
    for attempt in (
        manager.send_to_endpoint(A, wrong),
        manager.send_to_many([A], wrong),
        manager.broadcast(wrong),
        manager.deliver(A, wrong),
    ):
        with pytest.raises(TypeError, match="data must be bytes, bytearray or memoryview, not str"):
            await attempt
    with pytest.raises(TypeError, match="ids must be an iterable of ids, not one bytes"):
        await manager.send_to_many(A, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata must be a dict or None, not str"):
        await manager.add_endpoint(B, None, wrong)
    with pytest.raises(TypeError, match="predicate must be callable, not str"):
        manager.find(wrong)
    with pytest.raises(TypeError, match="transport_send_callback must be callable, not str"):
        EndpointManager(wrong)
    assert wire.sent == []
    assert manager.list_endpoints() == [A]


class Transport:
    async def send(self, endpoint_id: bytes, data: bytes) -> None:
        """Send it."""

    async def __call__(self, endpoint_id: bytes, data: bytes) -> None:
        """Send it."""

    def plain(self, endpoint_id: bytes, data: bytes) -> None:
        """Send it."""


@pytest.mark.parametrize(
    "callback",
    [
        Transport().plain,
        partial(Transport().plain),
        Transport,
        lambda endpoint_id, data: None,
        lambda endpoint_id, data: Transport().send(endpoint_id, data),
        Mock(),
    ],
    ids=["method", "partial", "class", "lambda", "lambda that returns a coroutine", "mock"],
)
def test_a_callback_that_is_not_async_is_refused_before_it_has_sent_anything(callback: Any) -> None:
    with pytest.raises(TypeError, match="transport_send_callback must be async"):
        EndpointManager(transport_send_callback=callback)


@pytest.mark.parametrize(
    "callback",
    [
        Transport().send,
        Transport(),
        partial(Transport().send),
        AsyncMock(),
        create_autospec(Transport().send),
    ],
    ids=["method", "object", "partial", "mock", "autospec"],
)
async def test_each_kind_of_async_callback_is_awaited(callback: Any) -> None:
    manager = manager_with([A], callback)
    await manager.send_to_endpoint(A, b"x")
    assert await manager.broadcast(b"x") == {A: SendOutcome.ACCEPTED}


async def test_an_async_predicate_is_refused_and_nothing_is_sent() -> None:
    """It returns a coroutine, which would be true for every endpoint."""
    wire = Wire()
    manager = manager_with([A], wire.send)

    async def predicate(metadata: dict[str, Any]) -> bool:
        return False

    for function in (predicate, partial(predicate), AsyncMock()):
        with pytest.raises(TypeError, match="predicate must not be async"):
            manager.find(function)
    with pytest.raises(TypeError, match="predicate must not be async"):
        await manager.broadcast(b"x", where=predicate)
    assert wire.sent == []


@pytest.mark.parametrize("seconds", [0, -1, "many", float("nan")])
def test_a_send_timeout_must_be_a_positive_number(seconds: Any) -> None:
    with pytest.raises(STTConfigError, match="send_timeout must be a number above 0"):
        EndpointManager(send_timeout=seconds)


@pytest.mark.parametrize("bound", [0, -1, 1.5, "many", None])
def test_a_bound_must_be_a_positive_int(bound: Any) -> None:
    with pytest.raises(STTConfigError, match="inbox_messages must be an int of at least 1"):
        EndpointManager(inbox_messages=bound)
    with pytest.raises(STTConfigError, match="inbox_bytes must be an int of at least 1"):
        EndpointManager(inbox_bytes=bound)


async def test_find_takes_equalities_and_a_predicate() -> None:
    manager = EndpointManager()
    await manager.add_endpoint(A, None, {"type": "relay", "capacity_gb": 100})
    await manager.add_endpoint(B, None, {"type": "storage", "capacity_gb": 1000})
    await manager.add_endpoint(C, None, {"type": "storage"})
    assert manager.find() == [A, B, C]
    assert manager.find(type="storage") == [B, C]
    assert manager.find(type="storage", capacity_gb=1000) == [B]
    assert manager.find(capacity_gb=None) == []
    assert manager.find(lambda m: m["capacity_gb"] > 500) == [B]
    assert manager.find(lambda m: m["capacity_gb"] > 50, type="relay") == [A]
    with pytest.raises(ZeroDivisionError):
        manager.find(lambda m: 1 / 0)


# -- scale -----------------------------------------------------------------------------------


async def test_a_thousand_endpoints_send_and_receive() -> None:
    wire = Wire()
    ids = [number.to_bytes(32, "big") for number in range(1, 1001)]
    manager = manager_with(ids, wire.send)
    assert all((await manager.broadcast(b"x")).values())
    assert [endpoint_id for endpoint_id, _ in wire.sent] == ids
    for endpoint_id in ids:
        await manager.deliver(endpoint_id, endpoint_id[-2:])
    for endpoint_id in ids[::2]:
        assert await manager.receive_from(endpoint_id) == (endpoint_id[-2:], endpoint_id)
    for endpoint_id in ids[1::2]:
        assert await manager.receive_any() == (endpoint_id[-2:], endpoint_id)


async def test_the_cost_of_an_operation_does_not_grow_with_the_number_of_endpoints() -> None:
    async def use(manager: EndpointManager, endpoint_id: bytes) -> None:
        await manager.add_endpoint(endpoint_id, None)
        manager.get_endpoint(endpoint_id)
        await manager.send_to_endpoint(endpoint_id, b"x")
        await manager.deliver(endpoint_id, b"x")
        await manager.receive_from(endpoint_id)
        await manager.deliver(endpoint_id, b"x")
        await manager.receive_any()
        await manager.deliver(endpoint_id, b"x")
        await manager.remove_endpoint(endpoint_id)

    lines = []
    for count in (10, 10_000):
        manager = manager_with([b"%d" % number for number in range(count)], Wire().send)
        with counting_lines() as counted:
            await use(manager, A)
        lines.append(counted.lines)
    assert lines[0] == lines[1] > 0


@pytest.mark.parametrize("used", [False, True])
async def test_an_idle_endpoint_takes_less_than_700_bytes(used: bool) -> None:
    async def use(endpoint_id: bytes) -> None:
        receiving = asyncio.create_task(manager.receive_from(endpoint_id))
        await asyncio.sleep(0)
        await manager.deliver(endpoint_id, b"x")
        await receiving
        await manager.deliver(endpoint_id, b"x")
        delivering = asyncio.create_task(manager.deliver(endpoint_id, b"x"))
        await asyncio.sleep(0)
        await manager.receive_from(endpoint_id)
        await delivering
        await manager.receive_any()
        await manager.send_to_endpoint(endpoint_id, b"x")

    async def send(endpoint_id: bytes, data: bytes) -> None:
        """Keep nothing."""

    manager = EndpointManager(send, inbox_messages=1)
    await manager.add_endpoint(b"another", None)
    await use(b"another")  # what is made once and for all
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5_000):
            endpoint_id = number.to_bytes(32, "big")
            Side(manager).add_endpoint_nowait(endpoint_id, ("192.168.1.100", 9000))
            if used:
                await use(endpoint_id)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 5_000 < 700
