"""Sending to one endpoint, to several and to all: outcomes, time limits and cancellation."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from helpers.clock import run_virtual
from helpers.routes import routes_to
from helpers.wire import A, B, C, D, E, Wire, manager_with
from seigr_toolset_transmissions.endpoints import EndpointManager, SendOutcome
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTIdentityError,
    STTSessionClosedError,
    STTTimeoutError,
    STTWindowFullError,
)

# -- sending to one --------------------------------------------------------------------------


async def test_the_callback_gets_the_id_and_the_data() -> None:
    wire = Wire()
    manager = manager_with([A], wire.send)
    await manager.send_to_endpoint(endpoint_id=A, data=b"Hello peer")
    assert wire.sent == [(A, b"Hello peer")]


async def test_the_callback_is_called_with_positional_arguments() -> None:
    sent: list[tuple[bytes, bytes]] = []

    async def callback(peer: bytes, payload: bytes, /) -> None:
        sent.append((peer, payload))

    manager = manager_with([A], callback)
    await manager.send_to_endpoint(A, b"1")
    await manager.broadcast(b"2")
    assert sent == [(A, b"1"), (A, b"2")]


async def test_a_buffer_is_copied_and_may_be_reused() -> None:
    wire = Wire()
    manager = manager_with([A], wire.send)
    buffer = bytearray(b"one")
    await manager.send_to_endpoint(A, buffer)
    await manager.deliver(A, memoryview(buffer))
    buffer[:] = b"two"
    await manager.broadcast(memoryview(buffer)[::-1])
    assert wire.sent == [(A, b"one"), (A, b"owt")]
    assert all(type(data) is bytes for _, data in wire.sent)
    assert await manager.receive_any() == (b"one", A)


async def test_without_a_way_to_send_no_success_is_claimed() -> None:
    manager = manager_with([A])
    with pytest.raises(STTEndpointError, match="no way to send"):
        await manager.send_to_endpoint(A, b"x")
    assert await manager.broadcast(b"x") == {A: SendOutcome.UNREACHABLE}
    info = manager.get_endpoint(A)
    assert info is not None
    assert info["bytes_sent"] == 0


async def test_an_exception_of_the_callback_reaches_the_sender_of_one() -> None:
    failure = ConnectionResetError("gone")

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        raise failure

    manager = manager_with([A], callback)
    with pytest.raises(ConnectionResetError) as caught:
        await manager.send_to_endpoint(A, b"x")
    assert caught.value is failure
    info = manager.get_endpoint(A)
    assert info is not None
    assert (info["bytes_sent"], info["last_activity"]) == (0, None)


async def test_the_fast_path_is_tried_first_and_the_callback_only_if_it_declines() -> None:
    wire = Wire()
    fast: list[bytes] = []

    def accept(endpoint_id: bytes, data: bytes) -> bool:
        fast.append(endpoint_id)
        return endpoint_id == A

    manager = manager_with([A, B], wire.send)
    Side(manager, routes=routes_to([A, B], accept))
    await manager.send_to_endpoint(A, b"x")
    await manager.send_to_endpoint(B, b"x")
    assert (fast, wire.sent) == ([A, B], [(B, b"x")])
    outcomes = await manager.broadcast(b"y")
    assert outcomes == {A: SendOutcome.ACCEPTED, B: SendOutcome.ACCEPTED}
    assert wire.sent == [(B, b"x"), (B, b"y")]


async def test_a_broadcast_that_is_accepted_at_once_makes_no_task() -> None:
    manager = manager_with([A, B], Wire().send)
    Side(manager, routes=routes_to([A, B], lambda *_: True))
    before = asyncio.all_tasks()
    sending = manager.broadcast(b"x")
    # It must run to its end without ever giving way to the loop.
    with pytest.raises(StopIteration) as done:
        sending.send(None)
    assert done.value.value == {A: SendOutcome.ACCEPTED, B: SendOutcome.ACCEPTED}
    assert asyncio.all_tasks() == before


async def test_a_callback_may_add_and_remove_endpoints() -> None:
    async def callback(endpoint_id: bytes, data: bytes) -> None:
        await manager.add_endpoint(endpoint_id + b"'", None)
        await manager.remove_endpoint(endpoint_id)

    manager = manager_with([A, B], callback)
    await manager.send_to_endpoint(A, b"x")
    assert manager.list_endpoints() == [B, A + b"'"]
    outcomes = await manager.broadcast(b"x")
    assert list(outcomes) == [B, A + b"'"]
    assert all(outcomes.values())
    assert manager.list_endpoints() == [B + b"'", A + b"''"]


# -- sending to many -------------------------------------------------------------------------


async def test_sends_to_many_run_concurrently() -> None:
    entered: list[bytes] = []
    all_entered = asyncio.Event()

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        entered.append(endpoint_id)
        if len(entered) == 5:
            all_entered.set()
        await all_entered.wait()  # none leaves before all have entered

    manager = manager_with([A, B, C, D, E], callback)
    outcomes = await manager.broadcast(b"x")
    assert outcomes == dict.fromkeys([A, B, C, D, E], SendOutcome.ACCEPTED)


def test_five_sends_of_a_fifth_of_a_second_take_a_fifth_of_a_second() -> None:
    async def callback(endpoint_id: bytes, data: bytes) -> None:
        await asyncio.sleep(0.2)

    async def main() -> None:
        manager = manager_with([A, B, C, D, E], callback)
        loop = asyncio.get_running_loop()
        await manager.send_to_many([A, B, C, D, E], b"x")
        assert loop.time() == pytest.approx(0.2)
        await manager.broadcast(b"x")
        assert loop.time() == pytest.approx(0.4)

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (STTConnectError("x"), SendOutcome.UNREACHABLE),
        (STTIdentityError("x"), SendOutcome.UNREACHABLE),
        (STTSessionClosedError("x"), SendOutcome.UNREACHABLE),
        (STTEndpointError("x"), SendOutcome.UNREACHABLE),
        (STTWindowFullError("x"), SendOutcome.FULL),
        (STTTimeoutError("x"), SendOutcome.FULL),
        (TimeoutError("x"), SendOutcome.FULL),
        (ConnectionResetError("x"), SendOutcome.FAILED),
        (asyncio.CancelledError("x"), SendOutcome.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.name,
)
@pytest.mark.parametrize("late", [False, True])
async def test_each_failure_has_its_outcome_and_harms_no_other(
    error: BaseException, outcome: SendOutcome, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[bytes] = []

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        if late:
            await asyncio.sleep(0)
        if endpoint_id == B:
            raise error
        for _ in range(5):
            await asyncio.sleep(0)
        sent.append(endpoint_id)

    manager = manager_with([A, B, C], callback)
    outcomes = await manager.send_to_many([C, B, D, A], b"x")
    assert outcomes == {
        C: SendOutcome.ACCEPTED,
        B: outcome,
        D: SendOutcome.UNKNOWN,
        A: SendOutcome.ACCEPTED,
    }
    assert list(outcomes) == [C, B, D, A]
    assert sent == [C, A]
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[1] for record in logged if record.exc_info] == (
        [error] if outcome is SendOutcome.FAILED else []
    )


async def test_a_failure_on_the_fast_path_is_an_outcome_too() -> None:
    def accept(endpoint_id: bytes, data: bytes) -> bool:
        if endpoint_id == A:
            raise STTWindowFullError("x")
        return True

    manager = manager_with([A, B], Wire().send)
    Side(manager, routes=routes_to([A, B], accept))
    assert await manager.broadcast(b"x") == {A: SendOutcome.FULL, B: SendOutcome.ACCEPTED}
    with pytest.raises(STTWindowFullError):
        await manager.send_to_endpoint(A, b"x")


def test_only_an_accepted_outcome_is_true() -> None:
    assert [outcome for outcome in SendOutcome if outcome] == [SendOutcome.ACCEPTED]


async def test_a_recipient_given_twice_is_sent_to_once() -> None:
    wire = Wire()
    manager = manager_with([A, B], wire.send)
    assert list(await manager.send_to_many(iter([A, B, A]), b"x")) == [A, B]
    assert wire.sent == [(A, b"x"), (B, b"x")]


async def test_without_recipients_there_are_no_outcomes() -> None:
    manager = EndpointManager(Wire().send)
    assert await manager.broadcast(b"x") == {}
    assert await manager.send_to_many([], b"x") == {}


async def test_a_broadcast_can_be_narrowed_by_metadata() -> None:
    wire = Wire()
    manager = EndpointManager(wire.send)
    await manager.add_endpoint(A, None, {"region": "us", "load": 3})
    await manager.add_endpoint(B, None, {"region": "eu", "load": 1})
    await manager.add_endpoint(C, None)
    assert list(await manager.broadcast(b"x", where={"region": "eu"})) == [B]
    assert list(await manager.broadcast(b"x", where=lambda m: m["load"] > 2)) == [A]
    assert list(await manager.broadcast(b"x", where={})) == [A, B, C]
    assert [endpoint_id for endpoint_id, _ in wire.sent] == [B, A, A, B, C]


async def test_a_recipient_that_takes_too_long_is_given_up_as_full() -> None:
    ended: list[bytes] = []

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        if endpoint_id == A:
            return
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(endpoint_id)

    manager = manager_with([A, B, C], callback)
    outcomes = await manager.broadcast(b"x", timeout=0.01)
    assert outcomes == {A: SendOutcome.ACCEPTED, B: SendOutcome.FULL, C: SendOutcome.FULL}
    assert ended == [B, C]


@pytest.mark.parametrize("given", [False, True], ids=["of the manager", "of the call"])
def test_the_calls_timeout_takes_precedence_over_the_managers(given: bool) -> None:
    async def callback(endpoint_id: bytes, data: bytes) -> None:
        await asyncio.sleep(0 if endpoint_id == A else 100)

    async def main() -> None:
        manager = manager_with([A, B], callback, send_timeout=50 if given else 7)
        timeout: dict[str, Any] = {"timeout": 7} if given else {}
        loop = asyncio.get_running_loop()
        for sending in (
            manager.broadcast(b"x", **timeout),
            manager.send_to_many([A, B], b"x", **timeout),
        ):
            started = loop.time()
            assert await sending == {A: SendOutcome.ACCEPTED, B: SendOutcome.FULL}
            assert loop.time() - started == pytest.approx(7)
        assert all((await manager.broadcast(b"x", timeout=None)).values())  # no limit
        unlimited = manager_with([A, B], callback, send_timeout=None)
        assert all((await unlimited.broadcast(b"x")).values())

    run_virtual(main())


async def test_a_broadcast_leaves_out_the_excluded() -> None:
    wire = Wire()
    manager = manager_with([A, B, C], wire.send)
    manager.update_endpoint(C, metadata={"room": "lobby"})
    assert list(await manager.broadcast(b"1", exclude={B, D})) == [A, C]
    assert list(await manager.broadcast(b"2", where={"room": "lobby"}, exclude=[C])) == []
    assert wire.sent == [(A, b"1"), (C, b"1")]
    with pytest.raises(TypeError, match="exclude must be an iterable of ids"):
        await manager.broadcast(b"3", exclude=A)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an endpoint id must be bytes"):
        await manager.broadcast(b"3", exclude=["a"])  # type: ignore[list-item]


async def test_a_broadcast_to_what_is_no_condition_names_what_is_one() -> None:
    manager = manager_with([A], Wire().send)
    with pytest.raises(TypeError, match=r'mapping of metadata, such as \{"room": "lobby"\}'):
        await manager.broadcast(b"1", where="room")  # type: ignore[arg-type]


async def test_a_cancelled_broadcast_cancels_and_awaits_every_send() -> None:
    entered: asyncio.Queue[bytes] = asyncio.Queue()
    ended: list[bytes] = []

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        entered.put_nowait(endpoint_id)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)  # cleaning up takes a while
            ended.append(endpoint_id)

    manager = manager_with([A, B], callback)
    before = asyncio.all_tasks()
    task = asyncio.create_task(manager.broadcast(b"x"))
    assert [await entered.get(), await entered.get()] == [A, B]
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # impatience changes nothing
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [A, B]
    assert asyncio.all_tasks() == before


async def test_a_cancel_while_late_sends_clean_up_is_not_swallowed() -> None:
    cleaning = asyncio.Event()
    cleaned: list[bytes] = []

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.append(endpoint_id)

    manager = manager_with([A, B], callback)
    task = asyncio.create_task(manager.broadcast(b"x", timeout=0.001))
    await cleaning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [A, B]


async def test_a_send_cancelled_by_something_else_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def callback(endpoint_id: bytes, data: bytes) -> None:
        if endpoint_id == A:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)

    manager = manager_with([A, B], callback)
    assert await manager.broadcast(b"x") == {A: SendOutcome.FAILED, B: SendOutcome.ACCEPTED}
    assert f"sending to {A.hex()[:16]} was cancelled by other code" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_and_leaves_no_send_behind(
    error: type[BaseException], no_log: None
) -> None:
    ended: list[bytes] = []

    async def callback(endpoint_id: bytes, data: bytes) -> None:
        if endpoint_id == B:
            await asyncio.sleep(0)
            raise error
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(endpoint_id)

    manager = manager_with([A, B, C], callback)
    with pytest.raises(error):
        asyncio.run(manager.broadcast(b"x"))
    assert sorted(ended) == [A, C]
    gc.collect()  # when asyncio reports an exception that nothing has retrieved
