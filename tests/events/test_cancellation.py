"""What cancellation, exits and timeouts do to an emit and its handlers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.events import (
    Handler,
    Hanging,
    Recorder,
    add_crowd,
    at_rest,
    only_this_task,
    returning,
    turns,
)
from seigr_toolset_transmissions.events import EventEmitter


async def test_cancelling_the_emit_cancels_and_awaits_its_handlers(
    crowd: int, no_log: None
) -> None:
    events = EventEmitter()
    hanging = [Hanging() for _ in range(1 + crowd)]
    for handler in hanging:
        events.register("x", handler)
    emit = asyncio.create_task(events.emit("x"))
    for handler in hanging:
        await handler.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert all(handler.ended for handler in hanging)
    assert only_this_task()
    assert at_rest(events)


@pytest.mark.parametrize("passed", [0, 1])
async def test_an_emit_cancelled_while_it_starts_its_handlers_leaves_nothing(passed: int) -> None:
    events = EventEmitter()
    recorders = add_crowd(events, "x", 3)
    emit = asyncio.create_task(events.emit("x"))
    await turns(passed)
    if not emit.done():  # eager handlers have ended by now
        emit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await emit
        assert passed or not any(r.calls for r in recorders)
    assert only_this_task()
    assert at_rest(events)


async def test_cancelling_again_still_awaits_the_handlers() -> None:
    events, gate, ended = EventEmitter(), asyncio.Event(), []
    started = asyncio.Event()

    async def stubborn() -> None:
        started.set()
        for _ in range(3):
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        ended.append(True)

    hanging = Hanging()
    events.register("x", stubborn)
    events.register("x", hanging)
    emit = asyncio.create_task(events.emit("x"))
    await hanging.started.wait()
    for _ in range(3):
        assert not emit.done()
        emit.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert ended
    assert hanging.ended
    assert only_this_task()


@pytest.mark.parametrize("behind", [0, 1], ids=["first", "behind another that waits"])
async def test_a_handler_that_answers_cancellation_with_a_failure_does_not_stop_it(
    behind: int, crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events, started, errors = EventEmitter(), asyncio.Event(), Recorder()

    async def handler() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("while cleaning up")

    for _ in range(behind):
        events.register("x", Hanging())
    events.register("x", handler)
    add_crowd(events, "x", crowd)
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert not errors.calls
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_cancelled_emit_raises_the_cancellation_whatever_its_first_handler_does() -> None:
    events, started, hanging = EventEmitter(), asyncio.Event(), Hanging()

    async def swallows() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()

    events.register("x", swallows)
    events.register("x", hanging)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    await hanging.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert hanging.ended


async def test_a_failure_after_a_swallowed_cancellation_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, started, errors = EventEmitter(), asyncio.Event(), Recorder()

    async def swallows_and_fails() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        raise ValueError("afterwards")

    events.register("x", swallows_and_fails)
    events.register("x", Recorder())
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert not errors.calls
    assert len(caplog.records) == 1


async def test_a_pending_cancellation_takes_effect_when_a_handler_waits(
    crowd: int, no_log: None
) -> None:
    events, hanging = EventEmitter(), [Hanging() for _ in range(1 + crowd)]
    for handler in hanging:
        events.register("x", handler)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # it becomes so where it waits next
        await events.emit("x")

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()
    assert all(handler.ended is handler.started.is_set() for handler in hanging)
    assert only_this_task()


def test_a_failure_is_reported_even_during_another_handlers_timeout() -> None:
    """That timeout cancels the caller's task for one turn of the loop."""
    events, errors, gate = EventEmitter(), Recorder(), asyncio.Event()
    failure = ValueError("at the same moment")

    async def late() -> None:
        async with asyncio.timeout(1):
            await asyncio.get_running_loop().create_future()

    async def failing() -> None:
        await gate.wait()
        raise failure

    async def main() -> None:
        events.register("x", late)
        events.register("x", failing)
        events.register("error", errors)
        asyncio.get_running_loop().call_at(1, gate.set)  # both are due at once, this one first
        results = await events.emit("x")
        assert isinstance(results[0], TimeoutError)
        assert results[1] is failure
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(main())
    reported = [kwargs["details"]["exception"] for _, kwargs in errors.calls]
    assert failure in reported
    assert len(reported) == 2


async def test_a_timeout_around_an_emit_works(crowd: int) -> None:
    events, hanging = EventEmitter(), Hanging()
    events.register("x", hanging)
    add_crowd(events, "x", crowd)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await events.emit("x")
    assert hanging.ended
    assert asyncio.current_task() is not None
    assert only_this_task()


async def test_a_timeout_within_a_handler_is_its_failure(crowd: int) -> None:
    events = EventEmitter()

    async def handler() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.get_running_loop().create_future()

    events.register("x", handler)
    add_crowd(events, "x", crowd)
    assert isinstance((await events.emit("x"))[0], TimeoutError)


async def test_a_handlers_own_cancelled_error_is_its_failure(crowd: int) -> None:
    events, errors = EventEmitter(), Recorder()

    async def handler() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    events.register("x", handler)
    others = add_crowd(events, "x", crowd)
    events.register("error", errors)
    results = await events.emit("x")
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(other.calls for other in others)
    assert len(errors.calls) == 1


async def test_a_task_that_was_cancelled_before_may_still_emit(crowd: int) -> None:
    """As cleanup does; handlers' failures remain their own."""
    events = EventEmitter()
    outcome: list[Any] = []

    async def failing() -> None:
        raise ValueError

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def late() -> None:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()

    events.register("x", failing)
    events.register("y", late)
    add_crowd(events, "x", crowd)
    if crowd:
        events.register("x", cancelled)

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            outcome.extend(await events.emit("x"))
            outcome.extend(await events.emit("y"))

    task = asyncio.create_task(work())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(outcome[0], ValueError)
    assert isinstance(outcome.pop(), TimeoutError)
    assert len(outcome) == (crowd + 2 if crowd else 1)
    assert not crowd or isinstance(outcome[-1], asyncio.CancelledError)


async def test_a_handler_task_cancelled_by_others_is_that_handlers_failure() -> None:
    events, errors, started, gate = EventEmitter(), Recorder(), asyncio.Event(), asyncio.Event()
    own: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        own.append(asyncio.current_task())
        started.set()
        await asyncio.get_running_loop().create_future()

    events.register("x", gate.wait)  # it keeps the caller's task
    events.register("x", handler)
    events.register("x", returning(2))
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    assert own[0] is not None
    own[0].cancel()
    await turns()
    gate.set()
    results = await emit
    assert results[0] is True
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 2
    assert len(errors.calls) == 1


async def test_handler_tasks_cancelled_by_others_at_once_do_not_hang_the_emit() -> None:
    events, errors, gate = EventEmitter(), Recorder(), asyncio.Event()
    running = asyncio.all_tasks()

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    events.register("x", gate.wait)
    events.register("x", hang)
    events.register("x", hang)
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    while not (others := asyncio.all_tasks() - running - {emit}):
        await turns(1)  # they have not started now
    assert len(others) == 2
    for task in others:
        task.cancel()
    gate.set()
    results = await emit
    assert [type(result) for result in results[1:]] == [asyncio.CancelledError] * 2
    assert len(errors.calls) == 2
    assert only_this_task()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [False, True])
async def test_an_exit_passes_through_after_the_siblings_were_cleaned_up(
    fatal: type[BaseException], suspends: bool, crowd: int, no_log: None
) -> None:
    events = EventEmitter()
    before, after = Hanging(), Hanging()

    async def exits() -> None:
        if suspends:
            await turns(2)
        raise fatal

    if crowd:
        events.register("x", before)
    events.register("x", exits)
    if crowd:
        events.register("x", after)
    with pytest.raises(fatal):
        await events.emit("x")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert before.ended is (crowd > 0)
    assert after.ended is after.started.is_set()
    assert only_this_task()
    assert at_rest(events)


async def test_an_exit_of_an_error_handler_passes_through_the_emit_that_failed(crowd: int) -> None:
    events = EventEmitter()

    async def failing() -> None:
        raise ValueError

    async def exits(**kwargs: Any) -> None:
        raise SystemExit

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    events.register("error", exits)
    with pytest.raises(SystemExit):
        await events.emit("x")
    assert at_rest(events)
    assert only_this_task()


async def test_after_an_exit_no_handler_is_called(no_log: None) -> None:
    events = EventEmitter()

    async def exits() -> None:
        raise SystemExit

    before = add_crowd(events, "x", 1)
    events.register("x", exits)
    after = add_crowd(events, "x", 2)
    with pytest.raises(SystemExit):
        await events.emit("x")
    assert all(handler.calls for handler in before)
    assert not any(handler.calls for handler in after)
    assert at_rest(events)


async def test_an_emit_that_is_closed_closes_the_handler_that_waits(crowd: int) -> None:
    events, closed = EventEmitter(), []

    async def handler() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except GeneratorExit:
            closed.append(True)
            raise

    add_crowd(events, "x", crowd)
    events.register("x", handler)
    emit = events.emit("x")
    emit.send(None)
    emit.close()
    assert closed == [True]
    assert at_rest(events)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_an_emit_whose_loop_was_closed_is_closed_without_an_error() -> None:
    events = EventEmitter()

    @events.on("x")
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    @events.on_any
    async def watch(*_: object) -> None:
        pass

    emit = events.emit("x")

    async def begin() -> None:
        emit.send(None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    emit.close()


async def test_an_exit_passes_through_even_if_the_first_handler_has_ended(no_log: None) -> None:
    events, before, after = EventEmitter(), Hanging(), Hanging()

    async def exits() -> None:
        await turns(5)
        raise KeyboardInterrupt

    for handler in (functools.partial(turns, 1), before, exits, after):
        events.register("x", handler)
    with pytest.raises(KeyboardInterrupt):
        await events.emit("x")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert before.ended
    assert after.ended
    assert only_this_task()


async def test_a_cancellation_does_not_replace_an_exit() -> None:
    events, ending, gate, ended = EventEmitter(), asyncio.Event(), asyncio.Event(), []

    async def exits() -> None:
        await turns(3)
        raise SystemExit

    async def ends_late() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ending.set()
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            ended.append(True)

    async def emit() -> type[BaseException] | None:
        try:
            await events.emit("x")
        except BaseException as exc:  # noqa: BLE001 - an exit would end the loop
            return type(exc)
        return None

    events.register("x", exits)
    events.register("x", ends_late)
    emitting = asyncio.create_task(emit())
    await ending.wait()
    emitting.cancel()
    await turns()
    assert not emitting.done()
    gate.set()
    assert await emitting is SystemExit
    assert ended


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, ValueError, asyncio.CancelledError])),
        min_size=1,
        max_size=5,
    ),
    st.one_of(st.none(), st.integers(0, 6)),
)
def test_all_that_was_started_has_ended_whatever_handlers_do_and_whenever_it_is_cancelled(
    plan: list[tuple[int, type[BaseException] | None]], cancel_at: int | None
) -> None:
    async def main() -> None:
        events, errors = EventEmitter(), Recorder()
        started: list[int] = []
        ended: list[int] = []

        async def handler(index: int, waits: int, error: type[BaseException] | None) -> int:
            started.append(index)
            try:
                await turns(waits)
                if error is not None:
                    raise error
            finally:
                ended.append(index)
            return index

        for index, (waits, error) in enumerate(plan):
            events.register("x", functools.partial(handler, index, waits, error))
        events.register("error", errors)
        emit = asyncio.create_task(events.emit("x"))
        cancelled = False
        if cancel_at is not None:
            await turns(cancel_at)
            cancelled = emit.cancel()
        await asyncio.wait([emit])
        assert emit.cancelled() is cancelled
        assert started == list(range(len(started)))
        assert sorted(ended) == started
        assert at_rest(events)
        assert only_this_task()
        if not cancelled:
            expected = [error or index for index, (_, error) in enumerate(plan)]
            assert [r if isinstance(r, int) else type(r) for r in emit.result()] == expected
            assert len(errors.calls) == sum(error is not None for _, error in plan)

    logging.disable()
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)


def test_a_loop_that_ends_during_an_emit_reports_no_error(no_log: None) -> None:
    events, started = EventEmitter(), asyncio.Event()
    ended = 0

    async def hang() -> None:
        nonlocal ended
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended += 1

    for _ in range(3):
        events.register("x", hang)

    async def main() -> None:
        emit = asyncio.create_task(events.emit("x"))
        await started.wait()
        assert not emit.done()

    asyncio.run(main())  # cancels all tasks, in no known order
    assert ended == 3
    assert at_rest(events)


# Time-outs that cancel the task in which they were begun, and never take that back


async def foreign_timeout(seconds: float = 0.001) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise TimeoutError  # noqa: B904 - as those libraries do


async def foreign_move_on() -> None:
    with contextlib.suppress(TimeoutError):
        await foreign_timeout()


class OwnTimeoutError(Exception):
    pass


async def foreign_timeout_with_an_error_of_its_own() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.001, task.cancel)
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise OwnTimeoutError  # noqa: B904


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("foreign", [foreign_timeout, foreign_move_on])
async def test_a_handlers_foreign_timeout_ends_nothing_but_the_handler(
    foreign: Handler, others: int
) -> None:
    events, gate = EventEmitter(), asyncio.Event()
    events.register("x", foreign)
    for _ in range(others):
        events.register("x", gate.wait)
    asyncio.get_running_loop().call_later(0.01, gate.set)
    for _ in range(3):
        first, *rest = await events.emit("x")
        assert isinstance(first, TimeoutError) is (foreign is foreign_timeout)
        assert rest == [True] * others
    await asyncio.sleep(0.002)
    assert only_this_task()


async def test_a_foreign_timeout_among_several_is_taken_back_whatever_it_raises() -> None:
    events, errors = EventEmitter(), Recorder()
    events.register("x", foreign_timeout_with_an_error_of_its_own)
    events.register("x", foreign_timeout)
    events.register("error", errors)
    results = await events.emit("x")
    assert [type(result) for result in results] == [OwnTimeoutError, TimeoutError]
    assert len(errors.calls) == 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_during_a_handlers_own_timeout_ends_the_emit(crowd: int) -> None:
    events, hanging = EventEmitter(), Hanging()

    async def patient() -> None:
        async with asyncio.timeout(0.001):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
        await hanging()

    events.register("x", patient)
    add_crowd(events, "x", crowd)
    emit = asyncio.create_task(events.emit("x"))
    await hanging.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert hanging.ended


# Cycles of references


@pytest.mark.parametrize("waits", [True, False], ids=["in its handlers", "in its clean-up"])
async def test_a_cancelled_emit_leaves_no_cycle_of_references(waits: bool, crowd: int) -> None:
    async def handler() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if not waits:
                raise ValueError

    events = EventEmitter()
    for _ in range(1 + crowd):
        events.register("x", handler)

    async def cancelled() -> None:
        emit = asyncio.create_task(events.emit("x"))
        await turns()
        emit.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await emit

    logging.disable()
    await cancelled()
    gc.collect()
    gc.disable()
    try:
        await cancelled()
        await turns()
        assert gc.collect() == 0
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
