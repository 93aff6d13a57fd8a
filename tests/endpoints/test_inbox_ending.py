"""What ends a wait for a message: removal, retirement, closing, and the end of a loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from helpers.clock import run_virtual
from helpers.inboxes import X, Y, Z, drain, manager_with, nothing_for, start, turns
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTEndpointError, STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


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
