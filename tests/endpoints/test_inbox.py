"""What ends a wait for a message: removal, retirement, closing, and the end of a loop."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from helpers.inboxes import X, Y, Z, drain, manager_with, nothing_for, start, turns
from helpers.lines import counting_lines
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTTimeoutError

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
