"""Receiving: each message once, in order, by the right receiver, whatever is cancelled when."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.lines import counting_lines
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTEndpointError, STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

X, Y, Z = b"x", b"y", b"z"


def manager_with(*ids: bytes, **options: Any) -> EndpointManager:
    manager = EndpointManager(**options)
    for endpoint_id in ids:
        Side(manager).add_endpoint_nowait(endpoint_id, None)
    return manager


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run the coroutine in a task until it waits."""
    task = asyncio.create_task(coroutine)
    await turns(2)
    return task


async def drain(manager: EndpointManager) -> list[tuple[bytes, bytes]]:
    """Receive whatever is there."""
    received = []
    while True:
        try:
            received.append(await manager.receive_any(timeout=0))
        except STTTimeoutError:
            return received


async def nothing_for(receiving: Awaitable[object]) -> bool:
    with pytest.raises(STTTimeoutError):
        await receiving
    return True


# -- the rule --------------------------------------------------------------------------------


async def test_a_message_taken_from_one_view_is_gone_from_the_other() -> None:
    manager = manager_with(X)
    await manager.deliver(X, b"1")
    assert await manager.receive_from(X) == (b"1", X)
    waiting = await start(manager.receive_any())
    assert not waiting.done()
    await manager.deliver(X, b"2")
    assert await waiting == (b"2", X)
    assert await nothing_for(manager.receive_from(X, timeout=0))


async def test_a_receiver_of_the_endpoint_goes_before_an_older_receiver_of_any() -> None:
    manager = manager_with(X, Y)
    anyone = await start(manager.receive_any())
    second_anyone = await start(manager.receive_any())
    of_x = await start(manager.receive_from(X))
    await manager.deliver(X, b"1")
    await manager.deliver(X, b"2")
    await manager.deliver(X, b"3")
    assert await of_x == (b"1", X)
    assert await anyone == (b"2", X)
    assert await second_anyone == (b"3", X)


async def test_receivers_of_a_kind_are_served_oldest_first() -> None:
    manager = manager_with(X)
    receivers = [await start(manager.receive_from(X)) for _ in range(5)]
    Side(manager).offer(X, [b"%d" % number for number in range(5)])
    assert [await receiver for receiver in receivers] == [(b"%d" % n, X) for n in range(5)]


async def test_receive_any_goes_by_arrival_over_all_endpoints() -> None:
    manager = manager_with(X, Y, Z)
    order = [X, Z, Z, Y, X, Y, Z, X]
    for number, endpoint_id in enumerate(order):
        await manager.deliver(endpoint_id, b"%d" % number)
    assert await manager.receive_from(Z) == (b"1", Z)
    assert await manager.receive_from(Y) == (b"3", Y)
    assert await drain(manager) == [
        (b"%d" % number, endpoint_id)
        for number, endpoint_id in enumerate(order)
        if number not in (1, 3)
    ]


async def test_a_newcomer_does_not_overtake_a_receiver_that_has_yet_to_run() -> None:
    manager = manager_with(X)
    anyone = await start(manager.receive_any())
    assert Side(manager).offer(X, [b"1", b"2"]) == 2
    # The receiver has not run yet.
    assert await manager.receive_from(X, timeout=0) == (b"2", X)
    assert anyone.done()
    assert await anyone == (b"1", X)
    assert await nothing_for(manager.receive_any(timeout=0))


async def test_a_newcomer_gets_nothing_that_is_promised_to_others() -> None:
    manager = manager_with(X, Y)
    of_x, anyone = await start(manager.receive_from(X)), await start(manager.receive_any())
    await manager.deliver(X, b"1")
    await manager.deliver(Y, b"2")
    assert await nothing_for(manager.receive_any(timeout=0))
    assert await nothing_for(manager.receive_from(X, timeout=0))
    assert await nothing_for(manager.receive_from(Y, timeout=0))
    assert (await of_x, await anyone) == ((b"1", X), (b"2", Y))


async def test_a_newcomer_to_any_gets_the_oldest_message_that_is_not_promised() -> None:
    manager = manager_with(X, Y)
    of_x, of_y = await start(manager.receive_from(X)), await start(manager.receive_from(Y))
    for endpoint_id, data in ((X, b"1"), (Y, b"2"), (Y, b"3"), (X, b"4")):
        await manager.deliver(endpoint_id, data)
    assert await drain(manager) == [(b"3", Y), (b"4", X)]
    assert (await of_x, await of_y) == ((b"1", X), (b"2", Y))


async def test_order_holds_when_a_newcomer_is_behind_a_receiver_that_is_cancelled() -> None:
    manager = manager_with(X)
    first = await start(manager.receive_from(X))
    Side(manager).offer(X, [b"1", b"2"])
    first.cancel()
    assert await manager.receive_from(X, timeout=0) == (b"1", X)
    assert first.cancelled()
    assert await drain(manager) == [(b"2", X)]


async def test_arrival_order_holds_after_a_promised_receiver_was_cancelled() -> None:
    manager = manager_with(X, Y)
    anyone = await start(manager.receive_any())
    await manager.deliver(Y, b"Y1")
    await manager.deliver(X, b"X1")
    anyone.cancel()
    await asyncio.wait([anyone])
    assert anyone.cancelled()
    assert await drain(manager) == [(b"Y1", Y), (b"X1", X)]


async def test_the_next_receiver_moves_up_when_a_promised_one_is_cancelled() -> None:
    manager = manager_with(X, Y)
    first, second = await start(manager.receive_any()), await start(manager.receive_any())
    await manager.deliver(Y, b"Y1")
    await manager.deliver(X, b"X1")
    first.cancel()
    assert await second == (b"Y1", Y)
    assert await drain(manager) == [(b"X1", X)]


async def test_a_freed_message_goes_to_whoever_waits_for_its_endpoint() -> None:
    manager = manager_with(X, Y)
    first, second = await start(manager.receive_from(X)), await start(manager.receive_from(X))
    anyone = await start(manager.receive_any())
    await manager.deliver(X, b"X1")
    await manager.deliver(Y, b"Y1")
    first.cancel()
    assert await second == (b"X1", X)
    assert await anyone == (b"Y1", Y)


async def test_a_message_passes_over_a_receiver_that_is_cancelled_but_has_not_run() -> None:
    manager = manager_with(X)
    of_x, anyone = await start(manager.receive_from(X)), await start(manager.receive_any())
    of_x.cancel()
    anyone.cancel()
    await manager.deliver(X, b"1")
    assert await manager.receive_any(timeout=0) == (b"1", X)
    await asyncio.wait([of_x, anyone])
    assert await nothing_for(manager.receive_any(timeout=0))


async def test_on_wait_is_called_when_a_receive_waits() -> None:
    calls: list[None] = []
    manager = manager_with(X)
    Side(manager, on_wait=lambda: calls.append(None))
    await manager.deliver(X, b"1")
    await manager.receive_any()
    assert await nothing_for(manager.receive_any(timeout=0))
    assert calls == []
    waiting = await start(manager.receive_from(X))
    assert len(calls) == 1
    await manager.deliver(X, b"2")
    assert await waiting == (b"2", X)
    assert len(calls) == 1


async def test_a_cancelled_receiver_that_has_not_run_does_not_keep_others_from_moving_up() -> None:
    manager = manager_with(X, Y)
    first, second = await start(manager.receive_from(X)), await start(manager.receive_from(X))
    anyone = await start(manager.receive_any())
    await manager.deliver(X, b"X1")
    await manager.deliver(Y, b"Y1")
    first.cancel()
    second.cancel()
    assert await anyone == (b"X1", X)
    assert await drain(manager) == [(b"Y1", Y)]


# -- timeouts and cancellation --------------------------------------------------------------


async def test_a_receive_times_out_and_loses_nothing() -> None:
    manager = manager_with(X)
    with pytest.raises(STTTimeoutError, match=r"no message from endpoint 78 within 0\.01 s"):
        await manager.receive_from(X, timeout=0.01)
    with pytest.raises(TimeoutError, match=r"no message from any endpoint within 0\.01 s"):
        await manager.receive_any(timeout=0.01)
    await manager.deliver(X, b"1")
    assert await manager.receive_any(timeout=0.01) == (b"1", X)


async def test_a_message_in_time_ends_the_wait_and_its_timer() -> None:
    manager = manager_with(X)
    receiving = await start(manager.receive_from(X, timeout=30))
    await manager.deliver(X, b"1")
    assert await receiving == (b"1", X)


@pytest.mark.parametrize("how", ["plain", "wait_for", "timeout"])
@pytest.mark.parametrize("of", ["any", "one"])
@pytest.mark.parametrize("deliver_at", range(5))
@pytest.mark.parametrize("cancel_at", range(7))
async def test_a_receive_cancelled_at_any_moment_loses_nothing(
    how: str, of: str, deliver_at: int, cancel_at: int
) -> None:
    manager = manager_with(X)
    got: list[tuple[bytes, bytes]] = []

    async def receive() -> None:
        receiving = manager.receive_any() if of == "any" else manager.receive_from(X)
        if how == "wait_for":
            got.append(await asyncio.wait_for(receiving, 30))
        elif how == "timeout":
            async with asyncio.timeout(30):
                got.append(await receiving)
        else:
            got.append(await receiving)

    task = asyncio.create_task(receive())
    for turn in range(8):
        if turn == deliver_at:
            await manager.deliver(X, b"1")
        if turn == cancel_at:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert got + await drain(manager) == [(b"1", X)]


class Comparable:
    """Compares with numbers, as a decimal does, but is not a number of seconds."""

    def __le__(self, other: object) -> bool:
        return False


@pytest.mark.parametrize("wrong", [Comparable(), "5"], ids=["comparable", "text"])
@pytest.mark.parametrize("others", [0, 1], ids=["first in line", "behind another"])
async def test_an_invalid_timeout_loses_nothing(wrong: Any, others: int) -> None:
    manager = manager_with(X)
    receivers = [await start(manager.receive_any()) for _ in range(others)]
    sent = [b"%d" % number for number in range(others + 1)]
    if others:
        Side(manager).offer(X, sent)  # the newcomer is promised the second
    with pytest.raises(TypeError):
        await manager.receive_any(timeout=wrong)
    if not others:
        Side(manager).offer(X, sent)
    got = [await receiver for receiver in receivers] + await drain(manager)
    assert [data for data, _ in got] == sent


async def test_wait_for_as_the_specification_uses_it_loses_nothing() -> None:
    manager = manager_with(X)
    sent = [b"%d" % number for number in range(300)]
    got: list[bytes] = []

    async def deliver() -> None:
        for data in sent:
            await manager.deliver(X, data)
            await asyncio.sleep(0.0005)

    delivering = asyncio.create_task(deliver())
    while len(got) < len(sent):
        try:
            data, _ = await asyncio.wait_for(manager.receive_from(X), timeout=0.0005)
        except asyncio.TimeoutError:  # noqa: UP041  as the specification writes it
            continue
        got.append(data)
    await delivering
    assert got == sent


# -- removal and retirement ------------------------------------------------------------------


async def test_removal_wakes_receivers_and_drops_the_backlog_from_both_views() -> None:
    manager = manager_with(X, Y)
    waiting = await start(manager.receive_from(X))
    await manager.remove_endpoint(X)
    with pytest.raises(STTTimeoutError, match="was removed while a receive waited"):
        await waiting
    with pytest.raises(STTEndpointError, match="is unknown") as unknown:
        await manager.receive_from(X)
    assert not isinstance(unknown.value, TimeoutError)  # so that a loop of receives comes to an end
    await manager.add_endpoint(X, None)
    Side(manager).offer(X, [b"1", b"2"])
    await manager.deliver(Y, b"3")
    await manager.remove_endpoint(X)
    await manager.add_endpoint(X, None)
    assert await nothing_for(manager.receive_from(X, timeout=0))
    await manager.deliver(X, b"4")
    assert await drain(manager) == [(b"3", Y), (b"4", X)]


async def test_removal_takes_a_promised_message_away() -> None:
    manager = manager_with(X, Y, Z)
    of_x = await start(manager.receive_from(X))
    elder, younger = await start(manager.receive_any()), await start(manager.receive_any())
    Side(manager).offer(X, [b"X1", b"X2", b"X3"])
    await manager.deliver(Y, b"Y1")
    await manager.remove_endpoint(X)
    with pytest.raises(STTEndpointError):
        await of_x
    assert await elder == (b"Y1", Y)
    await turns()
    assert not younger.done()
    # It waits on at its old rank.
    youngest = await start(manager.receive_any())
    Side(manager).offer(Z, [b"Z1", b"Z2"])
    assert await younger == (b"Z1", Z)
    assert await youngest == (b"Z2", Z)


async def test_receivers_whose_promises_were_withdrawn_in_turn_are_served_by_age() -> None:
    manager = manager_with(X, Y, Z)
    elder, younger = await start(manager.receive_any()), await start(manager.receive_any())
    await manager.deliver(X, b"X1")
    await manager.deliver(Y, b"Y1")
    await manager.remove_endpoint(X)  # neither has run yet
    await manager.remove_endpoint(Y)
    Side(manager).offer(Z, [b"Z1", b"Z2"])
    assert await elder == (b"Z1", Z)
    assert await younger == (b"Z2", Z)


async def test_a_receiver_whose_promise_was_withdrawn_still_times_out() -> None:
    manager = manager_with(X)
    waiting = await start(manager.receive_any(timeout=0.01))
    await manager.deliver(X, b"1")
    await manager.remove_endpoint(X)
    assert await nothing_for(waiting)


def test_a_promise_withdrawn_after_the_time_ran_out_ends_the_wait() -> None:
    async def main() -> None:
        manager = manager_with(X, Y)
        loop = asyncio.get_running_loop()
        waiting = await start(manager.receive_any(timeout=1))

        def remove() -> None:
            with pytest.raises(StopIteration):
                manager.remove_endpoint(X).send(None)

        # In one turn, in this order: a promise, the end of the time given, and the removal.
        loop.call_at(1 - 1e-10, Side(manager).offer, X, [b"1"])
        loop.call_at(1 + 1e-10, remove)
        assert await nothing_for(waiting)
        assert X not in manager
        await manager.deliver(Y, b"2")
        assert await manager.receive_any(timeout=0) == (b"2", Y)

    run_virtual(main())


async def test_removal_fails_a_waiting_delivery() -> None:
    manager = manager_with(X, inbox_messages=1)
    await manager.deliver(X, b"1")
    waiting = [
        await start(manager.deliver(X, b"2")),
        await start(Side(manager).wait_for_room(X)),
    ]
    await manager.remove_endpoint(X)
    for task in waiting:
        with pytest.raises(STTEndpointError, match="takes no more messages"):
            await task
    assert await drain(manager) == []


@pytest.mark.parametrize("how", ["deliver", "wait_for_room"])
async def test_a_delivery_cancelled_as_its_endpoint_is_removed_is_cancelled(how: str) -> None:
    manager = manager_with(X, inbox_messages=1)
    await manager.deliver(X, b"1")
    waiting: asyncio.Task[None] = await start(
        manager.deliver(X, b"2") if how == "deliver" else Side(manager).wait_for_room(X)
    )
    await manager.remove_endpoint(X)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_retired_endpoint_goes_when_its_backlog_is_received() -> None:
    manager = manager_with(X, inbox_messages=2)
    Side(manager).offer(X, [b"1", b"2"])
    delivering = await start(manager.deliver(X, b"3"))
    Side(manager).retire_endpoint(X)
    with pytest.raises(STTEndpointError, match="takes no more messages"):
        await delivering
    info = manager.get_endpoint(X)
    assert info is not None
    assert info["state"] == "retiring"
    for attempt in (manager.deliver(X, b"3"), Side(manager).wait_for_room(X)):
        with pytest.raises(STTEndpointError, match="is retiring and takes no more"):
            await attempt
    with pytest.raises(STTEndpointError, match="is retiring and takes no more"):
        Side(manager).offer(X, [b"3"])
    assert await manager.receive_from(X) == (b"1", X)
    assert X in manager
    assert await manager.receive_any() == (b"2", X)
    assert X not in manager


async def test_retiring_an_endpoint_without_backlog_removes_it_and_wakes_its_receivers() -> None:
    manager = manager_with(X, Y)
    waiting = await start(manager.receive_from(X))
    assert Side(manager).offer(X, []) == 0
    Side(manager).retire_endpoint(X)
    assert manager.list_endpoints() == [Y]
    with pytest.raises(STTEndpointError, match="was removed"):
        await waiting


async def test_the_last_message_of_a_retiring_endpoint_ends_the_wait_of_the_next() -> None:
    manager = manager_with(X)
    first, second = await start(manager.receive_from(X)), await start(manager.receive_from(X))
    await manager.deliver(X, b"1")
    Side(manager).retire_endpoint(X)
    assert await first == (b"1", X)
    with pytest.raises(STTEndpointError, match="was removed"):
        await second


async def test_receivers_of_a_retiring_endpoint_get_the_reason_if_there_is_one() -> None:
    manager = manager_with(X)
    first, second = await start(manager.receive_from(X)), await start(manager.receive_from(X))
    await manager.deliver(X, b"1")
    Side(manager).retire_endpoint(X, "the peer is asleep")
    assert await first == (b"1", X)
    with pytest.raises(STTEndpointError, match="the peer is asleep") as ended:
        await second
    assert not isinstance(ended.value, TimeoutError)


async def test_adding_a_retiring_endpoint_revives_it_with_its_backlog() -> None:
    manager = manager_with(X, Y)
    await manager.deliver(X, b"1")
    Side(manager).retire_endpoint(X)
    await manager.add_endpoint(X, "new", {"n": 2})
    info = manager.get_endpoint(X)
    assert info is not None
    assert (info["address"], info["metadata"], info["state"]) == ("new", {"n": 2}, "known")
    assert manager.list_endpoints() == [Y, X]
    await manager.deliver(X, b"2")
    assert await drain(manager) == [(b"1", X), (b"2", X)]
    assert X in manager


# -- when nothing more will come --------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30])
async def test_closing_ends_every_wait_and_says_why(timeout: float | None) -> None:
    manager = manager_with(X, Y)
    waiting = [
        await start(manager.receive_any(timeout=timeout)),
        await start(manager.receive_from(X, timeout=timeout)),
    ]
    Side(manager).close_inboxes("the transport has ended")
    waiting.append(await start(manager.receive_any(timeout=timeout)))
    waiting.append(await start(manager.receive_from(Y, timeout=timeout)))
    for receiving in waiting:
        with pytest.raises(STTEndpointError, match="the transport has ended") as ended:
            await receiving
        assert not isinstance(ended.value, TimeoutError)


async def test_waiting_messages_can_be_received_after_closing() -> None:
    manager = manager_with(X, Y)
    first, second = await start(manager.receive_any()), await start(manager.receive_from(Y))
    Side(manager).offer(X, [b"1", b"2"])
    Side(manager).close_inboxes("over")
    await manager.deliver(Y, b"3")
    assert await first == (b"1", X)
    with pytest.raises(STTEndpointError, match="over"):
        await second
    assert await drain(manager) == [(b"2", X), (b"3", Y)]
    with pytest.raises(STTEndpointError, match="over"):
        await manager.receive_any()


async def test_a_receiver_whose_promise_is_withdrawn_after_closing_does_not_wait() -> None:
    manager = manager_with(X)
    waiting = await start(manager.receive_any())
    await manager.deliver(X, b"1")
    Side(manager).close_inboxes("over")
    await manager.remove_endpoint(X)
    with pytest.raises(STTEndpointError, match="over"):
        await waiting


async def test_after_reopening_receivers_wait_again() -> None:
    manager = manager_with(X)
    Side(manager).close_inboxes("over")
    Side(manager).open_inboxes()
    waiting = await start(manager.receive_any())
    assert not waiting.done()
    await manager.deliver(X, b"1")
    assert await waiting == (b"1", X)


# -- the loop is closed and another one takes over ---------------------------------------------


def left_behind(
    *coroutines: Coroutine[Any, Any, Any], before: Callable[[], object] = lambda: None
) -> list[Any]:
    """Start the coroutines in a loop, call ``before``, and close the loop.

    Returns the tasks, which must not be collected before the test has ended.
    """
    loop = asyncio.new_event_loop()

    async def begin() -> list[asyncio.Task[Any]]:
        return [await start(coroutine) for coroutine in coroutines]

    tasks = loop.run_until_complete(begin())
    before()
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    return tasks


@pytest.mark.parametrize("of", ["any", "one"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "with others that wait now"])
def test_receivers_of_a_closed_loop_are_passed_over(of: str, again: bool) -> None:
    manager = manager_with(X)

    def receiving() -> Coroutine[Any, Any, tuple[bytes, bytes]]:
        return manager.receive_any() if of == "any" else manager.receive_from(X)

    left = left_behind(receiving(), receiving())

    async def main() -> None:
        waiting = [await start(receiving())] if again else []
        await manager.deliver(X, b"1")
        assert Side(manager).offer(X, [b"2", b"3"]) == 2
        got = [await task for task in waiting] + [await receiving() for _ in range(3 - again)]
        assert got == [(b"1", X), (b"2", X), (b"3", X)]
        assert await nothing_for(manager.receive_any(timeout=0.01))
        assert await nothing_for(manager.receive_from(X, timeout=0.01))

    asyncio.run(main())
    assert len(left) == 2


@pytest.mark.parametrize("first", ["any", "one"])
@pytest.mark.parametrize("second", ["any", "one"])
def test_a_message_promised_in_a_closed_loop_goes_to_the_next_receiver(
    first: str, second: str
) -> None:
    manager = manager_with(X, Y)
    left = left_behind(
        *(
            manager.receive_any() if of == "any" else manager.receive_from(X)
            for of in (first, second)
        ),
        before=lambda: Side(manager).offer(X, [b"1", b"2", b"3"]),
    )

    async def main() -> None:
        assert await manager.receive_any(timeout=1) == (b"1", X)
        assert await manager.receive_from(X, timeout=1) == (b"2", X)
        assert await drain(manager) == [(b"3", X)]
        assert await nothing_for(manager.receive_any(timeout=0.01))
        assert (manager._inboxes._promised, manager._inboxes._promised_to_any) == (0, 0)

    asyncio.run(main())
    assert len(left) == 2


def test_removal_retirement_and_closing_pass_over_a_closed_loop() -> None:
    manager = manager_with(X, Y, Z, inbox_messages=1)
    for endpoint_id in (X, Y):
        Side(manager).offer(endpoint_id, [b"1"])
    left = left_behind(manager.receive_from(Z), manager.deliver(X, b"2"), manager.deliver(Y, b"2"))

    async def main() -> None:
        Side(manager).retire_endpoint(X)
        await manager.remove_endpoint(Y)
        Side(manager).close_inboxes("over")
        assert await drain(manager) == [(b"1", X)]
        assert manager.list_endpoints() == [Z]

    asyncio.run(main())
    assert len(left) == 3


# -- no cycles of references -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["remove", "close", "time", "cancel", "refuse"])
async def test_a_wait_that_fails_leaves_no_cycle_of_references(how: str) -> None:
    manager = manager_with(X, inbox_messages=1)

    async def fail() -> None:
        if how == "refuse":
            await manager.deliver(X, b"1")
            waiting: asyncio.Task[Any] = await start(manager.deliver(X, b"2"))
        else:
            waiting = await start(manager.receive_from(X, timeout=0.001 if how == "time" else None))
        if how == "close":
            Side(manager).close_inboxes("over")
        elif how == "cancel":
            waiting.cancel()
        elif how != "time":
            await manager.remove_endpoint(X)
        await asyncio.wait([waiting])
        assert waiting.cancelled() or waiting.exception() is not None

    gc.collect()
    gc.disable()
    try:
        await fail()
        await turns()
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- back-pressure ---------------------------------------------------------------------------


async def test_a_full_inbox_makes_deliveries_wait_in_order() -> None:
    manager = manager_with(X, Y, inbox_messages=2)
    assert Side(manager).offer(X, [b"1", b"2", b"3"]) == 2
    waiting = [await start(manager.deliver(X, data)) for data in (b"3", b"4")]
    await manager.deliver(Y, b"5")  # another endpoint is not concerned
    assert not any(task.done() for task in waiting)
    assert await manager.receive_from(X) == (b"1", X)
    assert Side(manager).offer(X, [b"9"]) == 0  # room, but others are before
    await turns()
    assert [task.done() for task in waiting] == [True, False]
    assert await manager.receive_any() == (b"2", X)
    await asyncio.wait(waiting)
    assert await drain(manager) == [(b"5", Y), (b"3", X), (b"4", X)]


@pytest.mark.parametrize("woken", [False, True])
async def test_a_cancelled_delivery_delivers_nothing_and_lets_the_next_proceed(
    woken: bool,
) -> None:
    manager = manager_with(X, inbox_messages=1)
    await manager.deliver(X, b"1")
    second, third = await start(manager.deliver(X, b"2")), await start(manager.deliver(X, b"3"))
    if woken:
        assert await manager.receive_any() == (b"1", X)
    second.cancel()
    await turns()
    assert second.cancelled()
    if not woken:
        assert not third.done()
        assert await manager.receive_any() == (b"1", X)
    await third
    assert await drain(manager) == [(b"3", X)]


async def test_an_inbox_is_bounded_in_bytes_and_takes_a_large_message_when_empty() -> None:
    manager = manager_with(X, inbox_bytes=10)
    assert Side(manager).offer(X, [b"x" * 20, b"y"]) == 1
    small = await start(manager.deliver(X, b"z" * 6))
    assert not small.done()
    assert await manager.receive_any() == (b"x" * 20, X)
    await small
    assert Side(manager).offer(X, [b"a" * 4, b"b"]) == 1
    large = await start(manager.deliver(X, b"L" * 11))
    assert len((await manager.receive_any())[0]) == 6
    await turns()
    assert not large.done()  # it waits for the inbox to be empty
    behind = await start(manager.deliver(X, b"s"))
    assert not behind.done()  # there is room, but it is not its turn
    assert await manager.receive_any() == (b"aaaa", X)
    await large
    assert await manager.receive_any() == (b"L" * 11, X)
    await behind
    assert await drain(manager) == [(b"s", X)]


async def test_offer_accepts_what_fits_from_the_front() -> None:
    manager = manager_with(X, inbox_messages=4, inbox_bytes=10)
    assert Side(manager).offer(X, []) == 0
    assert Side(manager).offer(X, [b"1" * 3, b"2" * 3, b"3" * 5, b"4"]) == 2
    assert Side(manager).offer(X, [b"4", b"5", b"6"]) == 2  # the fourth message is the last
    assert [data for data, _ in await drain(manager)] == [b"111", b"222", b"4", b"5"]


async def test_offer_beyond_bounds_accepts_all_and_overtakes_waiting_deliveries() -> None:
    manager = manager_with(X, inbox_messages=2, inbox_bytes=10)
    assert Side(manager).offer(X, [b"1"]) == 1
    waiting = await start(manager.deliver(X, b"4" * 10))
    assert Side(manager).offer(X, [b"2" * 100, b"3"], beyond_bounds=True) == 2
    assert not waiting.done()
    assert [data[:1] for data, _ in await drain(manager)] == [b"1", b"2", b"3"]
    await waiting
    assert await drain(manager) == [(b"4" * 10, X)]


async def test_after_waiting_for_room_an_offer_is_accepted() -> None:
    manager = manager_with(X, inbox_bytes=10)
    await Side(manager).wait_for_room(X)
    assert Side(manager).offer(X, [b"1" * 8]) == 1
    await Side(manager).wait_for_room(X, 2)

    async def offer(data: bytes) -> list[int]:
        await Side(manager).wait_for_room(X, len(data))
        return [
            Side(manager).offer(X, [data]),
            Side(manager).offer(X, [b"9"]),
        ]

    offering = await start(offer(b"2" * 5))
    behind = await start(manager.deliver(X, b"3" * 5))
    assert not offering.done()
    await manager.receive_any()
    assert await offering == [1, 0]  # one offer goes before the waiting ones, and no more
    await behind
    assert await drain(manager) == [(b"2" * 5, X), (b"3" * 5, X)]


async def test_200_000_deliveries_into_a_small_inbox_push_back_and_lose_nothing() -> None:
    manager = manager_with(X, inbox_messages=100)
    sent = 0
    largest = 0

    async def deliver() -> None:
        nonlocal sent
        for number in range(200_000):
            await manager.deliver(X, b"%d" % number)
            sent += 1

    delivering = asyncio.create_task(deliver())
    for number in range(200_000):
        data, _ = await manager.receive_any()
        assert int(data) == number
        largest = max(largest, sent - number - 1)
    await delivering
    # A delivery may have resumed but not yet been counted when its message is received.
    assert largest <= 100
    assert await drain(manager) == []


async def test_receiving_from_one_only_leaves_no_trace_of_consumed_messages() -> None:
    manager = manager_with(X, Y)
    for number in range(1000):
        Side(manager).offer(X, [b"%d" % number, b"second"])
        await manager.receive_from(X)
        await manager.receive_from(X)
    assert len(manager._inboxes._arrivals) == 0
    await manager.deliver(Y, b"first")  # blocks the front of the order of arrival
    for number in range(100_000):
        await manager.deliver(X, b"%d" % number)
        await manager.receive_from(X)
    assert len(manager._inboxes._arrivals) < 1000
    for _ in range(10_000):
        Side(manager).offer(X, [b"dropped"])
        await manager.remove_endpoint(X)
        await manager.add_endpoint(X, None)
    assert len(manager._inboxes._arrivals) < 1000
    assert await drain(manager) == [(b"first", Y)]


@pytest.mark.parametrize("of", ["any", "one"])
def test_the_cost_of_a_receive_does_not_grow_with_the_backlog(of: str) -> None:
    async def consume(count: int) -> None:
        manager = manager_with(X, Y, Z)

        async def work(endpoint_id: bytes) -> None:
            for _ in range(count // 4):
                await (manager.receive_any() if of == "any" else manager.receive_from(endpoint_id))

        workers = [await start(work(endpoint_id)) for endpoint_id in (X, Y, X, Y)]
        # All wait; now everything comes at once, and some of it is taken out of turn.
        Side(manager).offer(X, [b"x"] * (count // 2))
        Side(manager).offer(Z, [b"z"] * 100)
        for _ in range(100):
            await manager.receive_from(Z)
        Side(manager).offer(Y, [b"y"] * (count // 2))
        await asyncio.gather(*workers)

    def lines(count: int) -> int:
        with counting_lines() as counted:
            asyncio.run(consume(count))
        return counted.lines

    few, many = (lines(count) / count for count in (400, 4000))
    assert 0 < many < 1.1 * few


# -- against a model -------------------------------------------------------------------------


@dataclass(eq=False)
class Ask:
    """A receive under way. It is stepped by hand: between any two steps anything may happen."""

    source: bytes | None
    coroutine: Coroutine[Any, None, tuple[bytes, bytes]]
    future: asyncio.Future[None] | None = None  # what it waits for; None: merely the next turn
    failed: bool = False

    def step(self) -> tuple[bytes, bytes] | None:
        try:
            self.future = self.coroutine.send(None)
        except StopIteration as done:
            result: tuple[bytes, bytes] = done.value
            return result
        return None

    def cancel(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            self.coroutine.throw(asyncio.CancelledError())


@dataclass(eq=False)
class Message:
    endpoint_id: bytes
    data: bytes
    holder: Ask | None = None


class Model:
    """The rule, written plainly: which receiver holds which message, in lists."""

    def __init__(self, *ids: bytes) -> None:
        self.ids = dict.fromkeys(ids, True)  # False: retiring
        self.closed = False
        self.messages: list[Message] = []  # in order of arrival
        self.asks: list[Ask] = []  # those without an answer yet, oldest first

    def check(self) -> None:
        """No receiver waits for a message that is there, or holds one that is not its oldest."""
        older: set[bytes] = set()  # endpoints of the free messages before this one
        for message in self.messages:
            if not message.holder:
                older.add(message.endpoint_id)
            elif message.holder.source is None:
                assert not older
            else:
                assert message.endpoint_id not in older
        for ask in self.waiting():
            assert not (older if ask.source is None else older & {ask.source})

    def held_by(self, ask: Ask) -> Message | None:
        return next((message for message in self.messages if message.holder is ask), None)

    def waiting(self) -> list[Ask]:
        return [ask for ask in self.asks if not ask.failed and not self.held_by(ask)]

    def heir(self, endpoint_id: bytes) -> Ask | None:
        for source in (endpoint_id, None):
            for ask in self.waiting():
                if ask.source == source:
                    return ask
        return None

    def arrive(self, endpoint_id: bytes, data: bytes) -> None:
        self.messages.append(Message(endpoint_id, data, self.heir(endpoint_id)))

    def ask(self, ask: Ask) -> tuple[bytes, bytes] | None:
        """Answer at once, unless others are before; with None it waits, maybe for what it holds."""
        before = any(
            message.holder and ask.source in (None, message.endpoint_id)
            for message in self.messages
        )
        for message in self.messages:
            if not message.holder and ask.source in (None, message.endpoint_id):
                if not before:
                    return self.take(message)
                message.holder = ask
                break
        ask.failed = self.closed and not self.held_by(ask)
        if not ask.failed:
            self.asks.append(ask)
        return None

    def batch(self, source: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        taken: list[tuple[bytes, bytes]] = []
        while len(taken) < most:
            mine = [m for m in self.messages if source in (None, m.endpoint_id)]
            if not mine or any(message.holder for message in mine):
                break
            taken.append(self.take(mine[0]))
        return taken

    def close(self) -> None:
        self.closed = True
        for ask in self.waiting():
            ask.failed = True

    def may_take(self, message: Message) -> bool:
        """Return whether its holder gets it when it runs, all older ones being settled."""
        older = self.messages[: self.messages.index(message)]
        assert message.holder
        any_source = message.holder.source is None
        return not any(
            other.holder and (any_source or other.endpoint_id == message.endpoint_id)
            for other in older
        )

    def take(self, message: Message) -> tuple[bytes, bytes]:
        self.messages.remove(message)
        left = any(other.endpoint_id == message.endpoint_id for other in self.messages)
        if not self.ids[message.endpoint_id] and not left:
            self.remove(message.endpoint_id)
        return message.data, message.endpoint_id

    def cancel(self, ask: Ask) -> None:
        hole = self.held_by(ask)
        self.asks.remove(ask)
        if hole is None:
            return
        hole.holder = None
        for message in self.messages[self.messages.index(hole) + 1 :]:
            other = message.holder
            awaited = any(ask.source == hole.endpoint_id for ask in self.waiting())
            if other and (
                other.source == hole.endpoint_id or (other.source is None and not awaited)
            ):
                hole.holder, message.holder = other, None
                hole = message
        hole.holder = self.heir(hole.endpoint_id)

    def remove(self, endpoint_id: bytes) -> None:
        del self.ids[endpoint_id]
        self.messages = [m for m in self.messages if m.endpoint_id != endpoint_id]
        for ask in self.asks:
            if ask.source == endpoint_id:
                ask.failed = True
        for message in self.messages:
            if not message.holder:
                message.holder = self.heir(message.endpoint_id)
        if self.closed:
            self.close()  # for those whose message is gone

    def retire(self, endpoint_id: bytes) -> None:
        self.ids[endpoint_id] = False
        if not any(message.endpoint_id == endpoint_id for message in self.messages):
            self.remove(endpoint_id)


ids = st.sampled_from([X, Y, Z])
any_of_them = st.integers(0, 11)
one_or_any = st.one_of(st.none(), ids)
receive = st.tuples(st.just("receive"), one_or_any, any_of_them)
batch = st.tuples(st.just("batch"), one_or_any, st.integers(1, 5))
asked = st.one_of(receive, batch)
deliver = st.tuples(st.just("deliver"), ids, st.integers(1, 2))
step = st.tuples(st.sampled_from(["resume", "cancel", "cancel"]), st.none(), any_of_them)
change = st.tuples(st.sampled_from(["remove", "retire", "add"]), ids, any_of_them)
end = st.tuples(st.sampled_from(["close", "reopen", "reopen"]), st.none(), any_of_them)
# Rounds of these orders make many a receiver promised something before any of them runs.
rounds = st.lists(
    st.tuples(
        st.lists(receive, max_size=6),
        st.lists(st.one_of(deliver, deliver, deliver, receive), max_size=8),
        st.lists(
            st.one_of(step, step, step, step, receive, batch, deliver, change, end), max_size=8
        ),
    ),
    max_size=4,
)
operations = rounds.map(lambda rounds: [op for parts in rounds for part in parts for op in part])


def check_against_model(script: list[tuple[str, bytes | None, int]]) -> None:
    manager, model = manager_with(X, Y, Z), Model(X, Y, Z)
    count = 0

    def finish(ask: Ask, cancel: bool) -> None:
        held = model.held_by(ask)
        if cancel:
            ask.cancel()
            model.cancel(ask)
        elif ask.failed:
            model.asks.remove(ask)
            with pytest.raises(STTEndpointError):
                ask.step()
        elif held and model.may_take(held):
            model.asks.remove(ask)
            expected = model.take(held)
            assert ask.step() == expected
        elif ask.future is None or ask.future.done():
            # Others are before; or it held a message of an endpoint that was removed since.
            assert ask.step() is None

    for operation, endpoint_id, number in script:
        if operation == "receive" and (endpoint_id is None or endpoint_id in model.ids):
            coroutine = manager.receive_from(endpoint_id) if endpoint_id else manager.receive_any()
            ask = Ask(endpoint_id, coroutine)
            expected = model.ask(ask)
            if ask.failed:
                with pytest.raises(STTEndpointError, match="over"):
                    ask.step()
            else:
                assert ask.step() == expected
        elif operation == "batch" and (endpoint_id is None or endpoint_id in model.ids):
            source = None if endpoint_id is None else manager._endpoints[endpoint_id]
            assert manager._inboxes.take_many(source, number) == model.batch(endpoint_id, number)
        elif operation in ("resume", "cancel") and model.asks:
            finish(model.asks[number % len(model.asks)], operation == "cancel")
        elif operation == "deliver" and endpoint_id and model.ids.get(endpoint_id):
            messages = [b"%d" % (count + index) for index in range(number)]
            count += number
            assert Side(manager).offer(endpoint_id, messages) == number
            for data in messages:
                model.arrive(endpoint_id, data)
        elif operation == "remove" and endpoint_id in model.ids:
            model.remove(endpoint_id)
            with pytest.raises(StopIteration):
                manager.remove_endpoint(endpoint_id).send(None)
        elif operation == "retire" and endpoint_id in model.ids:
            model.retire(endpoint_id)
            Side(manager).retire_endpoint(endpoint_id)
        elif operation == "add" and endpoint_id and not model.ids.get(endpoint_id):
            model.ids[endpoint_id] = True
            Side(manager).add_endpoint_nowait(endpoint_id, None)
        elif operation == "close":
            model.close()
            Side(manager).close_inboxes("it is over")
        elif operation == "reopen":
            model.closed = False
            Side(manager).open_inboxes()
        model.check()
        assert sorted(manager) == sorted(model.ids)
        assert Side(manager).held_bytes(64) == sum(
            64 + len(message.data) for message in model.messages
        )
        for ask in model.asks:
            if ask.failed or model.held_by(ask):
                assert ask.future is None or ask.future.done()  # it will run

    for ask in [message.holder for message in model.messages if message.holder]:
        finish(ask, cancel=False)
    while model.asks:
        finish(model.asks[0], cancel=True)
    while model.messages:
        ask = Ask(None, manager.receive_any())
        expected = model.ask(ask)
        assert ask.step() == expected
        assert expected is not None
    inboxes = manager._inboxes
    assert len(inboxes._arrivals) == inboxes._stale
    assert (inboxes._promised, inboxes._promised_to_any) == (0, 0)
    assert not inboxes._any_receivers


@given(operations)
@settings(max_examples=500, deadline=None)
def test_any_interleaving_of_steps_follows_the_rule(
    script: list[tuple[str, bytes | None, int]],
) -> None:
    async def main() -> None:
        check_against_model(script)

    asyncio.run(main())


# How to deliver; and how to receive, under `wait_for` or not, and what comes after it.
plans = st.tuples(
    st.lists(st.tuples(ids, st.sampled_from(["deliver", "offer"])), min_size=1, max_size=5),
    st.lists(st.tuples(st.one_of(ids, st.none()), st.booleans(), st.integers(0, 6)), max_size=30),
)


async def check_with_tasks(
    producers: list[tuple[bytes, str]], consumers: list[tuple[bytes | None, bool, int]]
) -> None:
    manager = manager_with(X, Y, Z, inbox_messages=3, inbox_bytes=12)
    got: list[tuple[bytes, bytes]] = []

    async def produce(endpoint_id: bytes, producer: int, how: str) -> None:
        waiting = [b"%d:%03d" % (producer, number) for number in range(10)]
        while how == "deliver" and waiting:
            await manager.deliver(endpoint_id, waiting.pop(0))
        while waiting:
            del waiting[: Side(manager).offer(endpoint_id, waiting)]
            if waiting:
                await Side(manager).wait_for_room(endpoint_id, len(waiting[0]))
                count = Side(manager).offer(endpoint_id, waiting)
                assert count >= 1
                del waiting[:count]

    async def consume(source: bytes | None, bounded: bool) -> None:
        async def receive() -> None:
            got.append(await (manager.receive_from(source) if source else manager.receive_any()))

        await (asyncio.wait_for(receive(), 30) if bounded else receive())

    producing = [
        asyncio.create_task(produce(endpoint_id, producer, how))
        for producer, (endpoint_id, how) in enumerate(producers)
    ]
    consuming: list[asyncio.Task[None]] = []
    for source, bounded, pause in consumers:
        consuming.append(asyncio.create_task(consume(source, bounded)))
        await turns(pause % 3)
        if pause > 3:
            consuming[pause % len(consuming)].cancel()
    for task in consuming:
        task.cancel()
    await asyncio.gather(*consuming, return_exceptions=True)
    while not all(task.done() for task in producing):
        got += await drain(manager)
        await turns(1)
    await asyncio.gather(*producing)
    got += await drain(manager)
    for producer, (endpoint_id, _) in enumerate(producers):
        numbers = [
            data for data, source in got if source == endpoint_id and data[:1] == b"%d" % producer
        ]
        assert numbers == [b"%d:%03d" % (producer, number) for number in range(10)]
    assert len(got) == 10 * len(producers)


@given(plans)
@settings(max_examples=150, deadline=None)
async def test_tasks_that_fill_empty_and_cancel_lose_and_reorder_nothing(
    plan: tuple[list[tuple[bytes, str]], list[tuple[bytes | None, bool, int]]],
) -> None:
    await check_with_tasks(*plan)
